"""One HTTP connection, with the limits that uvicorn does not have: how long a request's head may take, how long a
reader may leave the socket full, how many connections there may be, and OpenAI's envelope for what is not HTTP.

When every connection is taken, the one that has been silent longest without a whole request makes room, so that idle or
half-sent ones cannot lock others out.
"""

import asyncio
import sys
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from basemlx.engine.errors import BaseMLXError, InvalidRequest
from basemlx.server.context import new_request_id
from basemlx.server.errors import HeadersTooLarge, RequestTimeout, TooManyConnections
from basemlx.server.responses import error_messages
from basemlx.server.settings import ServerSettings


class GuardedProtocol(H11Protocol):
    """Subclassed per server by `guarded_protocol`, since uvicorn makes the instances."""

    settings = ServerSettings()

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self.quiet_since_s = self.loop.time()

    # what asyncio calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        is_full = len(self.connections) >= self.settings.max_connections and not self._make_room()
        super().connection_made(transport)
        if is_full:
            self._refuse(TooManyConnections("All connections of this server are busy.", retry_after_s=1))
        else:
            self._start_head_timer()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self._start_head_timer()
        else:
            self._stop_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        self._start_write_timer()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._stop_write_timer()
        super().resume_writing()

    # what uvicorn calls

    def on_response_complete(self) -> None:
        self.quiet_since_s = self.loop.time()
        if self.transport.get_write_buffer_size():
            self._start_write_timer()  # whoever does not read the end of an answer may not keep the connection
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        error = sys.exc_info()[1]
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        if status == 431:
            self._refuse(HeadersTooLarge(f"Headers may have {self.settings.max_header_bytes} bytes in all."))
        else:
            self._refuse(InvalidRequest(msg))

    # limits

    @property
    def is_quiet(self) -> bool:
        """No request is being answered: waiting for a first or next one, or in the middle of its head."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def _make_room(self) -> bool:
        quiet = [item for item in self.connections if isinstance(item, GuardedProtocol) and item.is_quiet]
        if not quiet:
            return False
        oldest = min(quiet, key=lambda item: item.quiet_since_s)
        self.connections.discard(oldest)
        oldest.transport.abort()
        return True

    def _start_head_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.settings.header_timeout_s, self._head_timed_out)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_timed_out(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing() and self.is_quiet:
            self._refuse(RequestTimeout(f"No whole request came in {self.settings.header_timeout_s:g} s."))

    def _start_write_timer(self) -> None:
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.settings.write_timeout_s, self._write_timed_out)

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _write_timed_out(self) -> None:
        self._write_timer = None
        if self.flow.write_paused or (self.is_quiet and self.transport.get_write_buffer_size()):
            self.transport.abort()  # close() would wait for a reader who is not there

    def _refuse(self, error: BaseMLXError) -> None:
        """Answers outside the application, and closes."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            request_id = (b"x-request-id", new_request_id().encode("ascii"))
            start, body = error_messages(error, [request_id, (b"connection", b"close")])
            status = start["status"]
            events = (
                h11.Response(status_code=status, headers=start["headers"], reason=STATUS_PHRASES[status]),
                h11.Data(data=body["body"]),
                h11.EndOfMessage(),
            )
            for event in events:
                self.transport.write(self.conn.send(event) or b"")
        self._start_write_timer()
        self.transport.close()


def guarded_protocol(settings: ServerSettings) -> type[GuardedProtocol]:
    return type("GuardedProtocol", (GuardedProtocol,), {"settings": settings})
