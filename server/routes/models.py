"""/v1/models and /v1/models/{id}. An id may hold a slash: it is looked up, never joined to a path."""

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from basemlx.server.pool import WorkPool
from basemlx.server.responses import send_json
from basemlx.server.routes.endpoint import route
from basemlx.server.service import Service


def model_routes(service: Service, pool: WorkPool) -> list[Route]:
    async def models(scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, 200, await pool.run(service.models))

    async def model(scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path_params"]["name"]
        await send_json(send, 200, await pool.run(lambda: service.model(name)))

    return [route("/v1/models", ["GET"], models), route("/v1/models/{name:path}", ["GET"], model)]
