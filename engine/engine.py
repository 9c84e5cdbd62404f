"""The façade: load models, submit requests, watch and close. Thread-safe; nothing here computes.

Everything that touches MLX happens on the engine thread. `submit` checks a request, counts it in and returns at once;
its stream brings the rest. It knows token ids, not text: the OpenAI layer renders and parses.
"""

import math
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from basemlx.engine.config import EngineConfig
from basemlx.engine.core.report import FinishedRequest
from basemlx.engine.core.stream import GenerationStream, Mailbox
from basemlx.engine.core.thread import EngineThread, Steps
from basemlx.engine.core.worker import ModelWorker
from basemlx.engine.errors import (
    BaseMLXError,
    ContextLengthExceeded,
    EngineDead,
    GenerationFailed,
    InvalidRequest,
    ModelNotFound,
    QueueFull,
    ShuttingDown,
)
from basemlx.engine.kv.choose import choose_rows
from basemlx.engine.memory import available_memory_bytes, device_memory_bytes, memory_use
from basemlx.engine.models.loader import LoadedModel, load_model
from basemlx.engine.models.names import resolve
from basemlx.engine.runtime import mlx_lm_module
from basemlx.engine.types import GenerationRequest, ModelInfo, Timings, Usage

Progress = Callable[[str, float], None]
Observer = Callable[[FinishedRequest], None]

KV_SHARE = 0.5
"""Of the memory left after loading a model, what its rows may take by default."""

PREFIX_SHARE = 0.1
PREFIX_CONTEXTS = 2
"""The prefix cache holds two full contexts by default, within a tenth of the device's memory."""


@dataclass(frozen=True, slots=True)
class Health:
    """Whether requests are served. `reason` says why not; `heartbeat_age_s` is 0 while there is nothing to do."""

    ok: bool
    reason: str | None
    heartbeat_age_s: float
    running: int
    waiting: int


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counts since the start, and what is held now. Bytes of MLX's own allocations."""

    running: int = 0
    waiting: int = 0
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


class Engine:
    """Runs language models in this process. One is enough; use it as a context manager or call `close`.

    `observer` is told of every finished request, on the engine thread: it must be quick and must not raise.
    """

    def __init__(
        self,
        config: EngineConfig | None = None,
        *,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config or EngineConfig()
        self._observer = observer
        self._clock = clock
        self._lock = threading.Lock()
        self._workers: dict[str, ModelWorker] = {}
        self._open: dict[str, tuple[GenerationRequest, Mailbox]] = {}
        self._open_rows = 0
        self._recent_s: deque[float] = deque(maxlen=32)
        self._totals: Counter[str] = Counter()
        self._finished: Counter[str] = Counter()
        self._draining = False
        self._closed = False
        self._dead = False
        self._idle = threading.Condition(self._lock)
        self._thread = EngineThread(self._steps, self._step_failed, self._died, clock)
        self._thread.start()
        self._at_exit = weakref.finalize(self, _stop_thread, self._thread)

    # models

    def load(self, name: str, *, folder: Path | None = None, progress: Progress | None = None) -> ModelInfo:
        """Loads a model and warms it up; returns at once if it is loaded. Blocks; call it from any thread.

        `name` is `tiny`, a Hugging Face `org/name` that is on this machine, or a local folder; `folder` gives the
        files of a name explicitly. Raises ModelNotFound, ModelLoadFailed, ModelCorrupt or OutOfMemory.
        """
        known = self._workers.get(name)
        if known is not None:
            return known.loaded.info
        path = folder if folder is not None else resolve(name, allow_paths=True)
        public_name = path.name if folder is None and path.is_dir() and Path(name).exists() else name
        return self._thread.call(lambda: self._load(public_name, path, progress))

    def _load(self, name: str, folder: Path, progress: Progress | None) -> ModelInfo:
        if name in self._workers:
            return self._workers[name].loaded.info
        config = self.config
        loaded = load_model(folder, name, max_context_tokens=config.max_context_tokens, progress=progress)
        make_cache = mlx_lm_module("models.cache").make_prompt_cache
        rows = choose_rows(loaded.model, lambda: make_cache(loaded.model), loaded.vocab_size)
        kv_budget = config.kv_budget_bytes
        if kv_budget is None:
            kv_budget = int(KV_SHARE * available_memory_bytes())
        prefix_budget = config.prefix_cache_bytes
        if prefix_budget is None:
            contexts = PREFIX_CONTEXTS * rows.bytes_for(1, loaded.context_tokens)
            prefix_budget = min(contexts, int(PREFIX_SHARE * device_memory_bytes()))
        worker = ModelWorker(
            loaded,
            rows,
            config,
            kv_budget_bytes=kv_budget,
            prefix_cache_bytes=prefix_budget,
            clock=self._clock,
            on_finished=self._request_finished,
        )
        if config.warm_up:
            worker.warm_up()
        with self._lock:
            self._workers[name] = worker
        return loaded.info

    def loaded(self, name: str) -> LoadedModel:
        """The loaded model of that name. Raises ModelNotFound."""
        return self._worker(name).loaded

    def models(self) -> list[ModelInfo]:
        """The loaded models, in order of loading."""
        return [worker.loaded.info for worker in list(self._workers.values())]

    def _worker(self, name: str) -> ModelWorker:
        worker = self._workers.get(name)
        if worker is None:
            names = ", ".join(repr(known) for known in self._workers) or "none"
            raise ModelNotFound(f"Model {name!r} is not loaded here. Loaded: {names}.", param="model")
        return worker

    # requests

    def submit(self, request: GenerationRequest) -> GenerationStream:
        """Takes a request in and returns its stream at once.

        Raises ModelNotFound, InvalidRequest, ContextLengthExceeded, QueueFull, ShuttingDown or EngineDead. Leaving
        the stream (abort, `with`, dropping it) gives its rows back.
        """
        worker = self._worker(request.model)
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
            self._open[request.request_id] = (request, mailbox)
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
            failure = (
                error if isinstance(error, BaseMLXError) else GenerationFailed(f"The request failed: {error}")
            )
            self._count_out(request.request_id)
            mailbox.end(Usage(), Timings(0.0, None, 0.0, None), failure)

    def abort(self, request_id: str) -> None:
        """Gives a request up. Idempotent; unknown and finished ids are ignored."""
        entry = self._open.get(request_id)
        if entry is None:
            return
        worker = self._workers.get(entry[0].model)
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
                self._open_rows -= entry[0].sampling.n
            if not self._open:
                self._idle.notify_all()

    # the engine thread's side

    def _steps(self) -> list[Steps]:
        return list(self._workers.values())

    def _step_failed(self, worker: Steps, error: Exception) -> bool:
        """A step raised: the model's requests end with an error, its rows and prefixes are dropped, and a probe decides
        whether the engine may go on."""
        assert isinstance(worker, ModelWorker)
        return worker.recover(
            GenerationFailed("The engine failed while computing this request; it has been reset.")
        )

    def _died(self) -> None:
        self._dead = True
        error = EngineDead("The engine has stopped after an error. Restart the process.")
        with self._lock:
            entries = list(self._open.values())
        for request, mailbox in entries:
            mailbox.end(Usage(len(request.prompt_token_ids)), Timings(0.0, None, 0.0, None), error)
            self._count_out(request.request_id)

    # watching

    def health(self) -> Health:
        """Answers at once, whatever the engine thread does."""
        age_s = self._thread.heartbeat_age_s()
        reason = None
        if self._dead or not self._thread.alive:
            reason = "the engine thread has ended"
        elif age_s > self.config.stall_timeout_s:
            reason = f"the engine thread has been stuck for {age_s:.0f} s"
        elif self._draining:
            reason = "shutting down"
        running, waiting = self._rows_in_use()
        return Health(reason is None, reason, age_s, running, waiting)

    def _rows_in_use(self) -> tuple[int, int]:
        workers = list(self._workers.values())
        running = sum(worker.scheduler.num_running for worker in workers)
        return running, max(0, self._open_rows - running)

    def stats(self) -> EngineStats:
        """Answers at once; figures of a step in progress may be a step old."""
        running, waiting = self._rows_in_use()
        memory = memory_use()
        workers = list(self._workers.values())
        return EngineStats(
            running=running,
            waiting=waiting,
            steps=sum(worker.num_steps for worker in workers),
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
        for worker in list(self._workers.values()):
            self._thread.call(worker.check_integrity)

    # ends

    def drain(self, timeout_s: float) -> bool:
        """Takes no new requests and waits for the open ones; whether all finished in time."""
        with self._idle:
            self._draining = True
            return self._idle.wait_for(lambda: not self._open, timeout_s)

    def close(self) -> None:
        """Ends open requests with ShuttingDown, then the engine thread. May be called more than once."""
        with self._lock:
            if self._closed:
                return
            self._closed = self._draining = True
        error = ShuttingDown("The engine was closed.")
        try:
            for worker in list(self._workers.values()):
                self._thread.post(lambda worker=worker: worker.fail_all(error))  # type: ignore[misc]
            self._thread.call(lambda: None)
        except EngineDead:
            pass
        self._at_exit()
        self._workers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _stop_thread(thread: EngineThread) -> None:
    """At close, or when the process ends without one: MLX must not be torn down under a running step."""
    thread.stop(timeout_s=10.0)
