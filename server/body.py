"""Request bodies: how large, how slow and of which kind they may be, and what becomes of one that nobody read.

Sizes are counted on what is received, whatever Content-Length says. An answer that goes out before its request has been
read closes the connection, so that the rest cannot pass for another request; the rest is read and dropped for a moment
first, since closing on unread bytes would reset the connection under the answer. Knows no JSON.
"""

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from basemlx.engine.errors import QueueFull, RequestTooLarge, UnsupportedMediaType
from basemlx.server.errors import ClientLeft, RequestTimeout
from basemlx.server.responses import Headers
from basemlx.server.settings import ServerSettings

LINGER_S = 2.0
_CLOSE = (b"connection", b"close")


async def read_body(receive: Receive) -> bytes:
    """The whole body. Raises ClientLeft, and what the limits of BodyLimits raise."""
    chunks = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(chunks)


class UnreadBody:
    """Answers given early: connection closed, the rest of the body dropped. Belongs outside what answers errors."""

    def __init__(self, app: ASGIApp, linger_s: float = LINGER_S) -> None:
        self._app = app
        self._linger_s = linger_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _has_body(scope["headers"]):
            await self._app(scope, receive, send)
            return
        is_read = False

        async def tracked_receive() -> Message:
            nonlocal is_read
            message = await receive()
            is_read = is_read or message["type"] == "http.disconnect" or not message.get("more_body", False)
            return message

        async def closing_send(message: Message) -> None:
            if is_read:
                await send(message)
            elif message["type"] == "http.response.start":
                await send({**message, "headers": [*message.get("headers", ()), _CLOSE]})
            elif message.get("more_body", False):
                await send(message)
            else:
                await send({**message, "more_body": True})
                await self._drop_rest(tracked_receive, lambda: is_read)
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app(scope, tracked_receive, closing_send)

    async def _drop_rest(self, receive: Receive, is_read: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(self._linger_s):
                while not is_read():
                    await receive()
        except TimeoutError:
            pass


class BodyLimits:
    """Refuses what is not plain JSON (an empty body is of no kind), too large or too slow, and more bodies at once than
    memory should hold."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._settings = settings
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if _has_body(scope["headers"]):
            _check_kind(scope["headers"])
        self._check_announced(scope["headers"])
        size_bytes, is_read = 0, False
        deadline_s = asyncio.get_running_loop().time() + self._settings.body_timeout_s

        async def limited_receive() -> Message:
            nonlocal size_bytes, is_read
            if is_read:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline_s):
                    message = await receive()
            except TimeoutError:
                raise RequestTimeout(
                    f"The request body was not complete after {self._settings.body_timeout_s:g} s."
                ) from None
            size_bytes += len(message.get("body", b""))
            self._held_bytes += len(message.get("body", b""))
            is_read = not message.get("more_body", False)
            self._check_size(size_bytes)
            return message

        try:
            await self._app(scope, limited_receive, send)
        finally:
            self._held_bytes -= size_bytes

    def _check_announced(self, headers: Headers) -> None:
        for name, value in headers:
            if name == b"content-length" and value.isdigit():
                self._check_size(int(value[:20]))

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._settings.max_body_bytes:
            raise RequestTooLarge(f"A request body may have {self._settings.max_body_bytes} bytes.")
        if self._held_bytes > self._settings.max_held_body_bytes:
            raise QueueFull(
                "The bodies of all requests at this moment are too large together. Try again later."
            )


def _check_kind(headers: Headers) -> None:
    encoding = next((value for name, value in headers if name == b"content-encoding"), b"identity")
    if encoding.strip().lower() != b"identity":
        raise UnsupportedMediaType(
            "Compressed request bodies are not accepted. Send it without Content-Encoding."
        )
    kinds = [value for name, value in headers if name == b"content-type"]
    kind = kinds[0].partition(b";")[0].strip().lower() if len(kinds) == 1 else b""
    if kind != b"application/json":
        raise UnsupportedMediaType(
            "The request body must be JSON, with the header Content-Type: application/json (curl: --json, or -H)."
        )


def _has_body(headers: Headers) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0") != b"")
        for name, value in headers
    )
