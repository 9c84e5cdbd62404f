"""The ASGI application: layers and routes put together. The order of the layers is the order in which they decide.

RequestContext      id, access log, HTTP metrics
CloseWhileDraining  Connection: close once the server is stopping
UnreadBody          answers given before the body was read
Cors                what pages of allowed origins may read
ErrorEnvelope       whatever is raised below, as OpenAI's JSON
Security            Host, Origin, API key
Admission           503 while draining
BodyLimits          kind, size and pace of the body
routes
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from basemlx.engine.errors import BaseMLXError
from basemlx.engine.work_pool import WorkPool
from basemlx.server.body import BodyLimits, UnreadBody
from basemlx.server.context import RequestContext
from basemlx.server.cors import Cors
from basemlx.server.envelope import ErrorEnvelope
from basemlx.server.errors import MethodNotAllowed, RouteNotFound
from basemlx.server.lifecycle import Admission, CloseWhileDraining, Lifecycle
from basemlx.server.metrics import Metrics
from basemlx.server.responses import encode_json
from basemlx.server.routes.embeddings import embedding_routes
from basemlx.server.routes.generation import generation_routes
from basemlx.server.routes.models import model_routes
from basemlx.server.routes.status import status_routes
from basemlx.server.routes.tokens import token_routes
from basemlx.server.security import Security
from basemlx.server.service import ModelAdmin, Service, Watched
from basemlx.server.settings import ServerSettings
from basemlx.server.watchdog import end_answers_when_stuck


def create_app(
    service: Service,
    settings: ServerSettings,
    *,
    engine: Watched,
    admin: ModelAdmin | None = None,
    metrics: Metrics | None = None,
    lifecycle: Lifecycle | None = None,
    port: int | None = None,
) -> Starlette:
    """The application over `service`. `engine` is what `/health` and `/metrics` look at; `admin` loads and
    unloads models (None: the service loads them where it must, and there is no API for it); `metrics` is what the
    engine's observer writes to; `port` the port really bound, where `settings.port` is 0. Call it where the event loop
    will run or before: it starts nothing but idle threads."""
    metrics = metrics or Metrics()
    metrics.watch(engine)
    lifecycle = lifecycle or Lifecycle()
    pool = WorkPool(settings.worker_threads, "work")
    grammar_pool = WorkPool(settings.grammar_threads, "work-grammar")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        watchdog = asyncio.create_task(end_answers_when_stuck(engine, lifecycle.watches))
        yield
        watchdog.cancel()
        pool.close(gives_up_waiting=True)
        grammar_pool.close(gives_up_waiting=True)

    app = Starlette(
        routes=[
            *generation_routes(service, settings, lifecycle, pool, grammar_pool, admin),
            *embedding_routes(service, lifecycle, pool, admin),
            *model_routes(service, pool, lifecycle, admin),
            *token_routes(service, lifecycle, pool, admin),
            *status_routes(engine, lifecycle, metrics),
        ],
        middleware=[
            Middleware(RequestContext, metrics),
            Middleware(CloseWhileDraining, lifecycle),
            Middleware(UnreadBody),
            Middleware(Cors, settings),
            Middleware(ErrorEnvelope),
            Middleware(Security, settings, settings.port if port is None else port),
            Middleware(Admission, lifecycle),
            Middleware(BodyLimits, settings),
        ],
        exception_handlers={HTTPException: _routing_error},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a redirect would be put together from what the client calls us
    return app


async def _routing_error(request: Request, error: Exception) -> Response:
    """What Starlette's router raises: no such path, or not with that method."""
    assert isinstance(error, HTTPException)
    answer: BaseMLXError
    if error.status_code == 405:
        answer = MethodNotAllowed(f"{request.scope['method'][:16]} is not allowed here.")
    else:
        answer = RouteNotFound("There is nothing under this path. GET / lists what there is.")
    return Response(
        encode_json(answer.envelope()), answer.status, headers=error.headers, media_type="application/json"
    )
