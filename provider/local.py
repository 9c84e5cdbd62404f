"""The engine in this process, as a Backend: made when it is first asked, shared by all who ask, closed at exit.

It wraps the same OpenAI layer as the server, so the two cannot answer differently. Models are loaded on demand, by the
server's names; a folder works here too (`./my-model`), as its name does not come from strangers. A request's deadline
holds from the call on, and who waits for a model holds up nobody else.

A process that was forked after the engine started cannot use it: its threads, and MLX's, stayed with the parent. Such a
process is refused with EngineUnavailable; it can start anew (spawn), or ask a server.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from basemlx.engine.config import EngineConfig
from basemlx.engine.deadline import Deadline
from basemlx.engine.errors import EngineUnavailable, internal_errors
from basemlx.engine.models.keeper import ModelLease, give_up
from basemlx.engine.models.names import is_path
from basemlx.engine.models.purpose import Purpose
from basemlx.engine.openai.chat_request import ChatRequest
from basemlx.engine.openai.completion_request import CompletionRequest
from basemlx.engine.openai.embeddings import EmbeddingsTurn
from basemlx.engine.openai.embeddings_request import EmbeddingsRequest
from basemlx.engine.openai.json_body import parse_json
from basemlx.engine.openai.turn import Turn
from basemlx.provider.backend import Body, Response
from basemlx.provider.body import encode_body, streamed, timeout_of
from basemlx.provider.work import Work

if TYPE_CHECKING:
    from basemlx.engine.engine import Engine
    from basemlx.engine.openai.service import OpenAIService

Asked = TypeVar("Asked", ChatRequest, CompletionRequest, EmbeddingsRequest, ChatRequest | CompletionRequest)
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class _Kind(Generic[Asked, Made]):
    """What is asked for: how a body of it is read, submitted once its model is there (setting the event ends what takes
    long of that; the lease is on the model), and given up."""

    purpose: Purpose
    read: "Callable[[OpenAIService, Mapping[str, Any]], Asked]"
    submit: "Callable[[OpenAIService, Asked, threading.Event, ModelLease], Made]"
    discard: Callable[[Made], object]


_CHAT: _Kind[ChatRequest, Turn] = _Kind(
    "generate",
    lambda service, body: service.read_chat(body),
    lambda service, it, cancelled, held: service.chat(it, cancelled=cancelled, held=held),
    Turn.abort,
)
_COMPLETION: _Kind[CompletionRequest, Turn] = _Kind(
    "generate",
    lambda service, body: service.read_completion(body),
    lambda service, it, cancelled, held: service.completion(it, cancelled=cancelled, held=held),
    Turn.abort,
)
_EMBEDDINGS: _Kind[EmbeddingsRequest, EmbeddingsTurn] = _Kind(
    "embed",
    lambda service, body: service.read_embeddings(body),
    lambda service, it, cancelled, held: service.embeddings(it, held=held),
    EmbeddingsTurn.abort,
)
_TOKENS: _Kind[ChatRequest | CompletionRequest, Response] = _Kind(
    "generate",
    lambda service, body: service.read_tokenize(body),
    lambda service, it, cancelled, held: service.tokenize(it, held=held),
    lambda tokens: None,
)


@dataclass(frozen=True, slots=True)
class _Reading(Generic[Asked]):
    """A body that has been read, and the model that it waits for."""

    asked: Asked
    reservation: "Future[ModelLease]"


class LocalBackend:
    """`engine` is one to use and not to close; without it one is made, with `config`, for the first request."""

    def __init__(self, *, engine: "Engine | None" = None, config: EngineConfig | None = None) -> None:
        self._given = engine
        self._config = config
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._service: OpenAIService | None = None
        self._work = Work()

    @property
    def engine(self) -> "Engine":
        """The engine, made now if there is none yet."""
        self._started()
        assert self._engine is not None
        return self._engine

    def _started(self) -> "OpenAIService":
        if self._service is not None and self._pid == os.getpid():
            return self._service
        self._refuse_in_child()
        with self._lock:
            if self._service is None:
                from basemlx.engine.engine import Engine
                from basemlx.engine.openai.service import OpenAIService

                self._engine = self._given or Engine(self._config)
                self._service = OpenAIService(self._engine)
            return self._service

    def _refuse_in_child(self) -> None:
        if self._pid == os.getpid():
            return
        if self._engine is None and self._given is None:  # nothing had started: the child may have its own
            self._pid, self._lock = os.getpid(), threading.Lock()
            self._work = Work()
            return
        raise EngineUnavailable(
            "This process was forked after its parent had started an engine, and cannot use that. Start processes with "
            "multiprocessing's spawn method, or run `basemlx serve` and set BASEMLX_API_BASE."
        )

    # whole answers

    def chat(self, body: Body) -> Response:
        return self._admit(_CHAT, streamed(body, False)).response()

    def completion(self, body: Body) -> Response:
        return self._admit(_COMPLETION, streamed(body, False)).response()

    def embeddings(self, body: Body) -> Response:
        turn = self._admit(_EMBEDDINGS, body)
        with internal_errors():
            return turn.response()

    def models(self) -> Response:
        with internal_errors():
            return self._started().models()

    def tokenize(self, body: Body) -> Response:
        return self._admit(_TOKENS, streamed(body, False))

    async def achat(self, body: Body) -> Response:
        return await (await self._aadmit(_CHAT, streamed(body, False))).aresponse()

    async def acompletion(self, body: Body) -> Response:
        return await (await self._aadmit(_COMPLETION, streamed(body, False))).aresponse()

    async def aembeddings(self, body: Body) -> Response:
        turn = await self._aadmit(_EMBEDDINGS, body)
        with internal_errors():
            result = await turn.aresult()
            return await self._work.run(lambda: turn.made_of(result))  # megabytes of numbers

    async def amodels(self) -> Response:
        self._refuse_in_child()
        return await self._work.run(self.models)

    async def atokenize(self, body: Body) -> Response:
        return await self._aadmit(_TOKENS, streamed(body, False))

    # streams: a turn of the engine's OpenAI layer is a ChunkStream as it is

    def chat_stream(self, body: Body) -> Turn:
        return self._admit(_CHAT, streamed(body, True))

    def completion_stream(self, body: Body) -> Turn:
        return self._admit(_COMPLETION, streamed(body, True))

    async def achat_stream(self, body: Body) -> Turn:
        return await self._aadmit(_CHAT, streamed(body, True))

    async def acompletion_stream(self, body: Body) -> Turn:
        return await self._aadmit(_COMPLETION, streamed(body, True))

    # from a body to what the engine makes of it

    @internal_errors()
    def _admit(self, kind: _Kind[Asked, Made], body: Body) -> Made:
        deadline = self._deadline_of(body)
        reading = self._read(kind, body)
        asked, cancelled = reading.asked, threading.Event()
        limit = deadline.setting(cancelled) if _brings_grammar(asked) else nullcontext()
        with deadline.wait(reading.reservation, give_up) as lease, limit:
            return kind.submit(self._started(), asked.within(deadline.remaining_s()), cancelled, lease)

    async def _aadmit(self, kind: _Kind[Asked, Made], body: Body) -> Made:
        self._refuse_in_child()
        deadline = self._deadline_of(body)
        with internal_errors():
            async with deadline.around():
                return await self._aadmitted(kind, body, deadline)

    async def _aadmitted(self, kind: _Kind[Asked, Made], body: Body, deadline: Deadline) -> Made:
        reading = await self._work.run(
            lambda: self._read(kind, body), lambda unread: give_up(unread.reservation)
        )
        asked, cancelled = reading.asked, threading.Event()
        async with _held(reading.reservation) as lease:
            return await self._work.run(
                lambda: kind.submit(self._started(), asked.within(deadline.remaining_s()), cancelled, lease),
                kind.discard,
                brings_grammar=_brings_grammar(asked),
                cancelled=cancelled,
            )

    def _deadline_of(self, body: Body) -> Deadline:
        config = self._given.config if self._given is not None else self._config or EngineConfig()
        return Deadline(timeout_of(body) or config.request_timeout_s)

    def _read(self, kind: _Kind[Asked, Made], body: Body) -> _Reading[Asked]:
        """The body as it would have come over HTTP; a folder in place of a model's name becomes that folder's name."""
        service = self._started()
        parsed = parse_json(encode_body(body))
        name = parsed.get("model")
        if not isinstance(name, str) or not is_path(name):
            asked = kind.read(service, parsed)
            return _Reading(asked, self.engine.reserve(asked.model, kind.purpose))
        found = self.engine.in_folder(Path(name).expanduser())
        asked = kind.read(service, parsed | {"model": found.name})
        return _Reading(asked, self.engine.reserve_folder(found, kind.purpose))

    def close(self) -> None:
        """Ends its threads, and the engine if it is this backend's own. The next request makes others."""
        if self._pid != os.getpid():
            return
        with self._lock:
            engine, self._engine, self._service = self._engine, None, None
            work, self._work = self._work, Work()
        work.close()
        if engine is not None and engine is not self._given:
            engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@asynccontextmanager
async def _held(reservation: "Future[ModelLease]") -> AsyncIterator[ModelLease]:
    try:
        lease = await asyncio.wrap_future(reservation)
    except BaseException:
        give_up(reservation)
        raise
    with lease:
        yield lease


def _brings_grammar(asked: ChatRequest | CompletionRequest | EmbeddingsRequest) -> bool:
    return not isinstance(asked, EmbeddingsRequest) and asked.brings_grammar
