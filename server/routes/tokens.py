"""/tokenize: what a chat's messages or a prompt are as tokens, and how many. Nothing is generated."""

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from basemlx.engine.openai.chat_request import ChatRequest
from basemlx.engine.openai.completion_request import CompletionRequest
from basemlx.engine.openai.json_body import parse_json
from basemlx.engine.work_pool import WorkPool
from basemlx.server.body import read_body
from basemlx.server.disconnect import Watch
from basemlx.server.lifecycle import Lifecycle
from basemlx.server.residence import Waiting
from basemlx.server.responses import send_json
from basemlx.server.routes.endpoint import route
from basemlx.server.service import ModelAdmin, Service


def token_routes(
    service: Service, lifecycle: Lifecycle, pool: WorkPool, admin: ModelAdmin | None = None
) -> list[Route]:
    """With `admin`, a request waits here for its model; without, the service waits for it."""

    async def tokenize(scope: Scope, receive: Receive, send: Send) -> None:
        body = [await read_body(receive)]

        def check() -> Waiting[ChatRequest | CompletionRequest]:
            asked = service.read_tokenize(parse_json(body.pop()))
            return Waiting.of(asked, None if admin is None else admin.reserve(asked.model, "generate"))

        async with Watch(receive, lifecycle.watches) as watch:
            with watch.guard():
                waiting = await pool.run(check, discard=Waiting.give_up)
                async with waiting.held() as lease:
                    tokens = await pool.run(lambda: service.tokenize(waiting.due(), held=lease))
            await send_json(send, 200, tokens)

    return [route("/tokenize", ["POST"], tokenize)]
