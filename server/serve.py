"""Binding, serving and stopping. Signals: the first drains, the second stops at once.

It knows uvicorn, not what the application answers.
"""

import asyncio
import errno
import os
import signal
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from basemlx.engine.errors import ShuttingDown
from basemlx.server.connection import guarded_protocol
from basemlx.server.lifecycle import Lifecycle
from basemlx.server.logs import server_logger
from basemlx.server.settings import ServerSettings, SettingsError

BACKLOG = 1024
LAST_FRAMES_S = 3
"""What answers that were ended get to send their last frame."""


def bind(settings: ServerSettings) -> socket.socket:
    """A listening socket. Clients that come before the server is ready wait. Raises SettingsError."""
    try:
        found = socket.getaddrinfo(
            settings.host,
            settings.port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV,
        )
    except OSError as error:
        raise SettingsError(f"--host {settings.host}: {error.strerror}.", option="--host") from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _bind_error(settings, error) from None
    listener.setblocking(False)
    return listener


def _bind_error(settings: ServerSettings, error: OSError) -> SettingsError:
    if error.errno == errno.EADDRINUSE:
        return SettingsError(
            f"Port {settings.port} of {settings.host} is in use, perhaps by another basemlx serve. "
            f"Stop that one, or choose another with --port (0 takes a free one).",
            option="--port",
        )
    if error.errno == errno.EACCES:
        return SettingsError(
            f"Port {settings.port} needs privileges. Choose one above 1023 with --port.", option="--port"
        )
    return SettingsError(
        f"Cannot listen on {settings.host}:{settings.port}: {error.strerror}.", option="--host"
    )


def url_of(settings: ServerSettings, listener: socket.socket) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{listener.getsockname()[1]}"


class Server(uvicorn.Server):
    """`run(sockets=[…])` returns when stopped. `was_forced`: a second signal came, and with which number."""

    def __init__(
        self,
        app: object,
        settings: ServerSettings,
        lifecycle: Lifecycle,
        *,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,  # type: ignore[arg-type]
                http=guarded_protocol(settings),
                loop="asyncio",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                h11_max_incomplete_event_size=settings.max_header_bytes,
                timeout_keep_alive=settings.keep_alive_s,  # type: ignore[arg-type]
                timeout_graceful_shutdown=LAST_FRAMES_S,
            )
        )
        self._settings = settings
        self._lifecycle = lifecycle
        self._on_ready = on_ready
        self._now = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.was_forced: int | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started and self._on_ready is not None:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drains with the socket open, so that newcomers get their 503; then ends what is left and closes."""
        watches = self._lifecycle.watches
        self._lifecycle.draining = True
        server_logger.info("draining: %d requests in progress", len(watches))
        self._close_quiet_connections()
        if not await self._drained():
            server_logger.warning("stopping with %d requests in progress", len(watches))
            watches.end_all(ShuttingDown("The server is shutting down; this answer is not complete."))
        await super().shutdown(sockets)

    def _close_quiet_connections(self) -> None:
        for connection in list(self.server_state.connections):
            if getattr(connection, "is_quiet", False):
                connection.shutdown()

    async def _drained(self) -> bool:
        idle = asyncio.ensure_future(self._lifecycle.watches.wait_idle())
        now = asyncio.ensure_future(self._now.wait())
        await asyncio.wait(
            {idle, now}, timeout=self._settings.drain_timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        is_drained = idle.done()
        idle.cancel()
        now.cancel()
        return is_drained

    def stop(self) -> None:
        """What the first signal does; from any thread."""
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """uvicorn's would raise the signal again at the end; a drained server has ended well."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handled = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            self.stop()
            return
        self.was_forced = sig
        self.force_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._now.set)


def exit_at_once(status: int) -> None:
    """Ends the process without waiting for the engine's thread, which may be stuck in a step."""
    os._exit(status)
