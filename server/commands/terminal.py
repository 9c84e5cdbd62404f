"""Progress and text on a terminal; on a pipe or in a file, nothing but the text. Progress goes to stderr."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Without control characters: what a model writes must not steer the terminal."""
    return _CONTROL.sub("", text)


@contextmanager
def load_progress(name: str) -> Iterator[Callable[[str, float], None] | None]:
    """A bar for `Engine.load(progress=…)`; None where nobody would see it."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"{name}: loading", total=1.0)

        def show(stage: str, fraction: float) -> None:
            progress.update(task, description=f"{name}: {stage}", completed=min(max(fraction, 0.0), 1.0))

        yield show


@contextmanager
def waiting(text: str | Callable[[], str]) -> Iterator[Callable[[], None]]:
    """A spinner with `text`, or with what it says at each moment, until the yielded function is called."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console

    status = Console(stderr=True).status(text if isinstance(text, str) else _Changing(text))
    status.start()
    try:
        yield status.stop
    finally:
        status.stop()


class _Changing:
    """Text that is asked for whenever the terminal is drawn."""

    def __init__(self, text: Callable[[], str]) -> None:
        self._text = text

    def __rich__(self) -> str:
        return self._text()
