"""One accepted request on its way out: chunks as they are made, for a thread or an event loop, or their fold.

A turn holds one stream of the engine, or one for each prompt of a completion; if one of them fails, all are given up.
Leaving a turn (`abort`, its `with`, dropping it) gives its requests up.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Protocol, Self

from basemlx.engine.errors import internal_errors
from basemlx.engine.openai.chunks import Chunk, ChunkMaker
from basemlx.engine.openai.fields import shown_names
from basemlx.engine.openai.fold import Fold
from basemlx.engine.types import OutputDelta, Timings, Usage


class DeltaStream(Protocol):
    """The engine's GenerationStream, as far as it is used here. Losing the last reference to it aborts it."""

    @property
    def usage(self) -> Usage: ...
    @property
    def timings(self) -> Timings | None: ...
    @property
    def prompt_progress(self) -> tuple[int, int]: ...
    def abort(self) -> None: ...
    def __next__(self) -> OutputDelta: ...
    async def __anext__(self) -> OutputDelta: ...


class Turn(Iterator[Chunk], AsyncIterator[Chunk]):
    """Iterate once, from one thread or one event loop; iteration raises BaseMLXError.

    `stream` is what the request asked for; both ways work whatever it says. Several prompts run at the same time, and
    their chunks come prompt by prompt. `cancelled` is set when the turn is left. `ignored` are the paths of fields that
    nobody knows, a few of them if there are many; the first chunk names them too, and so does the response.
    """

    def __init__(
        self,
        request_id: str,
        streams: Sequence[DeltaStream],
        maker: ChunkMaker,
        fold: Fold,
        *,
        stream: bool,
        ignored: tuple[str, ...] = (),
        cancelled: threading.Event | None = None,
    ) -> None:
        self.request_id = request_id
        self.stream = stream
        self.ignored = shown_names(ignored)
        self._untold = self.ignored
        self._streams = tuple(streams)
        self._maker = maker
        self._fold = fold
        self._ready: deque[Chunk] = deque()
        self._position = 0
        self._cancelled = cancelled or threading.Event()

    @property
    def timings(self) -> Timings | None:
        """Of the last prompt, once it has finished."""
        return self._streams[-1].timings

    @property
    def prompt_progress(self) -> tuple[int, int]:
        """Tokens of the current prompt that are computed, and all that it has; (0, 0) where that is not known."""
        stream = self._current()
        return (0, 0) if stream is None else stream.prompt_progress

    def abort(self) -> None:
        """Gives the request up. Safe at any time, from any thread, more than once."""
        self._cancelled.set()
        for stream in self._streams:
            stream.abort()

    def response(self) -> dict[str, Any]:
        """The whole response, with usage. Blocks until it is there."""
        self._maker.include_usage = True
        for chunk in self:
            self._fold.add(chunk)
        return self._fold.response()

    async def aresponse(self) -> dict[str, Any]:
        """`response` for an event loop."""
        self._maker.include_usage = True
        async for chunk in self:
            self._fold.add(chunk)
        return self._fold.response()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Chunk:
        while not self._ready:
            stream = self._current()
            if stream is None:
                raise StopIteration
            try:
                with internal_errors():
                    self._take(next(stream, None))
            except BaseException:
                self._give_up()
                raise
        return self._ready.popleft()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        while not self._ready:
            stream = self._current()
            if stream is None:
                raise StopAsyncIteration
            try:
                with internal_errors():
                    delta = await anext(stream, None)
                    if delta is not None and delta.finish_reason is not None and self._maker.blocks_at_end:
                        await asyncio.to_thread(self._take, delta)
                    else:
                        self._take(delta)
            except BaseException:  # cancellation too
                self._give_up()
                raise
        return self._ready.popleft()

    def _current(self) -> DeltaStream | None:
        return self._streams[self._position] if self._position < len(self._streams) else None

    def _take(self, delta: OutputDelta | None) -> None:
        """One delta of the current stream, or its end."""
        if delta is not None:
            chunks = self._maker.push(self._position, delta)
            if self._untold and chunks:
                told = {"ignored": list(self._untold), **chunks[0].get("basemlx", {})}
                chunks[0] = {**chunks[0], "basemlx": told}
                self._untold = ()
            self._ready.extend(chunks)
            return
        self._position += 1
        if self._position == len(self._streams):
            self._ready.extend(self._maker.finish([stream.usage for stream in self._streams]))

    def _give_up(self) -> None:
        self._position = len(self._streams)
        self.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.abort()
