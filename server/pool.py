"""A few threads for work that would hold up the event loop: parsing, rendering, tokenising. Knows nothing of it."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class WorkPool:
    """Runs functions in order of arrival. What waits is bounded by the number of connections."""

    def __init__(self, num_threads: int) -> None:
        self._executor = ThreadPoolExecutor(num_threads, thread_name_prefix="basemlx-work")

    async def run(
        self,
        function: Callable[[], T],
        *,
        discard: Callable[[T], None] | None = None,
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

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)


def _discard(future: "Future[T]", discard: Callable[[T], None]) -> None:
    if not future.cancelled() and future.exception() is None:
        discard(future.result())
