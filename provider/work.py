"""Threads for what async callers ask of the engine in this process. Only what computes runs on them, never a wait."""

import threading
from collections.abc import Callable
from typing import TypeVar

from basemlx.engine.work_pool import WorkPool

T = TypeVar("T")

NUM_THREADS = 4
"""Validating, rendering and tokenising take milliseconds."""

NUM_GRAMMAR_THREADS = 2
"""Some grammars take seconds to be refused."""


class Work:
    def __init__(self) -> None:
        self._pool = WorkPool(NUM_THREADS, "local")
        self._grammar_pool = WorkPool(NUM_GRAMMAR_THREADS, "local-grammar")

    async def run(
        self,
        work: Callable[[], T],
        discard: Callable[[T], object] | None = None,
        *,
        brings_grammar: bool = False,
        cancelled: threading.Event | None = None,
    ) -> T:
        """As WorkPool's."""
        pool = self._grammar_pool if brings_grammar else self._pool
        return await pool.run(work, discard=discard, cancelled=cancelled)

    def close(self) -> None:
        self._pool.close()
        self._grammar_pool.close()
