"""What the server needs of the layers below, as protocols: engine/openai/service.py and engine/engine.py fit them."""

import threading
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future
from typing import Any, Protocol

from basemlx.engine.models.keeper import ModelLease
from basemlx.engine.models.purpose import Purpose
from basemlx.engine.openai.chat_request import ChatRequest
from basemlx.engine.openai.completion_request import CompletionRequest
from basemlx.engine.openai.embeddings import EmbeddingsTurn
from basemlx.engine.openai.embeddings_request import EmbeddingsRequest
from basemlx.engine.status import EngineStats, Health


class Turn(Protocol):
    """One accepted request: its chunks as they go out, or their fold. Iteration raises BaseMLXError."""

    @property
    def stream(self) -> bool: ...
    @property
    def ignored(self) -> tuple[str, ...]: ...
    def __aiter__(self) -> AsyncIterator[dict[str, Any]]: ...
    async def aresponse(self) -> dict[str, Any]: ...
    def abort(self) -> None: ...


class Service(Protocol):
    """OpenAI requests, blocking (validation, rendering, tokenising). Raises BaseMLXError.

    `read_…` checks what can be checked without the model; what it returns names the model and is submitted after.
    Setting `cancelled` gives up what may take long meanwhile; with the model `held`, nothing waits for it again."""

    def read_chat(self, body: Mapping[str, Any]) -> ChatRequest: ...
    def read_completion(self, body: Mapping[str, Any]) -> CompletionRequest: ...
    def read_embeddings(self, body: Mapping[str, Any]) -> EmbeddingsRequest: ...
    def read_tokenize(self, body: Mapping[str, Any]) -> ChatRequest | CompletionRequest: ...
    def chat(
        self,
        asked: ChatRequest,
        *,
        request_id: str | None = None,
        cancelled: threading.Event | None = None,
        held: ModelLease | None = None,
    ) -> Turn: ...
    def completion(
        self,
        asked: CompletionRequest,
        *,
        request_id: str | None = None,
        cancelled: threading.Event | None = None,
        held: ModelLease | None = None,
    ) -> Turn: ...
    def embeddings(
        self, asked: EmbeddingsRequest, *, request_id: str | None = None, held: ModelLease | None = None
    ) -> EmbeddingsTurn: ...
    def tokenize(
        self, asked: ChatRequest | CompletionRequest, *, held: ModelLease | None = None
    ) -> dict[str, Any]: ...
    def models(self) -> dict[str, Any]: ...
    def model(self, name: str) -> dict[str, Any]: ...


class Watched(Protocol):
    """The engine's outside: how it is and what it has done. Both answer at once."""

    def health(self) -> Health: ...
    def stats(self) -> EngineStats: ...


class ModelAdmin(Protocol):
    """Models in and out of memory. Nothing here waits for a load: futures do. Raises BaseMLXError."""

    def reserve(self, name: str, purpose: Purpose | None = None) -> "Future[ModelLease]": ...
    def begin_load(
        self, name: str, *, pinned: bool | None = None, idle_ttl_s: float | None = None
    ) -> "Future[ModelLease]": ...
    def begin_unload(self, name: str) -> "Future[bool]": ...
