"""Waiting for a model without holding up anything: not the event loop, and none of the few threads of the work pool.

A lease that comes after its caller has gone is released; a wait that is given up does not stop the load for others.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

from basemlx.engine.deadline import Deadline
from basemlx.engine.errors import DeadlineExceeded, EngineUnavailable
from basemlx.engine.models.keeper import ModelLease, give_up
from basemlx.engine.openai.chat_request import ChatRequest
from basemlx.engine.openai.completion_request import CompletionRequest
from basemlx.engine.openai.embeddings_request import EmbeddingsRequest

LOAD_TIMEOUT_S = 600.0

Asked = TypeVar("Asked", ChatRequest, CompletionRequest, ChatRequest | CompletionRequest, EmbeddingsRequest)


@dataclass(frozen=True, slots=True)
class Waiting(Generic[Asked]):
    """A request that has been read, and the model that it waits for (None where the service waits for it). Its own
    deadline, if it sets one, runs from here on: waiting counts."""

    asked: Asked
    reservation: "Future[ModelLease] | None"
    deadline: Deadline | None

    @classmethod
    def of(cls, asked: Asked, reservation: "Future[ModelLease] | None") -> "Waiting[Asked]":
        timeout_s = asked.timeout_s
        return cls(asked, reservation, None if timeout_s is None else Deadline(timeout_s))

    def give_up(self) -> None:
        abandon(self.reservation)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[ModelLease | None]:
        """Its model, once it is loaded, for as long as this lasts. Raises what `held` does, and DeadlineExceeded."""
        try:
            async with self._limit(), held(self.reservation) as lease:
                yield lease
        except DeadlineExceeded:
            self.give_up()
            raise

    def _limit(self) -> AbstractAsyncContextManager[None]:
        return nullcontext() if self.deadline is None else self.deadline.around()

    def due(self) -> Asked:
        """The request, with what is left of its time. Raises DeadlineExceeded."""
        return self.asked if self.deadline is None else self.asked.within(self.deadline.remaining_s())


def abandon(reservation: "Future[ModelLease] | None") -> None:
    """For a reservation that nobody will wait for."""
    if reservation is not None:
        give_up(reservation)


@asynccontextmanager
async def held(reservation: "Future[ModelLease] | None") -> AsyncIterator[ModelLease | None]:
    """Keeps the model in memory for a while. Raises what loading it raised, EngineUnavailable if it takes too long."""
    if reservation is None:
        yield None
        return
    try:
        async with asyncio.timeout(LOAD_TIMEOUT_S) as limit:
            lease = await asyncio.wrap_future(reservation)
    except TimeoutError:
        abandon(reservation)
        if not limit.expired():
            raise
        raise EngineUnavailable(
            "The model is still being loaded. Try again later.", code="model_loading", retry_after_s=10
        ) from None
    except BaseException:
        abandon(reservation)
        raise
    with lease:
        yield lease
