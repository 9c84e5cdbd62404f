"""How long a request may take, from when it is asked: waiting for threads and for models counts as well."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from basemlx.engine.errors import DeadlineExceeded, RequestAborted

T = TypeVar("T")


class Deadline:
    """Starts to run when it is made."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._started_s = time.monotonic()

    def remaining_s(self) -> float:
        """Raises DeadlineExceeded when there is nothing left."""
        remaining_s = self._started_s + self.timeout_s - time.monotonic()
        if remaining_s <= 0:
            raise self._exceeded()
        return remaining_s

    def wait(self, future: "Future[T]", give_up: Callable[["Future[T]"], object]) -> T:
        """The future's result; whatever ends the wait for it sooner, `give_up` hears of it."""
        try:
            return future.result(self.remaining_s())
        except TimeoutError:
            give_up(future)
            raise self._exceeded() from None
        except BaseException:
            give_up(future)
            raise

    @asynccontextmanager
    async def around(self) -> AsyncIterator[None]:
        """Cancels what it surrounds when the time has passed, and raises DeadlineExceeded then."""
        limit = asyncio.timeout(self.remaining_s())
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise self._exceeded() from None

    @contextmanager
    def setting(self, cancelled: threading.Event) -> Iterator[None]:
        """`around` for a thread: sets `cancelled` when the time has passed, and raises DeadlineExceeded if what it
        surrounds gives up then."""
        timer = threading.Timer(self.remaining_s(), cancelled.set)
        timer.daemon = True
        timer.start()
        try:
            yield
        except RequestAborted:
            self.remaining_s()
            raise
        finally:
            timer.cancel()

    def _exceeded(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"The request's deadline of {self.timeout_s:g} s passed before it could be started: its model may still "
            "be loading, or its grammar being compiled."
        )
