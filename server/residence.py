"""Waiting for a model without holding up anything: not the event loop, and none of the few threads of the work pool.

A lease that comes after its caller has gone is released; a wait that is given up does not stop the load for others.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager

from basemlx.engine.errors import EngineUnavailable
from basemlx.engine.models.keeper import ModelLease, give_up

LOAD_TIMEOUT_S = 600.0


def abandon(reservation: "Future[ModelLease] | None") -> None:
    """For a reservation that nobody will wait for."""
    if reservation is not None:
        give_up(reservation)


@asynccontextmanager
async def held(reservation: "Future[ModelLease] | None") -> AsyncIterator[None]:
    """Keeps the model in memory for a while. Raises what loading it raised, EngineUnavailable if it takes too long."""
    if reservation is None:
        yield
        return
    try:
        async with asyncio.timeout(LOAD_TIMEOUT_S):
            lease = await asyncio.wrap_future(reservation)
    except TimeoutError:
        abandon(reservation)
        raise EngineUnavailable(
            "The model is still being loaded. Try again later.", code="model_loading", retry_after_s=10
        ) from None
    except BaseException:
        abandon(reservation)
        raise
    with lease:
        yield
