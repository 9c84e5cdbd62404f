"""Embeddings as OpenAI answers them: validate, encode, submit; then vectors as lists of numbers or as base64.

`EmbeddingsTurn` is one accepted request. Its response is a dict for callers in this process; `encoded` is the same as
JSON, made a vector at a time, so that no other thread waits for a response of megabytes. Knows no HTTP.
"""

import asyncio
import base64
import uuid
from concurrent.futures import Future
from json import JSONEncoder
from typing import Any, Protocol

from basemlx.engine.embeddings.loader import LoadedEmbedder
from basemlx.engine.embeddings.types import EmbeddingRequest, EmbeddingResult, Vectors
from basemlx.engine.models.keeper import ModelLease
from basemlx.engine.openai.embeddings_request import EmbeddingsRequest
from basemlx.engine.openai.fields import shown_names

_encode_json = JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode


class EmbeddingEngine(Protocol):
    """The engine, as far as it is used here."""

    def embedder(self, model: str | ModelLease) -> LoadedEmbedder: ...
    def submit_embeddings(
        self, request: EmbeddingRequest, held: ModelLease | None = None
    ) -> "Future[EmbeddingResult]": ...


class EmbeddingsTurn:
    """One accepted request. `ignored` are the paths of fields that nobody knows."""

    def __init__(
        self,
        request_id: str,
        model: str,
        future: "Future[EmbeddingResult]",
        *,
        as_base64: bool,
        ignored: tuple[str, ...],
    ) -> None:
        self.request_id = request_id
        self.ignored = shown_names(ignored)
        self._model = model
        self._future = future
        self._as_base64 = as_base64

    def result(self) -> EmbeddingResult:
        """Waits. Raises BaseMLXError; whoever is interrupted gives the request up."""
        try:
            return self._future.result()
        except BaseException:
            self.abort()
            raise

    async def aresult(self) -> EmbeddingResult:
        """`result` for an event loop; cancelling it gives the request up."""
        return await asyncio.wrap_future(self._future)

    def abort(self) -> None:
        """Gives the request up; nothing happens to one that is answered."""
        self._future.cancel()

    def response(self) -> dict[str, Any]:
        return self.made_of(self.result())

    async def aresponse(self) -> dict[str, Any]:
        return self.made_of(await self.aresult())

    def made_of(self, result: EmbeddingResult) -> dict[str, Any]:
        """OpenAI's response."""
        return {
            "object": "list",
            "data": [self._entry(index, result.vectors) for index in range(len(result.vectors))],
            "model": self._model,
            "usage": {"prompt_tokens": result.prompt_tokens, "total_tokens": result.prompt_tokens},
            **({"basemlx": {"ignored": list(self.ignored)}} if self.ignored else {}),
        }

    def encoded(self, result: EmbeddingResult) -> bytes:
        """The response as JSON, equal to `made_of`."""
        parts = [_encode_json(self._entry(index, result.vectors)) for index in range(len(result.vectors))]
        rest = _encode_json(self.made_of(EmbeddingResult(result.vectors[:0], result.prompt_tokens)))
        head, tail = rest.split('"data":[]', 1)
        return "".join((head, '"data":[', ",".join(parts), "]", tail)).encode("ascii")

    def _entry(self, index: int, vectors: Vectors) -> dict[str, Any]:
        vector = vectors[index]
        shown: Any = vector.tolist()
        if self._as_base64:  # little-endian float32, as OpenAI's clients read it
            shown = base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
        return {"object": "embedding", "index": index, "embedding": shown}


def submit_embeddings(
    engine: EmbeddingEngine,
    request: EmbeddingsRequest,
    *,
    request_id: str | None = None,
    held: ModelLease | None = None,
) -> EmbeddingsTurn:
    """Encodes and submits. Blocks for that, and for loading the model where it has to be loaded first: not where the
    caller has `held` it."""
    loaded = engine.embedder(held or request.model)
    request_id = request_id or f"embd-{uuid.uuid4().hex}"
    prepared = loaded.prepare(
        request.inputs[0] if request.single else request.inputs,
        request_id=request_id,
        prompt_name=request.prompt_name,
        dimensions=request.dimensions,
        timeout_s=request.timeout_s,
    )
    future = engine.submit_embeddings(prepared, held)
    return EmbeddingsTurn(
        request_id, loaded.info.name, future, as_base64=request.base64, ignored=request.ignored
    )
