"""Brings a model from a hub into the Hugging Face cache, where every program that uses it finds it; and takes it away.

    listing: files worth having ─▶ room? ─▶ transfer: blobs, checked one by one ─▶ store: a snapshot, in one step

Blobs that are there already are read and checked, too: a disk may have damaged them since, or another program have
brought them unchecked. Damaged ones come anew.

huggingface_hub supplies the API (`listing`); the bytes are fetched here (`transfer`), because it neither verifies what
it fetches over HTTP, nor resumes what another process began, nor keeps a half-fetched snapshot out of sight. What
comes is noted as each file gets its name (`store`), so that removing takes all of it, a pull's that never ended too,
and touches nothing else.
"""

import contextlib
import logging
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

import httpx

from basemlx.engine.errors import ModelNotFound
from basemlx.engine.models.catalogue import repository_of, suggest
from basemlx.engine.models.discovery import BUILT_IN_NAME, hub_cache_folder, is_hub_name
from basemlx.engine.models.listing import Listing, hub_of, list_repository
from basemlx.engine.models.store import Store, only_one, repository_folder, size_of
from basemlx.engine.models.transfer import (
    PARTIAL_SUFFIX,
    PullFailed,
    PullStopped,
    RemoteFile,
    Transfer,
    disk_error,
)

logger = logging.getLogger("basemlx.engine")

Progress = Callable[[int, int], None]

STALL_TIMEOUT_S = 30.0
FREE_MARGIN_BYTES = 64 * 2**20
_THREADS = 4
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,200}")


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull came to. `fetched_bytes` is 0 where all of it was there."""

    name: str
    commit: str
    size_bytes: int
    fetched_bytes: int


def pull(
    name: str,
    *,
    revision: str = "main",
    cache: Path | None = None,
    endpoint: str | None = None,
    progress: Progress = lambda _done, _total: None,
    stall_timeout_s: float = STALL_TIMEOUT_S,
    pause_s: float = 1.0,
    stop: Callable[[], bool] = lambda: False,
    on_wait: Callable[[], None] = lambda: None,
) -> Pulled:
    """Fetches a model, a short name or `org/name`; `progress(done, total)` in bytes, from any thread. `on_wait` is
    called if another process has the repository in hand and is waited for.

    Resumes what an earlier call left. Raises PullFailed, ModelNotFound or ModelLoadFailed."""
    repository = repository_of(name)
    if not is_hub_name(repository):
        close = suggest(name, [])
        hint = f" Did you mean {' or '.join(close)}?" if close else " Give org/name, or a short name."
        raise ModelNotFound(f"{name!r} is no name of a model on the hub.{hint}", param="model")
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise PullFailed(f"{revision!r} is no revision: give a branch, a tag or a commit.")
    cache = hub_cache_folder() if cache is None else cache
    listing = list_repository(repository, revision, *hub_of(endpoint))
    folder = repository_folder(cache, listing.repository)
    with _disk_errors(cache), only_one(cache, folder, on_wait), Store(folder) as store:
        missing = [file for file in listing.files if not store.has(file)]
        _check_space(folder, missing)
        fetched = _fetch_all(listing, store, progress, stall_timeout_s, pause_s, stop)
        store.publish(listing.commit, revision, listing.files)
    fetched_bytes = sum(file.size_bytes for file in fetched)
    return Pulled(listing.repository, listing.commit, listing.size_bytes, fetched_bytes)


def remove(name: str, *, cache: Path | None = None, on_wait: Callable[[], None] = lambda: None) -> int:
    """Removes what `pull` brought of a model, wholly or not; the bytes that this freed. `on_wait` as in `pull`. Raises
    what `check_removable` raises, and PullFailed where the disk does not let go."""
    cache = hub_cache_folder() if cache is None else cache
    folder = check_removable(name, cache=cache)
    with _disk_errors(cache), only_one(cache, folder, on_wait), Store(folder) as store:
        return store.withdraw()


def check_removable(name: str, *, cache: Path | None = None) -> Path:
    """The folder in which `pull` brought it. Raises ModelNotFound for what it did not bring, and PullFailed where that
    is not known any more."""
    if name == BUILT_IN_NAME:
        raise ModelNotFound(f"{name!r} is built in and cannot be removed.", param="model")
    repository = repository_of(name)
    cache = hub_cache_folder() if cache is None else cache
    folder = repository_folder(cache, repository)
    if not is_hub_name(repository) or not Store(folder).has_brought:
        raise ModelNotFound(
            f"{name!r} was not brought by basemlx pull, so it is not removed. Use the program that brought it.",
            param="model",
        )
    return folder


def _check_space(folder: Path, missing: list[RemoteFile]) -> None:
    blobs = folder / "blobs"
    held = sum(size_of(blobs / (file.oid + PARTIAL_SUFFIX)) for file in missing)
    needed = sum(file.size_bytes for file in missing) - held
    free = shutil.disk_usage(blobs).free
    if needed > 0 and needed + FREE_MARGIN_BYTES > free:
        raise PullFailed(
            f"{needed / 1e9:.2f} GB are to come and {free / 1e9:.2f} GB are free where the cache is. Make room, or "
            "set HF_HUB_CACHE to a larger disk."
        )


def _fetch_all(
    listing: Listing,
    store: Store,
    progress: Progress,
    stall_timeout_s: float,
    pause_s: float,
    stop: Callable[[], bool],
) -> list[RemoteFile]:
    """Checks what is there and fetches the rest; what was fetched."""
    lock, failed = threading.Lock(), threading.Event()
    total = listing.size_bytes
    by_oid = {file.oid: file for file in listing.files}  # the same content under two names comes once
    done = total - sum(file.size_bytes for file in by_oid.values())
    is_watched = True

    def advance(count: int) -> None:
        nonlocal done, is_watched
        with lock:
            done += count
            try:
                if is_watched:
                    progress(done, total)
            except Exception:  # the watcher's fault: the bytes are here all the same
                logger.exception("a progress callback failed; it is not called again")
                is_watched = False

    timeout = httpx.Timeout(stall_timeout_s)
    with httpx.Client(timeout=timeout, follow_redirects=False) as client:
        transfer = Transfer(
            client, listing.endpoint, listing.token, pause_s, lambda: failed.is_set() or stop()
        )

        def fetch(file: RemoteFile) -> bool:
            if store.has(file) and transfer.is_whole(file, store.blob(file), advance):
                return False
            url = f"{listing.endpoint}/{listing.repository}/resolve/{listing.commit}/{quote(file.name)}"
            on_whole = partial(store.note_brought, listing.commit, file)
            transfer.fetch(url, file, store.blob(file), advance, on_whole)
            return True

        advance(0)
        with ThreadPoolExecutor(_THREADS) as threads:
            futures = {threads.submit(fetch, file): file for file in by_oid.values()}
            try:
                finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                failed.set()
                transfer.shut()  # or who waits for these threads would wait for a stalled hub
            errors = [error for future in finished if (error := future.exception()) is not None]
            for error in sorted(errors, key=lambda error: isinstance(error, PullStopped)):
                raise error
    return [file for future, file in futures.items() if future.result()]


@contextlib.contextmanager
def _disk_errors(cache: Path) -> Iterator[None]:
    """What the system refuses, as an error that says so."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, str(error.filename or cache)) from None
