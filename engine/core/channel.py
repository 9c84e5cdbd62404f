"""The way of items from one thread to whoever waits for them, a thread or an event loop, and what both iterate over.

One producer, one consumer. What is not taken waits; the producer bounds it. Knows nothing of what the items are.
"""

import asyncio
import threading
from abc import abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Channel(Generic[T]):
    """Items and an end, which may be an error."""

    def __init__(self) -> None:
        self.ended = False
        self._items: deque[T] = deque()
        self._error: BaseException | None = None
        self._condition = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiter: asyncio.Future[None] | None = None

    def push(self, item: T) -> None:
        with self._condition:
            self._items.append(item)
            self._wake()

    def end(self, error: BaseException | None = None) -> None:
        """No more items will come. Later calls change nothing."""
        with self._condition:
            if not self.ended:
                self.ended, self._error = True, error
                self._wake()

    def take(self) -> T | None:
        """The next item, waiting for it; None at the end. Raises the error that was the end, once."""
        with self._condition:
            while not self._items and not self.ended:
                self._condition.wait()
            return self._next()

    async def atake(self) -> T | None:
        """`take` for an event loop."""
        while True:
            with self._condition:
                if self._items or self.ended:
                    return self._next()
                self._loop = asyncio.get_running_loop()
                self._waiter = waiter = self._loop.create_future()
            await waiter

    def _next(self) -> T | None:
        if self._items:
            return self._items.popleft()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return None

    def _wake(self) -> None:
        self._condition.notify_all()
        if self._loop is not None and self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            try:
                self._loop.call_soon_threadsafe(_resolve, waiter)
            except RuntimeError:  # the loop is closed: nobody waits there any more
                self._loop = None


class ChannelStream(Iterator[T], AsyncIterator[T]):
    """The consumer's end, which the producer never holds: leaving it (`abort`, its `with`, losing the last reference, a
    wait that is cancelled) gives up what it stands for. Iterate once, from one thread or from one event loop."""

    def __init__(self, channel: Channel[T]) -> None:
        self._channel = channel

    @abstractmethod
    def abort(self) -> None:
        """Gives it up. Safe at any time, from any thread, more than once."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        try:
            item = self._channel.take()
        except BaseException:
            self.abort()
            raise
        if item is None:
            raise StopIteration
        return item

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            item = await self._channel.atake()
        except BaseException:  # cancellation too
            self.abort()
            raise
        if item is None:
            raise StopAsyncIteration
        return item

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.abort()

    def __del__(self) -> None:
        self.abort()


def _resolve(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
