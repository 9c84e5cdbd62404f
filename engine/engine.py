"""The façade: load models, submit requests, watch and close. Thread-safe; nothing here computes.

Everything that touches MLX happens on the engine thread. `submit` checks a request, counts it in and returns at once;
its stream brings the rest. Which models are in memory the pool decides and its keeper carries out (engine.models):
every request holds a lease on its model, so that nothing is unloaded under it. It knows token ids, not text: the OpenAI
layer renders and parses.
"""

import asyncio
import gc
import logging
import math
import os
import secrets
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from basemlx.engine.config import EngineConfig
from basemlx.engine.core.report import FinishedRequest
from basemlx.engine.core.stream import GenerationStream, Mailbox
from basemlx.engine.core.thread import EngineThread, Steps
from basemlx.engine.core.worker import ModelWorker
from basemlx.engine.embeddings.desk import EmbeddingDesk
from basemlx.engine.embeddings.loader import (
    Input,
    LoadedEmbedder,
    PreparedEmbedder,
    embedder_steps,
    embeds,
    prepare_embedder,
)
from basemlx.engine.embeddings.types import EmbeddingRequest, EmbeddingResult
from basemlx.engine.embeddings.worker import EmbeddingWorker
from basemlx.engine.errors import (
    BaseMLXError,
    ContextLengthExceeded,
    EngineDead,
    GenerationFailed,
    InvalidRequest,
    ModelInUse,
    ModelNotFound,
    QueueFull,
    ShuttingDown,
)
from basemlx.engine.kv.choose import choose_rows
from basemlx.engine.memory import available_memory_bytes, default_max_memory_bytes, memory_use
from basemlx.engine.models.catalogue import aliases_of, repository_of
from basemlx.engine.models.discovery import Discovery, FoundModel, usable
from basemlx.engine.models.keeper import ModelKeeper, ModelLease
from basemlx.engine.models.loader import LoadedModel, PreparedModel, load_steps, prepare_load
from basemlx.engine.models.loading import LoadTask, Stage, read_ahead
from basemlx.engine.models.names import find_model
from basemlx.engine.models.needs import needed_bytes
from basemlx.engine.models.pool import State
from basemlx.engine.runtime import mlx_lm_module, mx
from basemlx.engine.types import GenerationRequest, ModelInfo, Timings, Usage

logger = logging.getLogger("basemlx.engine")

Progress = Callable[[str, float], None]
Observer = Callable[[FinishedRequest], None]

KV_SHARE = 0.5
"""Of the memory that all models' weights leave, what KV rows may take by default, in equal parts."""

PREFIX_SHARE = 0.1
PREFIX_CONTEXTS = 2
"""A prefix cache holds two full contexts by default; all of them together, a tenth of what models may take."""

ROOM_SHARE = 0.9
"""Of the memory that is available, what a load may count on."""


@dataclass(frozen=True, slots=True)
class Health:
    """Whether requests are served. `reason` says why not; `heartbeat_age_s` is 0 while there is nothing to do; `stuck`:
    a step takes longer than any should."""

    ok: bool
    reason: str | None
    heartbeat_age_s: float
    running: int
    waiting: int
    stuck: bool = False


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counts since the start, and what is held now. Bytes of MLX's own allocations."""

    running: int = 0
    waiting: int = 0
    models_loaded: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    finished: dict[str, int] = field(default_factory=dict)
    kv_bytes: int = 0
    prefix_cache_bytes: int = 0
    prefix_cache_entries: int = 0
    active_bytes: int = 0
    cache_bytes: int = 0
    peak_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a model's files are, and the adapter that goes on top."""

    found: FoundModel
    adapter: Path | None = None


@dataclass(frozen=True, slots=True)
class _Open:
    """A request that is not finished, and its hold on its model."""

    request: GenerationRequest
    mailbox: Mailbox
    lease: ModelLease


class Engine:
    """Runs language models in this process. One is enough; use it as a context manager or call `close`.

    `observer` is told of every finished request, on the engine thread: it must be quick and must not raise.
    """

    def __init__(
        self,
        config: EngineConfig | None = None,
        *,
        observer: Observer | None = None,
        discovery: Discovery | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config or EngineConfig()
        self.discovery = discovery or Discovery()
        self._observer = observer
        self._clock = clock
        self._lock = threading.Lock()
        self._workers: dict[str, ModelWorker] = {}
        self._loads: list[LoadTask[int]] = []
        self._sources: dict[
            str, _Source
        ] = {}  # of models that were loaded by hand, so that they can come back
        self._open: dict[str, _Open] = {}
        self._open_rows = 0
        self._recent_s: deque[float] = deque(maxlen=32)
        self._totals: Counter[str] = Counter()
        self._finished: Counter[str] = Counter()
        self._draining = False
        self._closed = False
        self._dead = False
        self._idle = threading.Condition(self._lock)
        self._max_memory_bytes = self.config.max_memory_bytes or default_max_memory_bytes()
        self._thread = EngineThread(self._steps, self._step_failed, self._died, clock)
        max_open = self.config.max_num_sequences + self.config.max_waiting
        self._embeddings = EmbeddingDesk(self._thread.post, max_open, clock)
        self._thread.start()
        self._keeper = ModelKeeper(
            self._load_now, self._drop_now, self._ceiling, clock, default_idle_ttl_s=self.config.idle_ttl_s
        )
        self._keeper.start()
        self._at_exit = weakref.finalize(self, _stop_thread, self._thread, os.getpid())

    # models

    def load(
        self,
        name: str,
        *,
        folder: Path | None = None,
        adapter: Path | None = None,
        progress: Progress | None = None,
        pinned: bool = False,
        idle_ttl_s: float | None = None,
    ) -> ModelInfo:
        """Loads a model and warms it up; returns at once if it is loaded. Blocks; call it from any thread.

        `name` is `tiny`, a short name, a Hugging Face `org/name` that is on this machine, or a local folder; `folder`
        gives the files of a name explicitly, `adapter` a folder with a LoRA adapter. It stays until another model needs
        its room (never, if `pinned`) or it was idle for `idle_ttl_s`. Raises ModelNotFound, ModelLoadFailed,
        ModelCorrupt or OutOfMemory.
        """
        if folder is not None:
            found = FoundModel(name=name, folder=folder, source="folder")
        elif name in self._sources:
            found = self._sources[name].found
        else:
            found = find_model(name, self.discovery, allow_paths=True)
        with self._lock:
            self._refuse_if_not_serving()
            known = self._workers.get(found.name)
            if known is None or adapter is not None:
                self._sources[found.name] = _Source(found, adapter)
        request = self._request(
            found.name, progress=progress, stays=True, pinned=pinned, idle_ttl_s=idle_ttl_s
        )
        with _result(request) as lease:
            return self._in_memory(lease.name).info

    def begin_load(
        self, name: str, *, pinned: bool = False, idle_ttl_s: float | None = None
    ) -> "Future[ModelLease]":
        """`load` of a model on this machine, by name only and without waiting. Raises what is known at once."""
        known = self._name_of(name)
        if known not in self._sources:
            found = find_model(name, self.discovery, allow_paths=False)
            known = found.name
        with self._lock:
            self._refuse_if_not_serving()
        return self._request(known, stays=True, pinned=pinned, idle_ttl_s=idle_ttl_s)

    def unload(self, name: str, *, timeout_s: float | None = None) -> bool:
        """Takes a model out of memory once its running requests are done; False if it is not loaded. Blocks. Raises
        ModelInUse if they take longer than `timeout_s`: the model stays then."""
        future = self.begin_unload(name)
        try:
            return future.result(timeout_s)
        except TimeoutError:
            if future.cancel():
                raise ModelInUse(f"The model {name!r} is in use. Try again later.", retry_after_s=5) from None
            return future.result()

    def begin_unload(self, name: str) -> "Future[bool]":
        """`unload` without waiting: cancelling the future lets the model stay."""
        return self._keeper.unload(self._name_of(name))

    def reserve(self, name: str) -> "Future[ModelLease]":
        """A lease on a model, loaded first if it is on this machine: as soon as there is room for it. Does not wait for
        that. The lease keeps it in memory until it is released; cancelling the future gives it up.

        Raises ModelNotFound, ModelLoadFailed or ModelCorrupt for what is known at once; the rest is the future's."""
        held = self._keeper.acquire(self._name_of(name))
        if held is not None:
            done: Future[ModelLease] = Future()
            done.set_result(held)
            return done
        with self._lock:
            self._refuse_if_not_serving()
        known = self._name_of(name)
        if known not in self._workers and known not in self._embeddings and not self.config.load_on_demand:
            raise self._not_loaded(name)
        if known not in self._sources:
            known = find_model(name, self.discovery, allow_paths=False).name
        return self._request(known)

    def loaded(self, name: str) -> LoadedModel:
        """The model of that name, loaded first if need be (which blocks). Raises ModelNotFound and what `load` does."""
        with _result(self.reserve(name)) as lease:
            return self._generating(lease.name).loaded

    def _in_memory(self, name: str) -> LoadedModel | LoadedEmbedder:
        return self._embeddings.find(name) or self._workers[name].loaded

    def _generating(self, name: str) -> ModelWorker:
        if name in self._embeddings:
            raise InvalidRequest(
                f"The model {name!r} embeds and does not generate: use /v1/embeddings.", param="model"
            )
        return self._workers[name]

    def models(self) -> list[ModelInfo]:
        """Every model that can be used: those in memory in order of loading, then what else is on this machine."""
        now_s = self._clock()
        infos: dict[str, ModelInfo] = {}
        for resident in self._keeper.residents():
            worker = self._workers.get(resident.name)
            loaded = worker.loaded if worker is not None else self._embeddings.find(resident.name)
            info = loaded.info if loaded is not None else self._found_info(resident.name)
            if info is not None:
                expires_s = resident.expires_s
                infos[resident.name] = replace(
                    info,
                    loaded=resident.state is State.LOADED,
                    state=resident.state.value,
                    memory_bytes=resident.num_bytes,
                    users=resident.refs,
                    pinned=resident.pinned,
                    expires_in_s=None if expires_s is None else max(0.0, expires_s - now_s),
                )
        for name in list(self._sources):
            if name not in infos and (info := self._found_info(name)) is not None:
                infos[name] = info
        for found in usable(self.discovery.scan()):
            infos.setdefault(found.name, _info_of(found))
        return list(infos.values())

    def _found_info(self, name: str) -> ModelInfo | None:
        source = self._sources.get(name)
        found = self.discovery.find(name)
        if found is not None and (source is None or source.found.folder == found.folder):
            return _info_of(found)
        return None if source is None else _info_of(source.found)

    def _name_of(self, name: str) -> str:
        """What a model is called in the books: short names stand for their repository."""
        return name if name in self._sources else repository_of(name)

    def _not_loaded(self, name: str) -> ModelNotFound:
        names = ", ".join(repr(known) for known in list(self._workers)) or "none"
        return ModelNotFound(f"Model {name!r} is not loaded here. Loaded: {names}.", param="model")

    def _request(
        self,
        name: str,
        *,
        progress: Progress | None = None,
        stays: bool = False,
        pinned: bool = False,
        idle_ttl_s: float | None = None,
    ) -> "Future[ModelLease]":
        is_there = name in self._workers or name in self._embeddings
        num_bytes = 0 if is_there else self._needed_bytes(self._source(name))
        return self._keeper.request(
            name, num_bytes, progress=progress, stays=stays, pinned=pinned, idle_ttl_s=idle_ttl_s
        )

    def _source(self, name: str) -> _Source:
        source = self._sources.get(name)
        return source or _Source(find_model(name, self.discovery, allow_paths=False))

    def _needed_bytes(self, source: _Source) -> int:
        return needed_bytes(source.found.folder, source.adapter, self.config, self._max_memory_bytes)

    # the keeper's side: on its thread

    def _ceiling(self, held_bytes: int) -> int:
        """What models may take now: the limit, or less where the machine has less to give."""
        given_back = sum(worker.prefix_cache.nbytes for worker in list(self._workers.values()))
        spare_bytes = available_memory_bytes() + given_back + memory_use().cache_bytes
        return min(self._max_memory_bytes, held_bytes + int(ROOM_SHARE * spare_bytes))

    def _load_now(self, name: str, progress: Progress) -> int:
        """The bytes that the model takes, once it is loaded."""
        source = self._source(name)
        progress("checking", 0.0)
        found = self.discovery.find(name)
        found = source.found if found is None or found.folder != source.found.folder else found
        prepared: PreparedModel | PreparedEmbedder
        if embeds(found.folder, name):
            prepared = prepare_embedder(found.folder, name, source=found.source, aliases=aliases_of(name))
        else:
            prepared = prepare_load(
                found.folder,
                name,
                adapter=source.adapter,
                source=found.source,
                capabilities=found.capabilities,
                aliases=aliases_of(name),
            )
        needed = self._needed_bytes(source)
        if self._workers:
            if needed > available_memory_bytes():
                self._thread.call(self._relieve)
            read_ahead(sorted(found.folder.glob("model*.safetensors")), progress, lambda: self._closed)
        task = LoadTask(self._load_steps(prepared, needed), progress, self._others_have_work)
        self._thread.post(lambda: self._loads.append(task))
        try:
            return _wait_for(task.done, self._thread)
        except BaseMLXError:
            self._thread.call(self._collect)
            raise

    def _drop_now(self, name: str) -> None:
        self._thread.call(lambda: self._drop(name))
        # A turn later, when nothing of the turn that dropped it refers to it any more.
        self._thread.call(self._collect)

    # the engine thread's side of it

    def _others_have_work(self) -> bool:
        workers: list[Steps] = [*self._workers.values(), *self._embeddings.workers()]
        return any(worker.has_work for worker in workers)

    def _load_steps(
        self, prepared: PreparedModel | PreparedEmbedder, needed: int
    ) -> Generator[Stage, None, int]:
        config = self.config
        if isinstance(prepared, PreparedEmbedder):
            embedder = yield from embedder_steps(prepared, max_context_tokens=config.max_context_tokens)
            self._embeddings.add(embedder)
            self._share_memory()
            return max(needed, embedder.weights_bytes)
        loaded = yield from load_steps(prepared, max_context_tokens=config.max_context_tokens)
        yield "warming up", 0.0
        make_cache = mlx_lm_module("models.cache").make_prompt_cache
        rows = choose_rows(loaded.model, lambda: make_cache(loaded.model), loaded.vocab_size)
        worker = ModelWorker(
            loaded,
            rows,
            config,
            kv_budget_bytes=0,
            prefix_cache_bytes=0,
            clock=self._clock,
            on_finished=self._request_finished,
        )
        yield "warming up", 0.5
        if config.warm_up:
            worker.warm_up()
        with self._lock:
            self._workers[prepared.name] = worker
        self._share_memory()
        return max(needed, loaded.weights_bytes)

    def _drop(self, name: str) -> None:
        if self._embeddings.drop(name):
            gc.collect()
            mx.clear_cache()
            self._share_memory()
            return
        worker = self._workers.get(name)
        if worker is None:
            return
        worker.fail_all(
            GenerationFailed("The model was unloaded.")
        )  # nobody is left: it settles what is in flight
        worker.prefix_cache.clear()
        with self._lock:
            del self._workers[name]
        self._totals["steps"] += worker.num_steps
        del worker
        self._share_memory()

    def _collect(self) -> None:
        """What a model that is gone leaves behind."""
        gc.collect()  # modules refer to each other in circles
        # Layers are made with random weights that nobody evaluates. The generator's state depends on them all, and the
        # graph behind it would grow by 50 kB with every load.
        mx.eval(mx.random.state)
        mx.clear_cache()

    def _share_memory(self) -> None:
        """Divides what the weights leave among the models: KV rows and prefixes."""
        workers = list(self._workers.values())
        if not workers:
            return
        embedders = [worker.loaded.weights_bytes for worker in self._embeddings.workers()]
        weights = sum(worker.loaded.weights_bytes for worker in workers) + sum(embedders)
        held = sum(worker.kv_bytes + worker.prefix_cache.nbytes for worker in workers)
        spare = max(0, min(self._max_memory_bytes - weights, available_memory_bytes() + held))
        for worker in workers:
            kv_budget = self.config.kv_budget_bytes
            if kv_budget is None:
                kv_budget = int(KV_SHARE * spare / len(workers))
            prefix_budget = self.config.prefix_cache_bytes
            if prefix_budget is None:
                contexts = PREFIX_CONTEXTS * worker.row_bytes(worker.loaded.context_tokens)
                share = PREFIX_SHARE * min(self._max_memory_bytes, 2 * spare) / len(workers)
                prefix_budget = min(contexts, int(share))
            worker.set_budgets(kv_budget, prefix_budget)

    def _relieve(self) -> None:
        """Gives back what can be computed again."""
        for worker in self._workers.values():
            worker.prefix_cache.clear()
        mx.clear_cache()

    def _cancel_loads(self) -> None:
        for task in self._loads:
            task.cancel()

    # requests

    def submit(self, request: GenerationRequest) -> GenerationStream:
        """Takes a request in and returns its stream at once.

        Raises ModelNotFound, InvalidRequest, ContextLengthExceeded, QueueFull, ShuttingDown or EngineDead. Leaving
        the stream (abort, `with`, dropping it) gives its rows back.
        """
        lease = _result(self.reserve(request.model))
        try:
            return self._submit(request, lease)
        except BaseException:
            lease.release()
            raise

    def _submit(self, request: GenerationRequest, lease: ModelLease) -> GenerationStream:
        worker = self._generating(lease.name)
        max_tokens = self._checked_max_tokens(request, worker)
        now_s = self._clock()
        timeout_s = self.config.request_timeout_s if request.timeout_s is None else request.timeout_s
        mailbox = Mailbox()
        with self._lock:
            self._refuse_if_not_serving()
            rows = request.sampling.n
            if self._open_rows + rows > self.config.max_num_sequences + self.config.max_waiting:
                raise QueueFull(
                    f"{len(self._open)} requests are running or waiting, as many as are allowed. Try again later.",
                    retry_after_s=self._retry_after_s(),
                )
            if request.request_id in self._open:
                raise InvalidRequest(
                    f"A request {request.request_id!r} is running already.", param="request_id"
                )
            self._open[request.request_id] = _Open(request, mailbox, lease)
            self._open_rows += rows
        try:
            self._thread.post(
                lambda: self._accept(worker, request, mailbox, max_tokens, now_s, now_s + timeout_s)
            )
        except EngineDead:
            self._count_out(request.request_id)
            raise
        return GenerationStream(request.request_id, mailbox, self.abort)

    def _checked_max_tokens(self, request: GenerationRequest, worker: ModelWorker) -> int:
        sampling, prompt = request.sampling, request.prompt_token_ids
        loaded = worker.loaded
        if not prompt:
            raise InvalidRequest("The prompt has no tokens.", param="prompt")
        if min(prompt) < 0 or max(prompt) >= loaded.vocab_size:
            raise InvalidRequest(f"Token ids must be between 0 and {loaded.vocab_size - 1}.", param="prompt")
        if any(
            not 0 <= token < loaded.vocab_size for token in (*sampling.logit_bias, *sampling.stop_token_ids)
        ):
            field_name = "logit_bias" if sampling.logit_bias else "stop_token_ids"
            raise InvalidRequest(
                f"Token ids must be between 0 and {loaded.vocab_size - 1}.", param=field_name
            )
        if request.timeout_s is not None and not (math.isfinite(request.timeout_s) and request.timeout_s > 0):
            raise InvalidRequest("timeout must be a positive number of seconds.", param="timeout")
        if sampling.n > self.config.max_num_sequences:
            raise InvalidRequest(f"n must be at most {self.config.max_num_sequences} here.", param="n")
        room = loaded.context_tokens - len(prompt)
        wanted = sampling.max_tokens
        if room < 1 or (wanted is not None and wanted > room):
            asked = f" and {wanted} more were asked for" if wanted is not None else ""
            raise ContextLengthExceeded(
                f"The model's context holds {loaded.context_tokens} tokens; the prompt has {len(prompt)}{asked}. "
                "Shorten the prompt or ask for fewer tokens.",
                param="max_tokens" if room >= 1 else "prompt",
            )
        if not worker.scheduler.fits(sampling.n, len(prompt) + 1):
            raise ContextLengthExceeded(
                "The prompt does not fit the memory that is set aside for KV caches. Shorten it, or raise the budget.",
                param="prompt",
            )
        return wanted if wanted is not None else room

    def _refuse_if_not_serving(self) -> None:
        if self._dead or not self._thread.alive:
            raise EngineDead("The engine has stopped after an error. Restart the process.")
        if self._draining or self._closed:
            raise ShuttingDown("The engine is shutting down and takes no new requests.", retry_after_s=5)

    def _retry_after_s(self) -> int:
        """When a row is likely to be free: mean time a request took of late over the rows that run."""
        recent = list(self._recent_s)
        if not recent:
            return 1
        return max(1, min(60, math.ceil(sum(recent) / len(recent) / self.config.max_num_sequences)))

    def _accept(
        self,
        worker: ModelWorker,
        request: GenerationRequest,
        mailbox: Mailbox,
        max_tokens: int,
        submitted_s: float,
        deadline_s: float,
    ) -> None:
        try:
            worker.submit(request, mailbox, max_tokens, submitted_s, deadline_s)
        except Exception as error:
            failure = error if isinstance(error, BaseMLXError) else None
            if failure is None:  # its message may quote the request: not for the log, nor for the client
                logger.error("a request failed id=%s exception=%s", request.request_id, type(error).__name__)
                logger.debug("a request failed id=%s", request.request_id, exc_info=error)
                failure = GenerationFailed("The request failed before its first step. The log says more.")
            self._count_out(request.request_id)
            mailbox.end(Usage(), Timings(0.0, None, 0.0, None), failure)

    def abort(self, request_id: str) -> None:
        """Gives a request up. Idempotent; unknown and finished ids are ignored."""
        entry = self._open.get(request_id)
        if entry is None:
            return
        worker = self._workers.get(entry.lease.name)
        try:
            if worker is not None:
                self._thread.post(lambda: worker.abort(request_id))
        except EngineDead:
            self._count_out(request_id)

    def _request_finished(self, finished: FinishedRequest) -> None:
        self._recent_s.append(finished.timings.elapsed_ms / 1e3)
        self._totals["prompt_tokens"] += finished.usage.prompt_tokens
        self._totals["completion_tokens"] += finished.usage.completion_tokens
        self._totals["cached_tokens"] += finished.usage.cached_tokens
        self._finished.update(finished.finish_reasons)
        self._count_out(finished.request_id)
        if self._observer is not None:
            self._observer(finished)

    def _count_out(self, request_id: str) -> None:
        with self._lock:
            entry = self._open.pop(request_id, None)
            if entry is not None:
                self._open_rows -= entry.request.sampling.n
            if not self._open:
                self._idle.notify_all()
        if entry is not None:
            entry.lease.release()

    # embeddings

    def embedder(self, name: str) -> LoadedEmbedder:
        """The embedding model of that name, loaded first if need be (which blocks). Raises InvalidRequest for a model
        that generates, and what `loaded` does."""
        with _result(self.reserve(name)) as lease:
            return self._embeddings.model(lease.name)

    def submit_embeddings(self, request: EmbeddingRequest) -> "Future[EmbeddingResult]":
        """Takes a request in that the model's `prepare` made; the future may be cancelled at any time, which gives the
        rest of it up. Raises what `submit` raises."""
        lease = _result(self.reserve(request.model))
        try:
            self._embeddings.model(lease.name)
            with self._lock:
                self._refuse_if_not_serving()
            timeout_s = self.config.request_timeout_s if request.timeout_s is None else request.timeout_s
            return self._embeddings.submit(replace(request, model=lease.name), timeout_s, lease.release)
        except BaseException:
            lease.release()
            raise

    def embed(
        self,
        model: str,
        inputs: Input | Sequence[Input],
        *,
        prompt_name: str | None = None,
        dimensions: int | None = None,
        timeout_s: float | None = None,
    ) -> EmbeddingResult:
        """Vectors of one input or several, each a text or token ids (special tokens included). Blocks.

        `prompt_name` puts one of the model's own prompts ("query") before every text. Raises InvalidRequest or
        ContextLengthExceeded that names the input, and what `submit` raises."""
        future = self._begin_embedding(model, inputs, prompt_name, dimensions, timeout_s)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def aembed(
        self,
        model: str,
        inputs: Input | Sequence[Input],
        *,
        prompt_name: str | None = None,
        dimensions: int | None = None,
        timeout_s: float | None = None,
    ) -> EmbeddingResult:
        """`embed` for an event loop. Cancelling it gives up what is not computed yet."""
        begin = asyncio.to_thread(self._begin_embedding, model, inputs, prompt_name, dimensions, timeout_s)
        return await asyncio.wrap_future(await begin)

    def _begin_embedding(
        self,
        model: str,
        inputs: Input | Sequence[Input],
        prompt_name: str | None,
        dimensions: int | None,
        timeout_s: float | None,
    ) -> "Future[EmbeddingResult]":
        request = self.embedder(model).prepare(
            inputs,
            request_id=f"embd-{secrets.token_hex(8)}",
            prompt_name=prompt_name,
            dimensions=dimensions,
            timeout_s=timeout_s,
        )
        return self.submit_embeddings(request)

    # the engine thread's side

    def _steps(self) -> list[Steps]:
        self._loads = [task for task in self._loads if task.has_work]
        return [*self._workers.values(), *self._embeddings.workers(), *self._loads]

    def _step_failed(self, worker: Steps, error: Exception) -> bool:
        """A step raised: the model's requests end with an error, its rows and prefixes are dropped, and a probe decides
        whether the engine may go on."""
        assert isinstance(worker, ModelWorker | EmbeddingWorker)
        return worker.recover(
            GenerationFailed("The engine failed while computing this request; it has been reset.")
        )

    def _died(self) -> None:
        self._dead = True
        error = EngineDead("The engine has stopped after an error. Restart the process.")
        with self._lock:
            entries = list(self._open.values())
        for entry in entries:
            usage = Usage(len(entry.request.prompt_token_ids))
            entry.mailbox.end(usage, Timings(0.0, None, 0.0, None), error)
            self._count_out(entry.request.request_id)
        self._embeddings.fail_open(error)

    # watching

    def health(self) -> Health:
        """Answers at once, whatever the engine thread does."""
        age_s = self._thread.heartbeat_age_s()
        reason = None
        is_dead = self._dead or not self._thread.alive
        is_stuck = not is_dead and age_s > self.config.stall_timeout_s
        if is_dead:
            reason = "the engine thread has ended"
        elif is_stuck:
            reason = f"the engine thread has been stuck for {age_s:.0f} s"
        elif self._draining:
            reason = "shutting down"
        running, waiting = self._rows_in_use()
        return Health(reason is None, reason, age_s, running, waiting, is_stuck)

    def _rows_in_use(self) -> tuple[int, int]:
        workers = list(self._workers.values())
        running = sum(worker.scheduler.num_running for worker in workers)
        return running, max(0, self._open_rows - running)

    def stats(self) -> EngineStats:
        """Answers at once; figures of a step in progress may be a step old."""
        running, waiting = self._rows_in_use()
        memory = memory_use()
        workers = list(self._workers.values())
        embedders = self._embeddings.workers()
        return EngineStats(
            running=running,
            waiting=waiting,
            steps=self._totals["steps"]
            + sum(worker.num_steps for worker in workers)
            + sum(worker.num_steps for worker in embedders),
            models_loaded=len(workers) + len(embedders),
            prompt_tokens=self._totals["prompt_tokens"],
            completion_tokens=self._totals["completion_tokens"],
            cached_tokens=self._totals["cached_tokens"],
            finished=dict(self._finished),
            kv_bytes=sum(worker.kv_bytes for worker in workers),
            prefix_cache_bytes=sum(worker.prefix_cache.nbytes for worker in workers),
            prefix_cache_entries=sum(worker.prefix_cache.num_entries for worker in workers),
            active_bytes=memory.active_bytes,
            cache_bytes=memory.cache_bytes,
            peak_bytes=memory.peak_bytes,
        )

    def check_integrity(self) -> None:
        """Raises AssertionError if queues, rows and caches do not agree; with no request open, if anything is held."""
        self._keeper.check_integrity()
        for worker in list(self._workers.values()):
            self._thread.call(worker.check_integrity)

    # ends

    def drain(self, timeout_s: float) -> bool:
        """Takes no new requests and waits for the open ones; whether all finished in time."""
        with self._idle:
            self._draining = True
            started_s = time.monotonic()
            generated = self._idle.wait_for(lambda: not self._open, timeout_s)
        left_s = max(0.0, timeout_s - (time.monotonic() - started_s))
        return self._embeddings.wait_idle(left_s) and generated

    def close(self) -> None:
        """Ends open requests with ShuttingDown, then the engine thread. May be called more than once."""
        with self._lock:
            if self._closed:
                return
            self._closed = self._draining = True
        error = ShuttingDown("The engine was closed.")
        self._keeper.close()
        try:
            self._thread.post(self._cancel_loads)
            for worker in list(self._workers.values()):
                self._thread.post(lambda worker=worker: worker.fail_all(error))  # type: ignore[misc]
            self._thread.call(lambda: None)
        except EngineDead:
            pass
        self._embeddings.fail_open(error)
        self._at_exit()
        self._workers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _result(future: "Future[ModelLease]") -> ModelLease:
    """Waits for a lease. Whoever is interrupted meanwhile leaves none behind."""
    try:
        return future.result()
    except BaseException:
        if not future.cancel():
            future.add_done_callback(release_unclaimed)
        raise


def release_unclaimed(future: "Future[ModelLease]") -> None:
    """For a future whose lease nobody takes any more."""
    if not future.cancelled() and future.exception() is None:
        future.result().release()


def _wait_for(future: "Future[int]", thread: EngineThread) -> int:
    while True:
        try:
            return future.result(timeout=0.5)
        except TimeoutError:
            if not future.done() and not thread.alive:
                raise EngineDead(
                    "The engine stopped while the model was loaded. Restart the process."
                ) from None


def _info_of(found: FoundModel) -> ModelInfo:
    return ModelInfo(
        name=found.name,
        loaded=False,
        model_type=found.model_type,
        context_tokens=found.context_tokens,
        size_bytes=found.size_bytes,
        quantization=found.quantization,
        created_s=found.created_s,
        source=found.source,
        capabilities=found.capabilities,
        aliases=found.aliases,
        problem=found.problem,
    )


def _stop_thread(thread: EngineThread, pid: int) -> None:
    """At close, or when the process ends without one: MLX must not be torn down under a running step. In a forked child
    there is no such thread, and its lock may have been held when the process was forked."""
    if os.getpid() == pid:
        thread.stop(timeout_s=10.0)
