"""Server-sent events: headers at once, one event a chunk, comments during silence, an end that cannot be mistaken.

A stream that succeeds ends with `data: [DONE]`; one that fails with `data: {"error": …}` and without it. Slow readers
are the connection's business (connection.py), leaving ones the watch's. Knows no model and no route.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from starlette.types import Send

from basemlx.engine.errors import BaseMLXError
from basemlx.server.disconnect import Watch
from basemlx.server.errors import ClientLeft
from basemlx.server.logs import log_exception
from basemlx.server.responses import Headers, encode_json, internal_error

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
    """Sends chunks as events, and a comment whenever nothing was sent for `heartbeat_s`."""

    def __init__(self, send: Send, heartbeat_s: float) -> None:
        self._send = send
        self._heartbeat_s = heartbeat_s
        self._loop = asyncio.get_running_loop()
        self._sent_s = self._loop.time()
        self._sending = False

    async def run(
        self, chunks: AsyncIterator[dict[str, Any]], watch: Watch, headers: Headers, request_id: str
    ) -> None:
        """The whole answer. Raises ClientLeft if nobody waits for its end; other errors are sent."""
        await self._send({"type": "http.response.start", "status": 200, "headers": [*HEADERS, *headers]})
        heartbeat = asyncio.create_task(self._beat())
        try:
            with watch.guard():
                async for chunk in chunks:
                    self._sending = True
                    await self._send(
                        {"type": "http.response.body", "body": encode_event(chunk), "more_body": True}
                    )
                    self._sending = False
                    self._sent_s = self._loop.time()
            last = DONE
        except ClientLeft:
            raise
        except BaseMLXError as error:
            last = encode_event(error.envelope())
        except Exception as error:
            log_exception("a stream failed", request_id, error)
            last = encode_event(internal_error(request_id).envelope())
        finally:
            heartbeat.cancel()
        await self._send({"type": "http.response.body", "body": last, "more_body": False})

    async def _beat(self) -> None:
        """By the clock, whatever the engine does. A write in progress is no silence."""
        while True:
            silence_s = self._loop.time() - self._sent_s
            if silence_s >= self._heartbeat_s and not self._sending:
                await self._send({"type": "http.response.body", "body": COMMENT, "more_body": True})
                self._sent_s = self._loop.time()
                silence_s = 0.0
            await asyncio.sleep(
                self._heartbeat_s - silence_s if silence_s < self._heartbeat_s else self._heartbeat_s
            )
