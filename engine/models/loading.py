"""One load in progress, as something the engine thread can step between other models' steps.

What has to run on the engine thread, which owns every MLX object: building the architecture, binding and evaluating
weights, the first forwards. What does not, and therefore comes first on the keeper's thread: checking headers and JSON,
tokenizer and template, and, where other models are answering, reading the weight files once, so that evaluating them
copies from the page cache and never waits for a disk.

A slice is at least one module's weights, and as many as fit SLICE_S while others have work.
"""

import os
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Generic, TypeVar

from basemlx.engine.errors import ShuttingDown

T = TypeVar("T")

Stage = tuple[str, float]
Progress = Callable[[str, float], None]

SLICE_S = 0.02
"""How long a load holds the engine thread at a time while another model has work: about a step."""

ALONE_SLICE_S = 0.25
"""The same while nobody else has work: short enough that an arriving request is noticed."""

_READ_BYTES = 8 * 2**20


class LoadTask(Generic[T]):
    """Advances `steps` when stepped; `done` gets its result or its error. Fits `engine.core.thread.Steps`."""

    def __init__(
        self, steps: Generator[Stage, None, T], progress: Progress, others_have_work: Callable[[], bool]
    ) -> None:
        self._steps = steps
        self._progress = progress
        self._others_have_work = others_have_work
        self.done: Future[T] = Future()

    @property
    def has_work(self) -> bool:
        return not self.done.done()

    def step(self) -> None:
        """One slice. Errors go to `done`: a load that fails is no failed step."""
        started_s = time.monotonic()
        try:
            while True:
                self._progress(*next(self._steps))
                slice_s = SLICE_S if self._others_have_work() else ALONE_SLICE_S
                if time.monotonic() - started_s >= slice_s:
                    return
        except StopIteration as end:
            self.done.set_result(end.value)
        except BaseException as error:
            self.done.set_exception(without_frames(error))

    def cancel(self) -> None:
        """Gives the load up; on the engine thread."""
        if self.has_work:
            self._steps.close()
            self.done.set_exception(ShuttingDown("The engine was closed."))


def without_frames(error: BaseException) -> BaseException:
    """The error less what its traceback holds in memory: the frames of a failed load refer to the weights."""
    seen: BaseException | None = error
    while seen is not None:
        following = seen.__cause__ or seen.__context__
        seen.__traceback__ = seen.__cause__ = seen.__context__ = None
        seen = following
    return error


def read_ahead(files: Sequence[Path], progress: Progress, stop: Callable[[], bool]) -> None:
    """Reads files for the page cache's sake. What cannot be read now will be an error later, in the load itself."""
    total = max(1, sum(_size(file) for file in files))
    done = 0
    buffer = bytearray(_READ_BYTES)
    for path in files:
        try:
            with path.open("rb", buffering=0) as file:
                if hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
                while count := file.readinto(buffer):
                    done += count
                    progress("reading", done / total)
                    if stop():
                        return
        except OSError:
            continue


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
