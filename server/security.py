"""Who may come in, decided before anything is read or done: Host, Origin, API key, header size, framing.

Decisions use `scope["path"]` and the raw headers only, never a URL put together from them. Every path needs the key but
those of PUBLIC_PATHS; a path nobody knows needs it as well. Raises RequestForbidden, AuthenticationFailed,
HeadersTooLarge or InvalidRequest; knows no route.
"""

import hmac

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from basemlx.engine.errors import AuthenticationFailed, InvalidRequest, RequestForbidden
from basemlx.server.errors import HeadersTooLarge
from basemlx.server.hosts import HostRules
from basemlx.server.responses import Headers
from basemlx.server.settings import ServerSettings

PUBLIC_PATHS = frozenset({"/health"})

EXPOSED_HEADERS = b"x-request-id, x-basemlx-ignored, retry-after"
ALLOWED_HEADERS = (
    b"authorization, content-type, x-api-key, x-request-id, x-stainless-retry-count, x-stainless-timeout"
)
PREFLIGHT_AGE_S = 600


class Security:
    """`port` is the one really served, which is known only once the socket is bound."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, port: int) -> None:
        self._app = app
        self._settings = settings
        bound = (
            () if settings.is_loopback or settings.host in ("0.0.0.0", "::") else (_as_host(settings.host),)
        )
        self._hosts = HostRules(port, (*settings.allowed_hosts, *bound))
        self._origins = frozenset(origin.encode("ascii") for origin in settings.allowed_origins)
        self._keys = tuple(key.encode("ascii") for key in settings.api_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: Headers = scope["headers"]
        self._check_framing(headers)
        self._check_host(scope, headers)
        origin = self._checked_origin(scope, headers)
        if origin is None:
            self._check_key(scope, headers)
            await self._app(scope, receive, send)
            return
        send_with_cors = _with_cors(send, origin)
        if scope["method"] == "OPTIONS" and _first(headers, b"access-control-request-method") is not None:
            await _answer_preflight(send_with_cors, headers)
            return
        self._check_key(scope, headers)
        await self._app(scope, receive, send_with_cors)

    def _check_framing(self, headers: Headers) -> None:
        if sum(len(name) + len(value) for name, value in headers) > self._settings.max_header_bytes:
            raise HeadersTooLarge(f"Headers may have {self._settings.max_header_bytes} bytes in all.")
        names = [name for name, _ in headers]
        if b"transfer-encoding" in names and b"content-length" in names:
            raise InvalidRequest("A request cannot have both Transfer-Encoding and Content-Length.")

    def _check_host(self, scope: Scope, headers: Headers) -> None:
        hosts = [value for name, value in headers if name == b"host"]
        path = scope["path"]
        if len(hosts) == 1 and self._hosts.allows(hosts[0], scope["scheme"]) and path.startswith("/"):
            return
        raise RequestForbidden(
            "This server does not answer under that Host. Call it as 127.0.0.1 or localhost with its port, or allow "
            "the name with --allowed-host.",
            code="host_not_allowed",
        )

    def _checked_origin(self, scope: Scope, headers: Headers) -> bytes | None:
        """The allow-listed origin that the caller's page has; None without a page, or with one of our own."""
        origins = [value for name, value in headers if name == b"origin"]
        if not origins:
            if (_first(headers, b"sec-fetch-site") or b"").strip().lower() == b"cross-site":
                raise _foreign_page()
            return None
        if len(origins) == 1:
            own = scope["scheme"].encode("ascii") + b"://" + (_first(headers, b"host") or b"")
            if origins[0] in self._origins:
                return origins[0]
            if origins[0].lower() == own.lower():
                return None
        raise _foreign_page()

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        if not self._keys or scope["path"] in PUBLIC_PATHS:
            return
        presented = _presented_keys(headers)
        if not presented:
            raise AuthenticationFailed(
                "This server needs an API key: Authorization: Bearer KEY, or x-api-key: KEY."
            )
        matches = [hmac.compare_digest(given, key) for given in presented for key in self._keys]
        if not any(matches):
            raise AuthenticationFailed("The API key is not one of this server's.")


def _presented_keys(headers: Headers) -> list[bytes]:
    keys = [value for name, value in headers if name == b"x-api-key"]
    for name, value in headers:
        scheme, _, key = value.partition(b" ")
        if name == b"authorization" and scheme.lower() == b"bearer":
            keys.append(key.strip())
    return keys[:4]


def _first(headers: Headers, wanted: bytes) -> bytes | None:
    return next((value for name, value in headers if name == wanted), None)


def _as_host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _foreign_page() -> RequestForbidden:
    return RequestForbidden(
        "Web pages of other origins may not call this server. Allow one with --allowed-origin.",
        code="origin_not_allowed",
    )


def _with_cors(send: Send, origin: bytes) -> Send:
    async def send_with_cors(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message.get("headers", ()),
                (b"access-control-allow-origin", origin),
                (b"access-control-expose-headers", EXPOSED_HEADERS),
                (b"vary", b"Origin"),
            ]
        await send(message)

    return send_with_cors


async def _answer_preflight(send: Send, headers: Headers) -> None:
    answer: Headers = [
        (b"access-control-allow-methods", b"GET, POST"),
        (b"access-control-allow-headers", ALLOWED_HEADERS),
        (b"access-control-max-age", b"%d" % PREFLIGHT_AGE_S),
        (b"content-length", b"0"),
    ]
    if _first(headers, b"access-control-request-private-network") is not None:
        answer.append((b"access-control-allow-private-network", b"true"))
    await send({"type": "http.response.start", "status": 204, "headers": answer})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
