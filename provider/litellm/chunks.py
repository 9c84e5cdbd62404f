"""OpenAI's chunks in the order that LiteLLM's stream wrapper understands.

It stops at the finish reason, and invents the usage if that has not come by then; it drops whatever else the last chunk
carries. So log-probabilities go with the text before, usage comes next to last and a bare finish reason last. Found by
comparing with LiteLLM's own `openai/` stream, which the result equals chunk for chunk.
"""

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from litellm.types.utils import ModelResponseStream

from basemlx.engine.errors import BaseMLXError
from basemlx.provider.backend import Chunk, ChunkStream
from basemlx.provider.litellm.errors import litellm_error


class ChunkOrder:
    """`push` every chunk of a stream with one choice, then `finish`. `model` is the name LiteLLM was called with."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._created_s: int | None = None
        self._usage: Chunk | None = None
        self._last: Chunk | None = None

    def push(self, chunk: Chunk) -> list[ModelResponseStream]:
        if self._created_s is None:
            self._created_s = int(time.time())  # what LiteLLM puts into the chunks that it makes itself
        chunk = {**chunk, "model": self._model, "created": self._created_s}
        usage = chunk.pop("usage", None)
        if usage is not None:
            self._usage = chunk | {"choices": [], "usage": usage}
        choices = [self._without_finish(chunk, choice) for choice in chunk["choices"]]
        if not any(choice["delta"] or choice.get("logprobs") for choice in choices):
            return []
        chunk["choices"] = choices
        return [ModelResponseStream(**chunk)]

    def _without_finish(self, chunk: Chunk, choice: dict[str, Any]) -> dict[str, Any]:
        reason = choice.get("finish_reason")
        if reason is None:
            return choice
        last = {"index": choice["index"], "delta": {}, "finish_reason": reason}
        self._last = chunk | {"choices": [last]}
        return choice | {"finish_reason": None}

    def finish(self) -> list[ModelResponseStream]:
        return [ModelResponseStream(**chunk) for chunk in (self._usage, self._last) if chunk is not None]


class LiteLLMStream(Iterator[ModelResponseStream], AsyncIterator[ModelResponseStream]):
    """A backend's stream for LiteLLM. Closing it, or losing it, gives the request up."""

    def __init__(self, stream: ChunkStream, model: str) -> None:
        self._stream = stream
        self._model = model
        self._order = ChunkOrder(model)
        self._ready: list[ModelResponseStream] = []
        self._ended = False

    def started(self) -> "LiteLLMStream":
        """Waits for the first chunk, so that what fails before it is raised by the call and not by the stream."""
        self._fill()
        return self

    def __iter__(self) -> "LiteLLMStream":
        return self

    def __next__(self) -> ModelResponseStream:
        self._fill()
        if not self._ready:
            raise StopIteration
        return self._ready.pop(0)

    def _fill(self) -> None:
        while not self._ready and not self._ended:
            try:
                chunk = next(self._stream, None)
            except BaseMLXError as error:
                raise litellm_error(error, self._model) from error
            self._take(chunk)

    def __aiter__(self) -> "LiteLLMStream":
        return self

    async def __anext__(self) -> ModelResponseStream:
        while not self._ready and not self._ended:
            try:
                chunk = await anext(self._stream, None)
            except BaseMLXError as error:
                raise litellm_error(error, self._model) from error
            self._take(chunk)
        if not self._ready:
            raise StopAsyncIteration
        return self._ready.pop(0)

    def _take(self, chunk: Chunk | None) -> None:
        self._ended = chunk is None
        self._ready += self._order.finish() if chunk is None else self._order.push(chunk)

    def close(self) -> None:
        self._stream.abort()

    async def aclose(self) -> None:
        self._stream.abort()

    def __del__(self) -> None:
        self._stream.abort()
