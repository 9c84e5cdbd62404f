"""The outermost layer: gives each request an id, logs one line for it, counts it.

The id is the client's `x-request-id` where that is harmless, else a new one, and is on every response. It knows status
and time of an answer, not what is in it.
"""

import re
import secrets
import time
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from basemlx.server.logs import access_logger
from basemlx.server.metrics import Metrics

REQUEST_ID = re.compile(rb"[A-Za-z0-9_-]{1,64}")
PATH_CHARACTERS_SHOWN = 200
CLIENT_LEFT_STATUS = 499

_KEY = "basemlx.request"


@dataclass(slots=True)
class RequestRecord:
    """What is known of one request. `route` is the path's pattern, or "unknown": it labels metrics."""

    request_id: str
    route: str = "unknown"
    status: int | None = None
    started_s: float = field(default_factory=time.monotonic)


def record_of(scope: Scope) -> RequestRecord:
    record = scope[_KEY]
    assert isinstance(record, RequestRecord)
    return record


def new_request_id() -> str:
    return f"req_{secrets.token_hex(12)}"


class RequestContext:
    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = scope[_KEY] = RequestRecord(_request_id(scope))
        header = (b"x-request-id", record.request_id.encode("ascii"))

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        with self._metrics.http_in_flight.track_inprogress():
            try:
                await self._app(scope, receive, send_with_id)
            finally:
                self._finish(scope, record)

    def _finish(self, scope: Scope, record: RequestRecord) -> None:
        elapsed_s = time.monotonic() - record.started_s
        status = record.status if record.status is not None else CLIENT_LEFT_STATUS
        self._metrics.observe_http(record.route, scope["method"], status, elapsed_s)
        if access_logger.isEnabledFor(20):
            client = scope.get("client") or ("-",)
            path = scope.get("raw_path", b"-").decode("ascii", "replace")[:PATH_CHARACTERS_SHOWN]
            access_logger.info(
                "http id=%s client=%s method=%s path=%s status=%d elapsed_ms=%.1f",
                record.request_id,
                client[0],
                scope["method"][:16],
                path,
                status,
                elapsed_s * 1e3,
            )


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            return bytes(value).decode("ascii")
    return new_request_id()
