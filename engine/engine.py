"""The façade: load models, submit requests, watch and close. Thread-safe; nothing here computes.

Everything that touches MLX happens on the engine thread. `submit` and `embed` check a request, count it in and return
at once (their desks do: engine.core, engine.embeddings); a stream or a future brings the rest. Which models are in
memory the pool decides and its keeper carries out (engine.models): every request holds a lease on its model, so that
nothing is unloaded under it. It knows token ids, not text: the OpenAI layer renders and parses.
"""

import asyncio
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Self

from basemlx.engine.config import EngineConfig
from basemlx.engine.core.desk import GenerationDesk, Observer
from basemlx.engine.core.stream import GenerationStream
from basemlx.engine.core.thread import EngineThread, Steps
from basemlx.engine.core.worker import ModelWorker
from basemlx.engine.embeddings.desk import EmbeddingDesk
from basemlx.engine.embeddings.loader import Input, LoadedEmbedder
from basemlx.engine.embeddings.types import EmbeddingRequest, EmbeddingResult
from basemlx.engine.embeddings.worker import EmbeddingWorker
from basemlx.engine.errors import EngineDead, GenerationFailed, ModelInUse, ModelNotFound, ShuttingDown
from basemlx.engine.memory import default_max_memory_bytes, give_back_freed, memory_use
from basemlx.engine.models.discovery import Discovery, FoundModel
from basemlx.engine.models.keeper import ModelKeeper, ModelLease, lease_of
from basemlx.engine.models.loader import LoadedModel
from basemlx.engine.models.loading import Progress
from basemlx.engine.models.pool import Resident, State
from basemlx.engine.models.purpose import Purpose
from basemlx.engine.models.residence import Residence
from basemlx.engine.models.sources import ModelSources
from basemlx.engine.status import EngineStats, Health
from basemlx.engine.types import GenerationRequest, ModelInfo

__all__ = ["Engine", "EngineStats", "Health"]


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
        self._clock = clock
        self._lock = threading.Lock()
        self._binding = threading.Lock()  # from what a name stands for to the load of it being asked for
        self._draining = False
        self._closed = False
        self._dead = False
        self._thread = EngineThread(
            self._steps,
            self._step_failed,
            self._died,
            clock,
            on_idle=give_back_freed,
            on_turn=lambda: self._residence.look_at_memory(),
        )
        post = self._thread.post
        self._desk = GenerationDesk(post, self.config, self._refuse_if_not_serving, observer, clock)
        self._embeddings = EmbeddingDesk(post, self.config.max_open, clock)
        self._sources = ModelSources(self.discovery)
        self._residence = Residence(
            self._sources,
            self._embeddings,
            self._thread,
            self.config,
            self.config.max_memory_bytes or default_max_memory_bytes(),
            clock,
            self._desk.on_finished,
            lambda: self._closed,
        )
        self._workers = self._residence.workers
        self._thread.start()
        self._keeper = ModelKeeper(
            self._residence.load,
            self._residence.drop,
            self._residence.room,
            clock,
            default_idle_ttl_s=self.config.idle_ttl_s,
            on_unserved=self._sources.failed,
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
        pinned: bool | None = None,
        idle_ttl_s: float | None = None,
    ) -> ModelInfo:
        """Loads a model and warms it up; returns at once if it is loaded. Blocks; call it from any thread.

        `name` is `tiny`, a short name, a Hugging Face `org/name` that is on this machine, or a local folder; `folder`
        gives the files of a name explicitly, `adapter` a folder with a LoRA adapter (without one, the one it had
        before). It stays until another model needs its room (never, if `pinned`; None leaves a pin as it is) or it was
        idle for `idle_ttl_s`. Raises ModelNotFound, ModelLoadFailed, ModelCorrupt or OutOfMemory; InvalidRequest if it
        is in memory, or on its way there, with other files or another adapter.
        """
        with self._bound(self._sources.named(name, folder), adapter) as known:
            request = self._request(
                known, progress=progress, stays=True, pinned=pinned, idle_ttl_s=idle_ttl_s
            )
        with lease_of(request) as lease:
            loaded = self._residence.find(lease.name)
            assert loaded is not None, "a lease was given on a model that is not there"
            return loaded.info

    def begin_load(
        self, name: str, *, pinned: bool | None = None, idle_ttl_s: float | None = None
    ) -> "Future[ModelLease]":
        """`load` of a model on this machine, by name only and without waiting. Raises what is known at once."""
        with self._binding:
            known = self._known_name(name)
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
        return self._keeper.unload(self._sources.name_of(name))

    def reserve(self, name: str, purpose: Purpose | None = None) -> "Future[ModelLease]":
        """A lease on a model, loaded first if it is on this machine: as soon as there is room for it. Does not wait for
        that. The lease keeps it in memory until it is released; cancelling the future gives it up.

        Raises ModelNotFound, ModelLoadFailed or ModelCorrupt for what is known at once, and InvalidRequest for a model
        that would be loaded and is not for that `purpose`; the rest is the future's."""
        known = self._sources.name_of(name)
        held = self._keeper.acquire(known)
        if held is not None:
            return _done(held)
        self._refuse_if_not_serving()
        self._refuse_if_only_loaded(known, name)
        with self._binding:
            return self._request_for(purpose, self._known_name(name))

    def in_folder(self, folder: Path) -> FoundModel:
        """The model in a folder. Raises ModelNotFound, and InvalidRequest if another is called as it is."""
        return self._sources.named(str(folder.absolute()), None)

    def reserve_folder(self, found: FoundModel, purpose: Purpose | None = None) -> "Future[ModelLease]":
        """`reserve` of a model `in_folder`, which its name stands for from now on, unless its load fails. Raises
        InvalidRequest if the name stands for another, and what `reserve` does."""
        with self._bound(found, None) as known:
            held = self._keeper.acquire(known)
            if held is not None:
                return _done(held)
            self._refuse_if_only_loaded(known, known)
            return self._request_for(purpose, known)

    def _request_for(self, purpose: Purpose | None, known: str) -> "Future[ModelLease]":
        if purpose is not None:
            self._residence.check_purpose(known, purpose)
        return self._request(known)

    def _refuse_if_only_loaded(self, known: str, name: str) -> None:
        if self.config.load_on_demand or self._keeper.keeps(known):
            return
        there = [resident.name for resident in self._keeper.residents() if resident.state is State.LOADED]
        names = ", ".join(map(repr, there)) or "none"
        raise ModelNotFound(f"Model {name!r} is not loaded here. Loaded: {names}.", param="model")

    def loaded(self, model: str | ModelLease) -> LoadedModel:
        """The model of that name, loaded first if need be (which blocks), or that the caller holds a lease on. Raises
        ModelNotFound and what `load` does."""
        with self._lease(model, "generate") as lease:
            return self._residence.worker(lease.name).loaded

    def embedder(self, model: str | ModelLease) -> LoadedEmbedder:
        """`loaded` for models that embed. Raises InvalidRequest for one that generates, and what `loaded` does."""
        with self._lease(model, "embed") as lease:
            return self._embeddings.model(lease.name)

    def _lease(self, model: str | ModelLease, purpose: Purpose) -> ModelLease:
        return model.share() if isinstance(model, ModelLease) else lease_of(self.reserve(model, purpose))

    def models(self) -> list[ModelInfo]:
        """Every model that can be used: those in memory in order of loading, then what else is on this machine."""
        infos: dict[str, ModelInfo] = {}
        for resident in self._keeper.residents():
            loaded = self._residence.find(resident.name)
            info = loaded.info if loaded is not None else self._sources.info(resident.name)
            if info is not None:
                infos[resident.name] = self._described(info, resident)
        for info in self._sources.infos():
            infos.setdefault(info.name, info)
        return list(infos.values())

    def _described(self, info: ModelInfo, resident: Resident) -> ModelInfo:
        expires_s = resident.expires_s
        return replace(
            info,
            loaded=resident.state is State.LOADED,
            state=resident.state.value,
            memory_bytes=resident.num_bytes,
            users=resident.refs,
            pinned=resident.pinned,
            expires_in_s=None if expires_s is None else max(0.0, expires_s - self._clock()),
        )

    def _known_name(self, name: str) -> str:
        """What a model that can be loaded is called in the books. Raises ModelNotFound."""
        known = self._sources.name_of(name)
        return known if known in self._sources else self._sources.of(name).found.name

    @contextmanager
    def _bound(self, found: FoundModel, adapter: Path | None) -> Iterator[str]:
        """A model's name, tied to its files for the load that is asked for meanwhile."""
        self._refuse_if_not_serving()
        with self._binding:
            in_use = self._keeper.knows(found.name)
            self._sources.bind(found, adapter, in_use=in_use)
            try:
                yield found.name
            except BaseException:
                if not in_use:
                    self._sources.failed(found.name)
                raise

    def _request(
        self,
        name: str,
        *,
        progress: Progress | None = None,
        stays: bool = False,
        pinned: bool | None = None,
        idle_ttl_s: float | None = None,
    ) -> "Future[ModelLease]":
        return self._keeper.request(
            name,
            self._residence.plan(name),
            progress=progress,
            stays=stays,
            pinned=pinned,
            idle_ttl_s=idle_ttl_s,
        )

    # tokens

    def submit(self, request: GenerationRequest, held: ModelLease | None = None) -> GenerationStream:
        """Takes a request in and returns its stream at once, if its model is in memory: surely where the caller has
        `held` it, with a lease that remains his; else it is loaded first (which blocks).

        Raises ModelNotFound, InvalidRequest, ContextLengthExceeded, QueueFull, ShuttingDown or EngineDead. Leaving
        the stream (abort, `with`, dropping it) gives its rows back.
        """
        lease = self._lease(held or request.model, "generate")
        try:
            mailbox = self._desk.submit(request, self._residence.worker(lease.name), lease)
        except BaseException:
            lease.release()
            raise
        return GenerationStream(request.request_id, mailbox, self.abort)

    def abort(self, request_id: str) -> None:
        """Gives a request up. Idempotent; unknown and finished ids are ignored."""
        name = self._desk.model_of(request_id)
        worker = None if name is None else self._workers.get(name)
        if worker is None:
            return
        try:
            self._thread.post(lambda: worker.abort(request_id))
        except EngineDead:
            self._desk.ended(request_id)

    # vectors

    def submit_embeddings(
        self, request: EmbeddingRequest, held: ModelLease | None = None
    ) -> "Future[EmbeddingResult]":
        """Takes a request in that the model's `prepare` made; the future may be cancelled at any time, which gives the
        rest of it up. `held` and what is raised are those of `submit`."""
        lease = self._lease(held or request.model, "embed")
        try:
            self._embeddings.model(lease.name)
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
        with self._lease(model, "embed") as held:
            request = self.embedder(held).prepare(
                inputs,
                request_id=f"embd-{secrets.token_hex(8)}",
                prompt_name=prompt_name,
                dimensions=dimensions,
                timeout_s=timeout_s,
            )
            return self.submit_embeddings(request, held)

    # the engine thread asks

    def _steps(self) -> list[Steps]:
        return self._residence.steps()

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
        self._desk.fail_open(error)
        self._embeddings.fail_open(error)

    # watching

    def health(self) -> Health:
        """Answers at once, whatever the engine thread does."""
        age_s = self._thread.heartbeat_age_s()
        reason = None
        is_dead = self._dead or not self._thread.alive
        is_stuck = not is_dead and age_s > self.config.stall_timeout_s
        if self._closed:
            reason = "the engine was closed"
        elif is_dead:
            reason = "the engine thread has ended"
        elif is_stuck:
            reason = f"the engine thread has been stuck for {age_s:.0f} s"
        elif self._draining:
            reason = "shutting down"
        running, waiting = self._rows_in_use()
        return Health(reason is None, reason, age_s, running, waiting, is_stuck)

    def _rows_in_use(self) -> tuple[int, int]:
        running = sum(worker.scheduler.num_running for worker in list(self._workers.values()))
        return running, max(0, self._desk.num_rows - running)

    def stats(self) -> EngineStats:
        """Answers at once; figures of a step in progress may be a step old."""
        running, waiting = self._rows_in_use()
        memory = memory_use()
        workers = list(self._workers.values())
        totals = self._desk.totals
        return EngineStats(
            running=running,
            waiting=waiting,
            steps=self._residence.num_steps,
            models_loaded=self._residence.num_models,
            prompt_tokens=totals["prompt_tokens"],
            completion_tokens=totals["completion_tokens"],
            cached_tokens=totals["cached_tokens"],
            finished=dict(self._desk.finished),
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

    def _refuse_if_not_serving(self) -> None:
        if self._closed:  # before the thread is looked at, which has ended then
            raise ShuttingDown("The engine was closed.")
        if self._dead or not self._thread.alive:
            raise EngineDead("The engine has stopped after an error. Restart the process.")
        if self._draining:
            raise ShuttingDown("The engine is shutting down and takes no new requests.", retry_after_s=5)

    def drain(self, timeout_s: float) -> bool:
        """Takes no new requests and waits for the open ones; whether all finished in time."""
        self._draining = True
        started_s = time.monotonic()
        generated = self._desk.wait_idle(timeout_s)
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
            self._thread.post(self._residence.cancel_loads)
            for worker in list(self._workers.values()):
                self._thread.post(lambda worker=worker: worker.fail_all(error))  # type: ignore[misc]
            self._thread.call(lambda: None)
        except EngineDead:
            pass
        self._at_exit()
        self._desk.fail_open(error)  # what came in after the workers had been told
        self._embeddings.fail_open(error)
        self._workers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _stop_thread(thread: EngineThread, pid: int) -> None:
    """At close, or when the process ends without one: MLX must not be torn down under a running step. In a forked child
    there is no such thread, and its lock may have been held when the process was forked."""
    if os.getpid() == pid:
        thread.stop(timeout_s=10.0)


def _done(lease: ModelLease) -> "Future[ModelLease]":
    done: Future[ModelLease] = Future()
    done.set_result(lease)
    return done
