"""One thread with an event loop, on which all HTTP of the process runs, whoever asks: threads and any number of loops.

So connections are pooled for all callers together and can be closed at the end, which a caller's loop that is gone
could not do any more. A forked child gets a thread of its own. Knows no HTTP.
"""

import asyncio
import os
import threading
import weakref
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

JOIN_TIMEOUT_S = 5.0


class IoThread:
    """Starts with the first coroutine. `submit` may be called from any thread but its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_serve, args=(self._loop,), name="basemlx-http", daemon=True)
        self._thread.start()
        self._finalizer = weakref.finalize(self, _stop, self._loop, self._thread, os.getpid())

    @property
    def is_current(self) -> bool:
        """Whether the caller runs on it."""
        return threading.current_thread() is self._thread

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result; whatever interrupts the wait cancels the coroutine."""
        future = self.submit(coroutine)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def arun(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """`run` for another event loop."""
        return await asyncio.wrap_future(self.submit(coroutine))


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread, pid: int) -> None:
    if os.getpid() != pid:  # a forked child: the thread is its parent's
        return
    if not loop.is_closed():
        loop.call_soon_threadsafe(loop.stop)
        thread.join(JOIN_TIMEOUT_S)


_shared: IoThread | None = None
_lock = threading.Lock()


def io_thread() -> IoThread:
    """The process's own, started when it is first needed."""
    global _shared
    with _lock:
        if _shared is None:
            _shared = IoThread()
        return _shared


def _forget() -> None:
    """In a forked child: the parent's thread is not here, and its lock may have been held."""
    global _shared, _lock
    _abandoned.append(_shared)  # not collected: its sockets are the parent's
    _shared, _lock = None, threading.Lock()


_abandoned: list[IoThread | None] = []
os.register_at_fork(after_in_child=_forget)
