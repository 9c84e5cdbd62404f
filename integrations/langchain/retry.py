"""Asking again, where a caller wants that: after what may be otherwise a moment later, and never within an answer."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from basemlx.engine.errors import BaseMLXError, EngineDead

T = TypeVar("T")

_PASSING = (429, 502, 503)
FIRST_WAIT_S = 0.5
MAX_WAIT_S = 30.0


def retried(ask: Callable[[], T], max_retries: int) -> T:
    for attempt in range(max_retries):
        try:
            return ask()
        except BaseMLXError as error:
            if not _passes(error):
                raise
            time.sleep(_wait_s(error, attempt))
    return ask()


async def aretried(ask: Callable[[], Awaitable[T]], max_retries: int) -> T:
    for attempt in range(max_retries):
        try:
            return await ask()
        except BaseMLXError as error:
            if not _passes(error):
                raise
            wait_s = _wait_s(error, attempt)
        await asyncio.sleep(wait_s)
    return await ask()


def _passes(error: BaseMLXError) -> bool:
    return error.status in _PASSING and not isinstance(error, EngineDead)


def _wait_s(error: BaseMLXError, attempt: int) -> float:
    """As long as the engine says at least, twice as long each time, and not all at once."""
    least_s = max(FIRST_WAIT_S * 2.0**attempt, float(error.retry_after_s or 0))
    spread = random.uniform(1.0, 2.0)
    return min(least_s * spread, max(least_s, MAX_WAIT_S))
