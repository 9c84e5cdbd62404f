"""CORS headers for pages that were allowed by name, on every answer they get, errors too. Others get none.

It only says what a browser may read. Who may come in is decided in security.py.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from basemlx.server.responses import Headers
from basemlx.server.settings import ServerSettings

EXPOSED_HEADERS = b"x-request-id, x-basemlx-ignored, retry-after"
PREFLIGHT_AGE_S = 600


class Cors:
    """Belongs outside what answers errors: a page has to be able to read them."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._origins = frozenset(origin.encode("ascii") for origin in settings.allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origins = [value for name, value in scope.get("headers", ()) if name == b"origin"]
        if len(origins) != 1 or origins[0] not in self._origins:
            await self._app(scope, receive, send)
            return
        cors: Headers = [
            (b"access-control-allow-origin", origins[0]),
            (b"access-control-expose-headers", EXPOSED_HEADERS),
            (b"vary", b"Origin"),
        ]

        async def send_with_cors(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *cors]
            await send(message)

        await self._app(scope, receive, send_with_cors)


async def answer_preflight(send: Send, headers: Headers) -> None:
    """To a page that has been let in: it may send what it asks to send."""
    asked = dict(headers)
    answer: Headers = [
        (b"access-control-allow-methods", b"GET, POST"),
        (b"access-control-max-age", b"%d" % PREFLIGHT_AGE_S),
    ]
    wanted = asked.get(b"access-control-request-headers")
    if wanted is not None:
        answer.append((b"access-control-allow-headers", wanted))
    if b"access-control-request-private-network" in asked:
        answer.append((b"access-control-allow-private-network", b"true"))
    await send({"type": "http.response.start", "status": 204, "headers": answer})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
