"""The models that are in memory, and how they come and go: what the keeper decided, carried out on the engine thread.

    keeper's thread:  load ─▶ check files, read ahead ─▶ LoadTask ─┐        drop ─┐
    engine thread:                                                 ▼ slices      ▼      between other models' steps

`workers` holds those that generate; those that embed are the embedding desk's. It takes no requests and decides nothing
about who stays: that is the pool's.
"""

import gc
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import suppress

from basemlx.engine.config import EngineConfig
from basemlx.engine.core.report import FinishedRequest
from basemlx.engine.core.thread import EngineThread, Steps
from basemlx.engine.core.worker import ModelWorker
from basemlx.engine.embeddings.desk import EmbeddingDesk
from basemlx.engine.embeddings.loader import (
    LoadedEmbedder,
    PreparedEmbedder,
    embedder_steps,
    prepare_embedder,
)
from basemlx.engine.errors import EngineDead, GenerationFailed
from basemlx.engine.kv.choose import choose_rows
from basemlx.engine.memory import available_memory_bytes, give_back_freed, memory_use
from basemlx.engine.models.catalogue import aliases_of
from basemlx.engine.models.estimate import LoadPlan
from basemlx.engine.models.loader import LoadedModel, PreparedModel, load_steps, prepare_load
from basemlx.engine.models.loading import LoadTask, Progress, Stage, read_ahead
from basemlx.engine.models.needs import plan_load
from basemlx.engine.models.pool import Room, Taken
from basemlx.engine.models.pressure import MemoryPressure
from basemlx.engine.models.purpose import Purpose, embeds, wrong_purpose
from basemlx.engine.models.shares import divide_memory, give_back
from basemlx.engine.models.sources import ModelSources
from basemlx.engine.runtime import mlx_lm_module, mx

ROOM_SHARE = 0.9
"""Of the memory that is available, what a load may count on."""


class Residence:
    """`on_finished` is told of every request that a worker ends, `stopping` asked between reads of a large file."""

    def __init__(
        self,
        sources: ModelSources,
        embeddings: EmbeddingDesk,
        thread: EngineThread,
        config: EngineConfig,
        max_memory_bytes: int,
        clock: Callable[[], float],
        on_finished: Callable[[FinishedRequest], None],
        stopping: Callable[[], bool],
    ) -> None:
        self.workers: dict[str, ModelWorker] = {}
        self._sources = sources
        self._embeddings = embeddings
        self._thread = thread
        self._config = config
        self._max_memory_bytes = max_memory_bytes
        self._clock = clock
        self._on_finished = on_finished
        self._stopping = stopping
        self._pressure = MemoryPressure(self._give_back, self._divide_memory, clock)
        self._loads: list[LoadTask[Taken]] = []
        self._plans: dict[str, LoadPlan] = {}  # of models that are here
        self._past_steps = 0  # of models that have left

    # any thread

    def __contains__(self, name: str) -> bool:
        return name in self.workers or name in self._embeddings

    def find(self, name: str) -> LoadedModel | LoadedEmbedder | None:
        worker = self.workers.get(name)
        return worker.loaded if worker is not None else self._embeddings.find(name)

    def worker(self, name: str) -> ModelWorker:
        """The model at work, which somebody holds a lease on. Raises InvalidRequest for one that embeds."""
        if name in self._embeddings:
            raise wrong_purpose(name, "generate")
        return self.workers[name]

    @property
    def num_models(self) -> int:
        return len(self.workers) + len(self._embeddings.workers())

    @property
    def num_steps(self) -> int:
        """Of all models, those included that have left."""
        generated = sum(worker.num_steps for worker in self.workers.copy().values())
        return self._past_steps + generated + sum(worker.num_steps for worker in self._embeddings.workers())

    def check_purpose(self, name: str, wanted: Purpose) -> None:
        """From the model's files, if it is not here. Raises InvalidRequest, ModelNotFound or ModelCorrupt."""
        if name in self.workers or name in self._embeddings:
            purpose: Purpose = "generate" if name in self.workers else "embed"
        else:
            purpose = "embed" if embeds(self._sources.of(name).found.folder, name) else "generate"
        if purpose != wanted:
            raise wrong_purpose(name, wanted)

    def plan(self, name: str) -> LoadPlan:
        """How to load the model and what that takes. One that is here keeps its plan: it may have to leave before those
        that ask now are served. Raises ModelNotFound, ModelCorrupt or ModelLoadFailed."""
        there = self._plans.get(name)
        if there is not None:
            return there
        source = self._sources.of(name)
        folder = source.found.folder
        purpose: Purpose = "embed" if embeds(folder, name) else "generate"
        return plan_load(folder, source.adapter, self._config, self._room_bytes(), purpose)

    def _room_bytes(self) -> int:
        """What all models together may have: the limit, or what the machine could give if those that are here left."""
        room = self.room()
        assert room.spare_bytes is not None
        return min(room.limit_bytes, room.spare_bytes + int(ROOM_SHARE * self._weights_bytes()))

    def room(self) -> Room:
        """What models may take, and what the machine has left for more."""
        given_back = sum(worker.prefix_cache.nbytes for worker in self.workers.copy().values())
        spare_bytes = available_memory_bytes() + given_back + memory_use().cache_bytes
        return Room(self._max_memory_bytes, int(ROOM_SHARE * spare_bytes))

    def _weights_bytes(self) -> int:
        generating = sum(worker.loaded.weights_bytes for worker in self.workers.copy().values())
        return generating + sum(worker.loaded.weights_bytes for worker in self._embeddings.workers())

    # the keeper's thread

    def load(self, name: str, plan: LoadPlan, progress: Progress) -> Taken:
        """What the model takes, once it is loaded as planned."""
        taken = self._load(name, plan, progress)
        self._sources.loaded(name)
        return taken

    def _load(self, name: str, plan: LoadPlan, progress: Progress) -> Taken:
        progress("checking", 0.0)
        source = self._sources.fresh(name)
        found = source.found
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
        if self.num_models:
            if plan.num_bytes > available_memory_bytes():
                self._thread.call(self._give_back)
            read_ahead(sorted(found.folder.glob("model*.safetensors")), progress, self._stopping)
        task = LoadTask(self._load_steps(prepared, plan), progress, self._others_have_work)
        self._thread.post(lambda: self._loads.append(task))
        try:
            return _wait_for(task.done, self._thread)
        except Exception:
            with suppress(EngineDead):
                self._thread.call(_clean_up)
            raise

    def drop(self, name: str) -> None:
        self._thread.call(lambda: self._drop(name))
        # A turn later, when nothing of the turn that dropped it refers to it any more.
        self._thread.call(_clean_up)

    # the engine thread

    def steps(self) -> list[Steps]:
        """Whatever may have work: models and loads."""
        self._loads = [task for task in self._loads if task.has_work]
        return [*self.workers.values(), *self._embeddings.workers(), *self._loads]

    def cancel_loads(self) -> None:
        for task in self._loads:
            task.cancel()

    def _others_have_work(self) -> bool:
        workers: list[Steps] = [*self.workers.values(), *self._embeddings.workers()]
        return any(worker.has_work for worker in workers)

    def _load_steps(
        self, prepared: PreparedModel | PreparedEmbedder, plan: LoadPlan
    ) -> Generator[Stage, None, Taken]:
        config = self._config
        loaded: LoadedModel | LoadedEmbedder
        if isinstance(prepared, PreparedEmbedder):
            loaded = yield from embedder_steps(
                prepared, precision=plan.precision, max_context_tokens=config.max_context_tokens
            )
            self._embeddings.add(loaded)
        else:
            loaded = yield from load_steps(
                prepared, precision=plan.precision, max_context_tokens=config.max_context_tokens
            )
            yield "warming up", 0.0
            worker = self._worker_of(loaded)
            yield "warming up", 0.5
            if config.warm_up:
                worker.warm_up()
            self.workers[prepared.name] = worker
        self._plans[prepared.name] = plan
        self._divide_memory()
        return Taken(max(plan.num_bytes, loaded.weights_bytes), int(ROOM_SHARE * loaded.weights_bytes))

    def _worker_of(self, loaded: LoadedModel) -> ModelWorker:
        make_cache = mlx_lm_module("models.cache").make_prompt_cache
        return ModelWorker(
            loaded,
            choose_rows(loaded.model, lambda: make_cache(loaded.model), loaded.vocab_size),
            self._config,
            kv_budget_bytes=0,
            prefix_cache_bytes=0,
            clock=self._clock,
            on_finished=self._on_finished,
        )

    def look_at_memory(self) -> None:
        """Between turns: gives back what can be computed again where the machine runs short."""
        self._pressure.look()

    def _drop(self, name: str) -> None:
        self._plans.pop(name, None)
        gone = GenerationFailed("The model was unloaded.")  # nobody is left: it settles what is in flight
        worker = self.workers.get(name)
        if worker is not None:
            worker.fail_all(gone)
            worker.prefix_cache.clear()
            self._past_steps += worker.num_steps
            del self.workers[name]
        else:
            self._past_steps += self._embeddings.drop(name, gone)
        self._divide_memory()

    def _give_back(self) -> None:
        """Frees what can be computed again, and lowers the budgets to what there is."""
        give_back(list(self.workers.values()))
        self._divide_memory()

    def _divide_memory(self) -> None:
        embedder_bytes = sum(worker.loaded.weights_bytes for worker in self._embeddings.workers())
        divide_memory(list(self.workers.values()), embedder_bytes, self._config, self._max_memory_bytes)


def _clean_up() -> None:
    """What a model that is gone leaves behind. On the engine thread."""
    gc.collect()  # modules refer to each other in circles
    # Layers are made with random weights that nobody evaluates. The generator's state depends on them all, and the
    # graph behind it would grow by 50 kB with every load.
    mx.eval(mx.random.state)
    give_back_freed()


def _wait_for(future: "Future[Taken]", thread: EngineThread) -> Taken:
    while True:
        try:
            return future.result(timeout=0.5)
        except TimeoutError:
            if not future.done() and not thread.alive:
                raise EngineDead(
                    "The engine stopped while the model was loaded. Restart the process."
                ) from None
