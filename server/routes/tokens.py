"""/tokenize: what a chat's messages or a prompt are as tokens, and how many. Nothing is generated."""

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from basemlx.engine.openai.json_body import parse_json
from basemlx.server.body import read_body
from basemlx.server.pool import WorkPool
from basemlx.server.responses import send_json
from basemlx.server.routes.endpoint import route
from basemlx.server.service import Service


def token_routes(service: Service, pool: WorkPool) -> list[Route]:
    async def tokenize(scope: Scope, receive: Receive, send: Send) -> None:
        body = [await read_body(receive)]
        await send_json(send, 200, await pool.run(lambda: service.tokenize(parse_json(body.pop()))))

    return [route("/tokenize", ["POST"], tokenize)]
