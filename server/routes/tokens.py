"""/tokenize: what a chat's messages or a prompt are as tokens, and how many. Nothing is generated."""

from concurrent.futures import Future

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from basemlx.engine.models.keeper import ModelLease
from basemlx.engine.openai.chat_request import ChatRequest
from basemlx.engine.openai.completion_request import CompletionRequest
from basemlx.engine.openai.json_body import parse_json
from basemlx.server.body import read_body
from basemlx.server.disconnect import Watch
from basemlx.server.lifecycle import Lifecycle
from basemlx.server.pool import WorkPool
from basemlx.server.residence import abandon, held
from basemlx.server.responses import send_json
from basemlx.server.routes.endpoint import route
from basemlx.server.service import ModelAdmin, Service


def token_routes(
    service: Service, lifecycle: Lifecycle, pool: WorkPool, admin: ModelAdmin | None = None
) -> list[Route]:
    """With `admin`, a request waits here for its model; without, the service waits for it."""

    async def tokenize(scope: Scope, receive: Receive, send: Send) -> None:
        body = [await read_body(receive)]
        asked: list[ChatRequest | CompletionRequest] = []

        def check() -> Future[ModelLease] | None:
            asked.append(service.read_tokenize(parse_json(body.pop())))
            return None if admin is None else admin.reserve(asked[0].model, "generate")

        async with Watch(receive, lifecycle.watches) as watch:
            with watch.guard():
                async with held(await pool.run(check, discard=abandon)):
                    tokens = await pool.run(lambda: service.tokenize(asked.pop()))
            await send_json(send, 200, tokens)

    return [route("/tokenize", ["POST"], tokenize)]
