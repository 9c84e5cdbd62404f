"""The one thread that owns MLX: takes messages, gives each model with work a turn, and shows that it is alive.

Messages are callables run between steps; `call` waits for one's result. Models take turns step by step, so that two
of them answer at the same time. It knows workers only as things that step.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol, TypeVar

from basemlx.engine.errors import EngineDead

logger = logging.getLogger("basemlx.engine")

IDLE_AFTER_S = 1.0
"""Without work for so long the engine counts as idle: longer than an agent takes between two of its calls mostly."""

T = TypeVar("T")
Message = Callable[[], None]


class Steps(Protocol):
    """What the thread turns."""

    @property
    def has_work(self) -> bool: ...

    def step(self) -> None: ...


class EngineThread:
    """Runs until `stop`, or until `on_error` says that a failed step cannot be got over.

    `on_error(worker, error)` is called on this thread and returns whether the engine may go on; `on_idle` each time
    there has been nothing to do for IDLE_AFTER_S; `on_turn` after each turn that had something to do; `on_death` once,
    when the thread ends for another reason than `stop`.
    """

    def __init__(
        self,
        workers: Callable[[], list[Steps]],
        on_error: Callable[[Steps, Exception], bool],
        on_death: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        on_idle: Callable[[], None] = lambda: None,
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        self._workers = workers
        self._on_error = on_error
        self._on_death = on_death
        self._on_idle = on_idle
        self._on_turn = on_turn
        self._clock = clock
        self._inbox: deque[Message] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._busy = False
        self._was_idle = True  # and `on_idle` has been called
        self._heartbeat_s = clock()
        self._thread = threading.Thread(target=self._run, name="basemlx-engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def post(self, message: Message) -> None:
        """Queues a message; never blocks. Raises EngineDead if nobody will read it."""
        with self._wake:
            if self._stopping or not self._thread.is_alive():
                raise EngineDead("The engine has stopped. Restart the process.")
            self._inbox.append(message)
            self._wake.notify()

    def call(self, function: Callable[[], T]) -> T:
        """Runs `function` on the engine thread and returns its result or raises its error."""
        if threading.current_thread() is self._thread:
            return function()
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except BaseException as error:  # handed to the caller, whatever it is
                future.set_exception(error)

        self.post(run)
        while True:
            try:
                return future.result(timeout=0.5)
            except TimeoutError:
                if not future.done() and not self._thread.is_alive():
                    raise EngineDead("The engine stopped before it answered. Restart the process.") from None

    def stop(self, timeout_s: float) -> bool:
        """Ends the thread after the step it is in; whether it ended in time."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
            _await_thread_exit(self._thread)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def heartbeat_age_s(self) -> float:
        """Seconds since the thread last finished a step or message; 0 while it has nothing to do."""
        return self._clock() - self._heartbeat_s if self._busy else 0.0

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException:
            logger.exception("the engine thread has died")
        finally:
            self._busy = False
            if not self._stopping:
                self._on_death()

    def _turn(self) -> bool:
        """Messages, then one step of each worker; False when the thread is to end."""
        with self._wake:
            while not (self._inbox or self._stopping or any(w.has_work for w in self._workers())):
                self._busy = False
                if not self._wake.wait(None if self._was_idle else IDLE_AFTER_S):
                    break
            if self._stopping:
                return False
            # At one stroke: a stream that the collector drops right here posts its abort on this thread, lock or not.
            messages, self._inbox = self._inbox, deque()
        if not messages and not any(w.has_work for w in self._workers()):
            self._was_idle = True
            self._on_idle()
            return True
        self._was_idle = False
        self._heartbeat_s, self._busy = self._clock(), True
        for message in messages:
            message()
            self._heartbeat_s = self._clock()
        for worker in self._workers():
            if worker.has_work:
                try:
                    worker.step()
                except Exception as error:
                    logger.exception("a step failed")
                    if not self._on_error(worker, error):
                        return False
                self._heartbeat_s = self._clock()
        self._on_turn()
        return True


def _await_thread_exit(thread: threading.Thread) -> None:
    """Waits for the operating system's thread behind a joined one.

    `join` returns when Python code has ended; MLX's thread-local state is torn down after that and takes the GIL.
    If the interpreter ends in between, the process aborts ("terminate called without an active exception").
    """
    tasks = Path("/proc/self/task")
    for _ in range(100):
        time.sleep(0.005)
        if not tasks.exists() or not (tasks / str(thread.native_id)).exists():
            return
