"""Threads for what async callers ask of the engine in this process. Only what computes runs on them, never a wait."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

NUM_THREADS = 4
"""Validating, rendering and tokenising take milliseconds."""

NUM_GRAMMAR_THREADS = 2
"""Some grammars take seconds to be refused."""


class Work:
    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="basemlx-local")
        self._grammar_threads = ThreadPoolExecutor(
            NUM_GRAMMAR_THREADS, thread_name_prefix="basemlx-local-grammar"
        )

    async def run(
        self,
        work: Callable[[], T],
        discard: Callable[[T], object] | None = None,
        *,
        brings_grammar: bool = False,
        cancelled: threading.Event | None = None,
    ) -> T:
        """`work()` off the loop. If the caller is cancelled meanwhile, `cancelled` is set, so that it can end early,
        and a result goes to `discard`."""
        future = (self._grammar_threads if brings_grammar else self._threads).submit(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if cancelled is not None:
                cancelled.set()
            if discard is not None and not future.cancel():
                future.add_done_callback(lambda done: _discard(done, discard))
            raise

    def close(self) -> None:
        self._threads.shutdown(wait=False)
        self._grammar_threads.shutdown(wait=False)


def _discard(future: "Future[T]", discard: Callable[[T], object]) -> None:
    if not future.cancelled() and future.exception() is None:
        discard(future.result())
