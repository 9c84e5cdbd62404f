"""A few threads for work that would hold up an event loop: parsing, rendering, tokenising. Knows nothing of it."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class WorkPool:
    """Runs functions in order of arrival, from any event loop. How many may wait is the callers' business."""

    def __init__(self, num_threads: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(num_threads, thread_name_prefix=f"basemlx-{name}")

    async def run(
        self,
        function: Callable[[], T],
        *,
        discard: Callable[[T], object] | None = None,
        cancelled: threading.Event | None = None,
    ) -> T:
        """The result of `function()`. If the caller is cancelled meanwhile, the work is not started any more, or its
        result goes to `discard`, so that nothing it acquired is lost; `cancelled` is set, so that it can end early."""
        future = self._executor.submit(function)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if cancelled is not None:
                cancelled.set()
            if discard is not None and not future.cancel():
                future.add_done_callback(lambda done: _discard(done, discard))
            raise

    def close(self, *, gives_up_waiting: bool = False) -> None:
        """Takes nothing more. What has begun goes on, and what waits as well unless it is given up."""
        self._executor.shutdown(wait=False, cancel_futures=gives_up_waiting)


def _discard(future: "Future[T]", discard: Callable[[T], object]) -> None:
    if not future.cancelled() and future.exception() is None:
        discard(future.result())
