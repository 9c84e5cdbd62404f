"""`basemlx pull` and `basemlx rm`: models onto this machine and off it."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from basemlx.engine.models.catalogue import repository_of
from basemlx.engine.models.discovery import Discovery, hub_cache_folder
from basemlx.engine.models.hub import check_removable, remove
from basemlx.engine.models.hub import pull as fetch
from basemlx.server.commands.client import NoServer, Refused, ServerClient
from basemlx.server.commands.naming import meant
from basemlx.server.commands.table import size_text

EXIT_OK, EXIT_FAILURE = 0, 1


def pull(name: str, *, revision: str | None) -> int:
    """The exit code. A model that another program has brought is not fetched again, unless a `revision` of it is asked
    for. Raises BaseMLXError."""
    name = meant(name)
    repository = repository_of(name)
    here = Discovery().find(repository)
    if here is not None and here.source == "built-in":
        print(f"{repository} is built in; there is nothing to download")
        return EXIT_OK
    if revision is None and here is not None and here.problem is None and here.source != "huggingface":
        print(f"{repository} is on this machine already ({here.source}); nothing was downloaded")
        return EXIT_OK
    stopped = threading.Event()
    try:
        with _bar(repository) as progress:
            pulled = fetch(
                name,
                revision=revision or "main",
                progress=progress,
                stop=stopped.is_set,
                on_wait=lambda: _say_waiting(repository),
            )
    except KeyboardInterrupt:
        stopped.set()
        raise
    if not pulled.fetched_bytes:
        print(
            f"{pulled.name} is here already, complete ({size_text(pulled.size_bytes)}, {pulled.commit[:12]})"
        )
    else:
        print(f"{pulled.name} is here ({size_text(pulled.size_bytes)}, {pulled.commit[:12]})")
        print(f"Try: basemlx run --model {name} 'Hello'", file=sys.stderr)
    return EXIT_OK


def rm(name: str, host: str, port: int, *, yes: bool) -> int:
    """The exit code; asks on a terminal unless `yes`. Raises BaseMLXError."""
    repository = repository_of(meant(name, allows_prefix=not yes))
    check_removable(repository)
    if _is_loaded(repository, host, port):
        print(f"basemlx: a server has {repository} loaded; first: basemlx unload {name}", file=sys.stderr)
        return EXIT_FAILURE
    if not yes:
        if not sys.stdin.isatty():
            print("basemlx: nobody can be asked here; add --yes", file=sys.stderr)
            return EXIT_FAILURE
        answer = input(f"Remove what basemlx pull brought of {repository} from {hub_cache_folder()}? [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            return EXIT_FAILURE
    freed = remove(repository, on_wait=lambda: _say_waiting(repository))
    print(f"{repository} is removed, {size_text(freed)} freed")
    left = Discovery().find(repository)
    if left is not None:
        print(f"What another program has of it stays ({left.source})", file=sys.stderr)
    return EXIT_OK


def _say_waiting(repository: str) -> None:
    print(f"another basemlx has {repository} in hand; waiting for it", file=sys.stderr, flush=True)


def _is_loaded(repository: str, host: str, port: int) -> bool:
    """Whether the server there has it in memory; no server has nothing. Raises Refused where one does not say."""
    try:
        models = ServerClient(host, port).models()
    except NoServer:
        return False
    except Refused as refused:
        raise Refused(
            f"A server runs at {host}:{port} and does not say whether it has {repository} loaded, so nothing was "
            f"removed. {refused.message}"
        ) from None
    return any(model["id"] == repository and model.get("state") for model in models)


@contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
