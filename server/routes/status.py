"""/, /health and /metrics. They answer at once whatever the engine does: nothing here waits for its thread."""

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from basemlx import __version__
from basemlx.server.lifecycle import Lifecycle
from basemlx.server.metrics import CONTENT_TYPE, Metrics
from basemlx.server.responses import send_json
from basemlx.server.routes.endpoint import route
from basemlx.server.service import Watched

ENDPOINTS = (
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /v1/embeddings",
    "POST /tokenize",
    "GET /v1/models",
    "GET /v1/models/{id}",
    "POST /v1/models/{id}/load",
    "POST /v1/models/{id}/unload",
    "GET /health",
    "GET /metrics",
)
RETRY_AFTER_S = 5


def status_routes(engine: Watched, lifecycle: Lifecycle, metrics: Metrics) -> list[Route]:
    async def about(scope: Scope, receive: Receive, send: Send) -> None:
        content = {
            "name": "basemlx",
            "version": __version__,
            "api": "OpenAI-compatible",
            "endpoints": ENDPOINTS,
        }
        await send_json(send, 200, content)

    async def health(scope: Scope, receive: Receive, send: Send) -> None:
        state = engine.health()
        reason = "shutting down" if lifecycle.draining else state.reason
        is_ok = state.ok and not lifecycle.draining
        content = {
            "status": "ok" if is_ok else "unavailable",
            "reason": reason,
            "running": state.running,
            "waiting": state.waiting,
            "heartbeat_age_s": round(state.heartbeat_age_s, 3),
        }
        headers = [] if is_ok else [(b"retry-after", b"%d" % RETRY_AFTER_S)]
        await send_json(send, 200 if is_ok else 503, content, headers)

    async def scrape(scope: Scope, receive: Receive, send: Send) -> None:
        body = metrics.render()
        headers = [(b"content-type", CONTENT_TYPE), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return [route("/", ["GET"], about), route("/health", ["GET"], health), route("/metrics", ["GET"], scrape)]
