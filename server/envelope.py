"""Turns whatever is raised below into OpenAI's error envelope. Knows the error tree, no route."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from basemlx.server.context import record_of
from basemlx.server.errors import ClientLeft
from basemlx.server.faults import told
from basemlx.server.responses import send_error


class ErrorEnvelope:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            await send(message)
            started = started or message["type"] == "http.response.start"

        try:
            await self._app(scope, receive, watched_send)
            return
        except ClientLeft:
            return  # nobody to answer; the access log says 499
        except Exception as error:
            answer = told("a request failed", error, record_of(scope).request_id)
            if started:
                raise  # the answer was broken off: the connection has to be closed
        if not started:
            await send_error(send, answer)
