"""A path and what answers it, as Starlette takes it. The pattern labels metrics and the log."""

from collections.abc import Awaitable, Callable, Sequence

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from basemlx.server.context import record_of

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


class _Endpoint:
    """A class, not a function: Starlette calls it as plain ASGI."""

    def __init__(self, pattern: str, handler: Handler) -> None:
        self._pattern = pattern
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record_of(scope).route = self._pattern
        await self._handler(scope, receive, send)


def route(pattern: str, methods: Sequence[str], handler: Handler) -> Route:
    return Route(pattern, _Endpoint(pattern, handler), methods=list(methods))
