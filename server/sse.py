"""Server-sent events: one event a chunk, comments during silence, an end that cannot be mistaken.

A stream that succeeds ends with `data: [DONE]`; one that fails with `data: {"error": …}` and without it. Slow readers
are the connection's business (connection.py), leaving ones the watch's. Knows no model and no route.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from starlette.types import Send

from basemlx.server.disconnect import Watch
from basemlx.server.errors import ClientLeft
from basemlx.server.faults import told
from basemlx.server.responses import Headers, encode_json

DONE = b"data: [DONE]\n\n"
COMMENT = b": keep-alive\n\n"
HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


def encode_event(content: Any) -> bytes:
    """One event. Its JSON is ASCII, so no byte of it can end a line."""
    return f"data: {encode_json(content)}\n\n".encode("ascii")


class EventStream:
    """Sends chunks as events, and a comment whenever nothing was sent for `heartbeat_s`.

    The answer starts with its first chunk or the first comment, whichever comes first: what fails before that is
    answered with its own status, and nobody waits for headers as long as for a long prompt.
    """

    def __init__(self, send: Send, heartbeat_s: float) -> None:
        self._send = send
        self._heartbeat_s = heartbeat_s
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()  # between chunks and comments
        self._started = False
        self._sent_s = self._loop.time()

    async def run(
        self, chunks: AsyncIterator[dict[str, Any]], watch: Watch, headers: Headers, request_id: str
    ) -> None:
        """The whole answer. Raises ClientLeft if nobody waits for its end, and what ends it before it has started;
        later errors are sent."""
        heartbeat = asyncio.create_task(self._beat(headers))
        try:
            with watch.guard():
                async for chunk in chunks:
                    await self._write(encode_event(chunk), headers)
            last = DONE
        except ClientLeft:
            raise
        except Exception as error:
            if not self._started:
                raise
            last = encode_event(told("a stream failed", error, request_id).envelope())
        finally:
            heartbeat.cancel()
        await self._write(last, headers, more=False)

    async def _write(self, data: bytes, headers: Headers, *, more: bool = True) -> None:
        async with self._lock:
            if not self._started:
                await self._send(
                    {"type": "http.response.start", "status": 200, "headers": [*HEADERS, *headers]}
                )
                self._started = True
            await self._send({"type": "http.response.body", "body": data, "more_body": more})
            self._sent_s = self._loop.time()

    async def _beat(self, headers: Headers) -> None:
        """By the clock, whatever the engine does. A write in progress is no silence."""
        while True:
            rest_s = self._sent_s + self._heartbeat_s - self._loop.time()
            if rest_s > 0 or self._lock.locked():
                await asyncio.sleep(rest_s if rest_s > 0 else self._heartbeat_s)
            else:
                await self._write(COMMENT, headers)
