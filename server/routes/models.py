"""/v1/models, /v1/models/{id}, and what brings a model into memory and out of it.

An id may hold a slash: it is looked up, never joined to a path. `load` takes models that are on this machine; it
downloads nothing. Where the server has an API key, these need it like every other path.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from basemlx.engine.errors import InvalidRequest, ModelInUse
from basemlx.engine.openai.json_body import parse_json
from basemlx.engine.work_pool import WorkPool
from basemlx.server.body import read_body
from basemlx.server.disconnect import Watch
from basemlx.server.lifecycle import Lifecycle
from basemlx.server.residence import abandon, held
from basemlx.server.responses import send_json
from basemlx.server.routes.endpoint import route
from basemlx.server.service import ModelAdmin, Service

UNLOAD_TIMEOUT_S = 30.0
MAX_NAMES_SHOWN, MAX_NAME_CHARACTERS = 8, 64


def model_routes(
    service: Service, pool: WorkPool, lifecycle: Lifecycle, admin: ModelAdmin | None = None
) -> list[Route]:
    async def models(scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, 200, await pool.run(service.models))

    async def model(scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path_params"]["name"]
        await send_json(send, 200, await pool.run(lambda: service.model(name)))

    routes = [route("/v1/models", ["GET"], models)]
    if admin is not None:
        routes += _admin_routes(service, pool, lifecycle, admin)
    return [*routes, route("/v1/models/{name:path}", ["GET"], model)]


def _admin_routes(service: Service, pool: WorkPool, lifecycle: Lifecycle, admin: ModelAdmin) -> list[Route]:
    async def load(scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path_params"]["name"]
        pinned, idle_ttl_s = _stay(_fields(await read_body(receive), ("pin", "idle_ttl_s")))
        async with Watch(receive, lifecycle.watches) as watch:
            with watch.guard():
                reservation = await pool.run(
                    lambda: admin.begin_load(name, pinned=pinned, idle_ttl_s=idle_ttl_s), discard=abandon
                )
                async with held(reservation):
                    pass
                entry = await pool.run(lambda: service.model(name))
            await send_json(send, 200, entry)

    async def unload(scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path_params"]["name"]
        _fields(await read_body(receive), ())
        async with Watch(receive, lifecycle.watches) as watch:
            with watch.guard():
                entry = await pool.run(lambda: service.model(name))
                gone = admin.begin_unload(entry["id"])
                try:
                    async with asyncio.timeout(UNLOAD_TIMEOUT_S):
                        await asyncio.wrap_future(gone)
                except TimeoutError:
                    raise ModelInUse(
                        f"The model {entry['id']} is in use and stays. Try again later.", retry_after_s=5
                    ) from None
                entry = await pool.run(lambda: service.model(name))
            await send_json(send, 200, entry)

    return [
        route("/v1/models/{name:path}/load", ["POST"], load),
        route("/v1/models/{name:path}/unload", ["POST"], unload),
    ]


def _fields(body: bytes, known: Sequence[str]) -> dict[str, Any]:
    """What the body says; an empty one says nothing. Raises InvalidRequest for fields that are not known here: `pinned`
    for `pin` would have a model leave that was to stay."""
    fields = parse_json(body) if body.strip() else {}
    unknown = [name for name in fields if name not in known]
    if unknown:
        shown = ", ".join(repr(name[:MAX_NAME_CHARACTERS]) for name in unknown[:MAX_NAMES_SHOWN])
        rest = f" and {len(unknown) - MAX_NAMES_SHOWN} more" if len(unknown) > MAX_NAMES_SHOWN else ""
        raise InvalidRequest(
            f"Not known here: {shown}{rest}. What may be said: {', '.join(known) or 'nothing'}.",
            param=unknown[0][:MAX_NAME_CHARACTERS],
        )
    return fields


def _stay(body: Mapping[str, Any]) -> tuple[bool | None, float | None]:
    """`pin` and `idle_ttl_s` of a body, both optional."""
    pin, idle_ttl_s = body.get("pin"), body.get("idle_ttl_s")
    if "pin" in body and not isinstance(pin, bool):
        raise InvalidRequest("pin must be true or false; left out, a pin stays as it is.", param="pin")
    if idle_ttl_s is not None and (
        isinstance(idle_ttl_s, bool)
        or not isinstance(idle_ttl_s, int | float)
        or not (math.isfinite(idle_ttl_s) and idle_ttl_s > 0)
    ):
        raise InvalidRequest("idle_ttl_s must be a positive number of seconds, or null.", param="idle_ttl_s")
    return pin, idle_ttl_s
