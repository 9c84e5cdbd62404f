"""Carries out what the model pool decides, on a thread of its own, and hands out leases on loaded models.

    lease(name) ──▶ at once, or a future that waits its turn ──▶ ModelLease ──▶ release
    keeper thread: pool.next_action ──▶ load(name) │ drop(name)    (callables of the engine; one at a time)

Any number of callers may wait for one load; one who gives up does not stop it. A load that fails fails all who wait,
and the next who asks is a new try. While a load runs, leases on other models are given and released as ever: no lock is
held over a load. It imports no MLX and knows no folder: `load` and `drop` do.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

from basemlx.engine.errors import BaseMLXError, ModelLoadFailed, OutOfMemory, RequestAborted, ShuttingDown
from basemlx.engine.models.estimate import LoadPlan
from basemlx.engine.models.pool import (
    Grant,
    Load,
    ModelPool,
    Refuse,
    Resident,
    Room,
    State,
    Taken,
    Unload,
    Wait,
)

logger = logging.getLogger("basemlx.engine")

Progress = Callable[[str, float], None]


class ModelLease:
    """Keeps a model in memory until `release`, which may be called more than once and on any thread."""

    def __init__(self, name: str, share: Callable[[str], None], release: Callable[[str], None]) -> None:
        self.name = name
        self._share = share
        self._release = [release]  # popped once, by whichever thread is first

    def share(self) -> "ModelLease":
        """Another lease on the same model, at once, whoever else waits for its memory: a holder who had to queue for a
        second one would wait for himself. Raises RequestAborted once it is released: its holder has left."""
        releases = list(self._release)
        if not releases:
            raise RequestAborted("The request was given up by its caller.")
        self._share(self.name)
        return ModelLease(self.name, self._share, releases[0])

    def release(self) -> None:
        try:
            release = self._release.pop()
        except IndexError:
            return
        release(self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


@dataclass(slots=True)
class _Stay:
    """How long a model is to stay once it is loaded, as one who waits for it asked. `pinned` None: as it was."""

    pinned: bool | None = None
    idle_ttl_s: float | None = None


@dataclass(slots=True)
class _Waiting:
    """Who waits for one model: futures in order of asking, with how long each wants it to stay (None: no matter), and
    who wants to see progress. `plan` is the first one's: what was decided when the model joined the queue is what is
    loaded."""

    plan: LoadPlan
    futures: dict["Future[ModelLease]", _Stay | None] = field(default_factory=dict)
    progress: list[Progress] = field(default_factory=list)


class ModelKeeper:
    """`load(name, plan, progress)` returns what the model takes; it and `drop(name)` run on the keeper's thread.

    `room()` is asked before each decision and may look at the machine; `on_unserved(name)` hears of models that nobody
    waits for any more and that did not come: refused, failed or given up. It must be quick.
    """

    def __init__(
        self,
        load: Callable[[str, LoadPlan, Progress], Taken],
        drop: Callable[[str], None],
        room: Callable[[], Room],
        clock: Callable[[], float],
        *,
        default_idle_ttl_s: float | None = None,
        on_unserved: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._load = load
        self._drop = drop
        self._room = room
        self._clock = clock
        self._default_idle_ttl_s = default_idle_ttl_s
        self._on_unserved = on_unserved
        self._pool = ModelPool(Room(0))
        self._waiting: dict[str, _Waiting] = {}
        self._leaving: dict[str, list[Future[bool]]] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="basemlx-models", daemon=True)

    def start(self) -> None:
        self._thread.start()

    # leases

    def acquire(self, name: str) -> ModelLease | None:
        """A lease on a model that is loaded and may be used now, else None. Never waits."""
        with self._changed:
            if self._closed or not self._pool.acquire(name, self._clock()):
                return None
        return self._leased(name)

    def request(
        self,
        name: str,
        plan: LoadPlan,
        *,
        progress: Progress | None = None,
        stays: bool = False,
        pinned: bool | None = None,
        idle_ttl_s: float | None = None,
    ) -> "Future[ModelLease]":
        """A lease, as soon as the model is loaded, as `plan` says unless others wait for it already.

        Cancelling the future gives the wait up; a lease that came already is the caller's to release. `stays` makes
        `idle_ttl_s` hold for the model from now on, and `pinned` unless that is None; without it, a model that this
        loads gets the default idle time. Who gave up has no say. The future raises what the load raised, OutOfMemory
        or ShuttingDown.
        """
        future: Future[ModelLease] = Future()
        stay = _Stay(pinned, idle_ttl_s) if stays else None
        with self._changed:
            if self._closed:
                future.set_exception(ShuttingDown("The engine was closed."))
                return future
            if self._pool.acquire(name, self._clock()):
                self._let_stay(name, stay)
                future.set_result(self._leased(name))
                return future
            waiting = self._waiting.setdefault(name, _Waiting(plan))
            waiting.futures[future] = stay
            if progress is not None:
                waiting.progress.append(progress)
            self._pool.want(name, waiting.plan.num_bytes)
            self._changed.notify_all()
        future.add_done_callback(lambda done: self._given_up(name, done) if done.cancelled() else None)
        return future

    def unload(self, name: str) -> "Future[bool]":
        """True once the model is out of memory; False at once if it is not in. Waits for its users; cancelling the
        future lets the model stay."""
        future: Future[bool] = Future()
        with self._changed:
            if self._closed or not self._pool.ask_to_leave(name):
                future.set_result(False)
                return future
            self._leaving.setdefault(name, []).append(future)
            self._changed.notify_all()
        future.add_done_callback(lambda done: self._may_stay(name, done) if done.cancelled() else None)
        return future

    def knows(self, name: str) -> bool:
        """Whether it is in memory, on its way in or out, or waited for."""
        with self._changed:
            return name in self._waiting or self._pool.find(name) is not None

    def keeps(self, name: str) -> bool:
        """Whether it is in memory, or on its way there, and nobody has asked it to leave."""
        with self._changed:
            resident = self._pool.find(name)
            return resident is not None and resident.state is not State.UNLOADING and not resident.leaving

    def residents(self) -> list[Resident]:
        """Copies of the books, in order of loading."""
        with self._changed:
            return [replace(resident) for resident in self._pool]

    def reconsider(self) -> None:
        """Something changed outside: decide anew."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Fails whoever waits and ends the thread after what it is doing; does not wait for that."""
        with self._changed:
            self._closed = True
            waiting = [future for entry in self._waiting.values() for future in entry.futures]
            leaving = [future for futures in self._leaving.values() for future in futures]
            self._waiting.clear()
            self._leaving.clear()
            self._changed.notify_all()
        for future in waiting:
            _fail(future, ShuttingDown("The engine was closed."))
        for answer in leaving:
            _answer(answer, False)

    def check_integrity(self) -> None:
        with self._changed:
            self._pool.check_integrity()

    # inside

    def _let_stay(self, name: str, stay: _Stay | None) -> None:
        if stay is not None:
            self._pool.keep(name, pinned=stay.pinned, idle_ttl_s=stay.idle_ttl_s)

    def _leased(self, name: str) -> ModelLease:
        """For a reference that has been taken."""
        return ModelLease(name, self._share, self._release)

    def _share(self, name: str) -> None:
        with self._changed:
            if not self._pool.share(name, self._clock()):
                raise RequestAborted("The request was given up by its caller.")

    def _release(self, name: str) -> None:
        with self._changed:
            self._pool.release(name, self._clock())
            self._changed.notify_all()

    def _given_up(self, name: str, future: "Future[ModelLease]") -> None:
        with self._changed:
            waiting = self._waiting.get(name)
            if waiting is None or future not in waiting.futures:
                return
            del waiting.futures[future]
            loading = self._pool.find(name)
            if not waiting.futures and (loading is None or loading.state is not State.LOADING):
                del self._waiting[name]
                self._pool.forget(name)
                self._changed.notify_all()
                if loading is None:
                    self._on_unserved(name)

    def _may_stay(self, name: str, future: "Future[bool]") -> None:
        with self._changed:
            futures = self._leaving.get(name, [])
            if future in futures:
                futures.remove(future)
            if not futures:
                self._leaving.pop(name, None)
                self._pool.let_stay(name)
                self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                action = self._next_action()
                while isinstance(action, Wait) and not self._closed:
                    now_s = self._clock()
                    self._changed.wait(None if action.until_s is None else max(0.0, action.until_s - now_s))
                    action = self._next_action()
                if self._closed:
                    return
            if isinstance(action, Load):
                self._carry_load(action.name)
            elif isinstance(action, Unload):
                self._carry_unload(action)
            elif isinstance(action, Grant):
                self._hand_out(action.name)
            elif isinstance(action, Refuse):
                self._turn_away(action.name, _too_large(action))

    def _next_action(self) -> Load | Unload | Grant | Refuse | Wait:
        if self._closed:
            return Wait()
        try:
            self._pool.room = self._room()
        except (
            Exception
        ):  # the machine could not be asked: the figure of before holds, and who waits is served
            logger.exception("how much memory models may have could not be found out")
        return self._pool.next_action(self._clock())

    def _carry_load(self, name: str) -> None:
        with self._changed:
            waiting = self._waiting.get(name)
        if waiting is None:  # closed meanwhile: nobody waits for anything
            return
        plan = waiting.plan
        try:
            taken = self._load(name, plan, lambda stage, fraction: self._report(name, stage, fraction))
        except BaseMLXError as error:
            self._load_failed(name, error)
        except Exception as error:
            logger.exception("loading %s failed", name)
            self._load_failed(
                name, ModelLoadFailed(f"The model {name} could not be loaded ({type(error).__name__}).")
            )
        else:
            with self._changed:
                self._pool.loaded(name, taken, self._clock())
                self._pool.keep(name, idle_ttl_s=self._default_idle_ttl_s)
            self._hand_out(name)

    def _load_failed(self, name: str, error: BaseMLXError) -> None:
        with self._changed:
            self._pool.load_failed(name)
        self._turn_away(name, error)

    def _carry_unload(self, action: Unload) -> None:
        try:
            self._drop(action.name)
        except Exception:
            logger.exception("unloading %s failed", action.name)
        logger.info("model unloaded name=%s reason=%s", action.name, action.reason)
        with self._changed:
            self._pool.unloaded(action.name)
            answers = self._leaving.pop(action.name, [])
        for answer in answers:
            _answer(answer, True)

    def _hand_out(self, name: str) -> None:
        """Leases for all who wait and have not given up."""
        with self._changed:
            waiting = self._waiting.pop(name, None)
            self._pool.forget(name)
            waited = waiting.futures if waiting is not None else {}
            futures = [future for future in waited if future.set_running_or_notify_cancel()]
            for future in futures:
                self._let_stay(name, waited[future])
            self._pool.grant(name, len(futures), self._clock())
        for future in futures:
            future.set_result(self._leased(name))

    def _turn_away(self, name: str, error: BaseMLXError) -> None:
        with self._changed:
            waiting = self._waiting.pop(name, None)
            self._pool.forget(name)
            if self._pool.find(name) is None:
                self._on_unserved(name)
        for future in waiting.futures if waiting is not None else ():
            _fail(future, error)

    def _report(self, name: str, stage: str, fraction: float) -> None:
        with self._changed:
            waiting = self._waiting.get(name)
            watchers = list(waiting.progress) if waiting is not None else []
        for watcher in watchers:
            try:
                watcher(stage, fraction)
            except Exception:  # one caller's fault: the load goes on, for that caller too
                logger.exception("a progress callback failed; it is not called again")
                self._forget_watcher(name, watcher)

    def _forget_watcher(self, name: str, watcher: Progress) -> None:
        with self._changed:
            waiting = self._waiting.get(name)
            if waiting is not None and watcher in waiting.progress:
                waiting.progress.remove(watcher)


def lease_of(future: "Future[ModelLease]") -> ModelLease:
    """Waits for a lease. Whoever is interrupted meanwhile leaves none behind."""
    try:
        return future.result()
    except BaseException:
        give_up(future)
        raise


def give_up(future: "Future[ModelLease]") -> None:
    """For a lease that nobody waits for any more: it is released if it comes all the same."""
    if not future.cancel():
        future.add_done_callback(_release_unclaimed)


def _release_unclaimed(future: "Future[ModelLease]") -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().release()


def _fail(future: "Future[ModelLease]", error: BaseMLXError) -> None:
    try:
        if future.set_running_or_notify_cancel():
            future.set_exception(error)
    except InvalidStateError:
        pass


def _answer(future: "Future[bool]", outcome: bool) -> None:
    try:
        if future.set_running_or_notify_cancel():
            future.set_result(outcome)
    except InvalidStateError:
        pass


def _too_large(refused: Refuse) -> OutOfMemory:
    pinned = f", {_gib(refused.pinned_bytes)} of it pinned" if refused.pinned_bytes else ""
    return OutOfMemory(
        f"The model {refused.name} needs about {_gib(refused.needed_bytes)} to run and models may have "
        f"{_gib(refused.ceiling_bytes)} in all{pinned}. Use a smaller or more strongly quantised model, a shorter "
        "context (--max-context-tokens), or allow more (--max-memory)."
    )


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"
