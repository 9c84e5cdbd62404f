"""What may end an answer from outside: the client leaves, or the server has to stop. Works for every kind of answer.

A Watch notes the reason and cancels the request's own task wherever it waits, which costs nothing per token. Inside
`guard` that cancellation becomes the reason, as an exception. Everything here runs on the event loop.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from starlette.types import Receive

from basemlx.server.errors import ClientLeft


class Watches:
    """Every answer in progress, so that the server can wait for them and end them."""

    def __init__(self) -> None:
        self._open: set[Watch] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, watch: "Watch") -> None:
        self._open.add(watch)
        self._idle.clear()

    def remove(self, watch: "Watch") -> None:
        self._open.discard(watch)
        if not self._open:
            self._idle.set()

    async def wait_idle(self) -> None:
        await self._idle.wait()

    def end_all(self, reason: Exception) -> None:
        for watch in list(self._open):
            watch.end(reason)


class Watch:
    """One answer. `async with` it once the request's body has been read: from then on `receive` is the watch's."""

    def __init__(self, receive: Receive, watches: Watches) -> None:
        self._receive = receive
        self._watches = watches
        self._reason: Exception | None = None
        self._guarded: asyncio.Task[object] | None = None
        self._listener: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._watches.add(self)
        self._listener = asyncio.create_task(self._listen())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watches.remove(self)
        if self._listener is not None:
            self._listener.cancel()

    def end(self, reason: Exception) -> None:
        """Ends what is guarded with `reason`. The first reason counts."""
        if self._reason is None:
            self._reason = reason
            if self._guarded is not None:
                self._guarded.cancel()

    @contextmanager
    def guard(self) -> Iterator[None]:
        """What runs in here raises the reason instead of being cancelled by it."""
        self._raise_reason()
        task = self._guarded = asyncio.current_task()
        try:
            yield
        except asyncio.CancelledError:
            if self._reason is not None and task is not None:
                task.uncancel()
                self._raise_reason()
            raise
        finally:
            self._guarded = None

    def _raise_reason(self) -> None:
        if self._reason is not None:
            raise self._reason

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.end(ClientLeft())
