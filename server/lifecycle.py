"""From serving to stopped: once draining, new requests are refused while running ones go on.

Health and metrics stay open, so that whoever watches can see what happens.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from basemlx.engine.errors import ShuttingDown
from basemlx.server.disconnect import Watches

OPEN_WHILE_DRAINING = frozenset({"/health", "/metrics"})
RETRY_AFTER_S = 5


class Lifecycle:
    """One a server. `watches` are the answers in progress."""

    def __init__(self) -> None:
        self.watches = Watches()
        self.draining = False


class Admission:
    """Refuses new requests while draining, and closes every connection that is answered from then on."""

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._lifecycle.draining and scope["path"] not in OPEN_WHILE_DRAINING:
            raise ShuttingDown(
                "The server is shutting down and takes no new requests.", retry_after_s=RETRY_AFTER_S
            )
        await self._app(scope, receive, send)


class CloseWhileDraining:
    """`Connection: close` on every answer that starts while draining. Belongs outside what answers errors."""

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def closing_send(message: Message) -> None:
            if message["type"] == "http.response.start" and self._lifecycle.draining:
                headers = [item for item in message.get("headers", ()) if item[0] != b"connection"]
                message["headers"] = [*headers, (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, closing_send)
