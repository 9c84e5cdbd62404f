"""Who may come in, decided before anything is read or done: Host, Origin, API key, header size, framing.

Decisions use `scope["path"]` and the raw headers only, never a URL put together from them. Every path needs the key but
those of PUBLIC_PATHS; a path nobody knows needs it as well. Raises RequestForbidden, AuthenticationFailed,
HeadersTooLarge or InvalidRequest; knows no route.
"""

import hmac

from starlette.types import ASGIApp, Receive, Scope, Send

from basemlx.engine.errors import AuthenticationFailed, InvalidRequest, RequestForbidden
from basemlx.server.cors import answer_preflight
from basemlx.server.errors import HeadersTooLarge
from basemlx.server.hosts import HostRules, is_address
from basemlx.server.responses import Headers
from basemlx.server.settings import ServerSettings

PUBLIC_PATHS = frozenset({"/health"})
_PREFLIGHT = b"access-control-request-method"


class Security:
    """`port` is the one really served, which is known only once the socket is bound."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, port: int) -> None:
        self._app = app
        self._settings = settings
        bound_name = () if is_address(settings.host) else (settings.host,)
        self._hosts = HostRules(port, (*settings.allowed_hosts, *bound_name))
        self._origins = frozenset(origin.encode("ascii") for origin in settings.allowed_origins)
        self._keys = tuple(key.encode("ascii") for key in settings.api_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: Headers = scope["headers"]
        self._check_framing(headers)
        self._check_host(scope, headers)
        is_allowed_page = self._check_origin(scope, headers)
        if is_allowed_page and scope["method"] == "OPTIONS" and _first(headers, _PREFLIGHT) is not None:
            await answer_preflight(send, headers)  # browsers send it without a key
            return
        self._check_key(scope, headers)
        await self._app(scope, receive, send)

    def _check_framing(self, headers: Headers) -> None:
        if sum(len(name) + len(value) for name, value in headers) > self._settings.max_header_bytes:
            raise HeadersTooLarge(f"Headers may have {self._settings.max_header_bytes} bytes in all.")
        names = [name for name, _ in headers]
        if b"transfer-encoding" in names and b"content-length" in names:
            raise InvalidRequest("A request cannot have both Transfer-Encoding and Content-Length.")

    def _check_host(self, scope: Scope, headers: Headers) -> None:
        hosts = [value for name, value in headers if name == b"host"]
        reached = (scope.get("server") or ("",))[0]
        is_allowed = len(hosts) == 1 and self._hosts.allows(hosts[0], scope["scheme"], reached=reached)
        if is_allowed and scope["path"].startswith("/"):
            return
        raise RequestForbidden(
            "This server does not answer under that Host. Call it by its address or, on the same machine, as "
            "localhost, with its port; or allow the name with --allowed-host.",
            code="host_not_allowed",
        )

    def _check_origin(self, scope: Scope, headers: Headers) -> bool:
        """Whether the caller is a page of an allowed origin; False without a page, or with one of our own."""
        origins = [value for name, value in headers if name == b"origin"]
        if not origins and (_first(headers, b"sec-fetch-site") or b"").strip().lower() != b"cross-site":
            return False
        if len(origins) == 1:
            own = scope["scheme"].encode("ascii") + b"://" + (_first(headers, b"host") or b"")
            if origins[0] in self._origins:
                return True
            if origins[0].lower() == own.lower():
                return False
        raise RequestForbidden(
            "Web pages of other origins may not call this server. Allow one with --allowed-origin.",
            code="origin_not_allowed",
        )

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
