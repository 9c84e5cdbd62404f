"""Brings a model from a hub into the Hugging Face cache, where every program that uses it finds it; and takes it away.

    model_info ─▶ files worth having ─▶ room? ─▶ blobs, checked one by one ─▶ a snapshot of links, renamed into place

The hub's API, its addresses, tokens and settings (HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, HF_HUB_CACHE) are
huggingface_hub's; the bytes are fetched here (`transfer`), because it neither verifies what it fetches over HTTP, nor
resumes what another process began, nor keeps a half-fetched snapshot out of sight. A note beside the snapshots
remembers what is being brought, before the first byte comes, so that removing takes all of it, a pull's that never
ended too, and touches nothing else.
"""

import contextlib
import fcntl
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self
from urllib.parse import quote

import httpx

from basemlx.engine.errors import ModelLoadFailed, ModelNotFound
from basemlx.engine.models.catalogue import repository_of, suggest
from basemlx.engine.models.config import read_json_object
from basemlx.engine.models.discovery import (
    BUILT_IN_NAME,
    CACHE_PREFIX,
    NOTE_NAME,
    hub_cache_folder,
    is_hub_name,
)
from basemlx.engine.models.folder import shards_of
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
MAX_FILES = 2000
_THREADS = 4
_PARTS = ("blobs", "refs", "snapshots")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,200}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_OID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._ +-]{0,199}")
_ROOT_SUFFIXES = frozenset({".json", ".jinja", ".txt", ".model", ".tiktoken", ".safetensors"})
_MODULE_FOLDER = re.compile(r"\d+_[A-Za-z]+")  # 1_Pooling, 2_Dense: parts of a sentence-transformers model
_FOREIGN = {".gguf": "GGUF", ".bin": "pickle", ".pth": "pickle", ".pt": "pickle", ".onnx": "ONNX"}


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
    endpoint, token = _hub(endpoint)
    commit, files = _listing(repository, revision, endpoint, token)
    folder = cache / (CACHE_PREFIX + repository.replace("/", "--"))
    total = sum(file.size_bytes for file in files)
    with _disk_errors(cache), _only_one(cache, folder, on_wait), _Store(folder) as store:
        missing = [file for file in files if not store.has(file)]
        _check_space(folder, missing)
        store.expect(commit, missing)
        _fetch_all(
            repository,
            commit,
            missing,
            store,
            endpoint,
            token,
            progress,
            total,
            stall_timeout_s,
            pause_s,
            stop,
        )
        store.publish(commit, revision, files, brought=missing)
    return Pulled(repository, commit, total, sum(file.size_bytes for file in missing))


def remove(name: str, *, cache: Path | None = None) -> int:
    """Removes what `pull` brought of a model, wholly or not; the bytes that this freed. Raises what `check_removable`
    raises, and PullFailed where the disk does not let go."""
    cache = hub_cache_folder() if cache is None else cache
    folder = check_removable(name, cache=cache)
    with _disk_errors(cache), _only_one(cache, folder), _Store(folder) as store:
        return store.withdraw()


def check_removable(name: str, *, cache: Path | None = None) -> Path:
    """The folder in which `pull` brought it. Raises ModelNotFound for what it did not bring."""
    if name == BUILT_IN_NAME:
        raise ModelNotFound(f"{name!r} is built in and cannot be removed.", param="model")
    repository = repository_of(name)
    cache = hub_cache_folder() if cache is None else cache
    folder = cache / (CACHE_PREFIX + repository.replace("/", "--"))
    if not is_hub_name(repository) or not _Store(folder).has_brought:
        raise ModelNotFound(
            f"{name!r} was not brought by basemlx pull, so it is not removed. Use the program that brought it.",
            param="model",
        )
    return folder


# what the hub says


def _hub(endpoint: str | None) -> tuple[str, str | None]:
    """Address and token, as huggingface_hub's settings have them."""
    import huggingface_hub

    if huggingface_hub.is_offline_mode():
        raise PullFailed("HF_HUB_OFFLINE is set, so nothing is downloaded. Unset it to pull.")
    return (endpoint or huggingface_hub.constants.ENDPOINT).rstrip("/"), huggingface_hub.get_token()


def _listing(
    repository: str, revision: str, endpoint: str, token: str | None
) -> tuple[str, list[RemoteFile]]:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        info = HfApi(endpoint=endpoint, token=token or False).model_info(
            repository, revision=revision, files_metadata=True, timeout=STALL_TIMEOUT_S
        )
    except GatedRepoError:
        raise PullFailed(
            f"{repository} is gated: its makers want their conditions accepted. Do that on "
            f"{endpoint}/{repository}, then set HF_TOKEN to a token of yours."
        ) from None
    except RevisionNotFoundError:
        raise PullFailed(f"{repository} has no revision {revision!r}.") from None
    except RepositoryNotFoundError:
        private = "" if token else " If it is private, set HF_TOKEN."
        raise ModelNotFound(f"{repository} does not exist on {endpoint}.{private}", param="model") from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "an error")
        raise PullFailed(f"The hub {endpoint} answered {status}. Try again later.") from None
    except Exception as error:  # the library's transport and parsing errors are of several libraries
        raise PullFailed(
            f"The hub {endpoint} cannot be reached, or it is none ({type(error).__name__}). Check the network and "
            "HF_ENDPOINT."
        ) from None
    if not isinstance(info.sha, str) or not _COMMIT.fullmatch(info.sha):
        raise PullFailed(f"The hub {endpoint} names no commit for {repository}.")
    return info.sha, _chosen(repository, info.siblings or [])


def _chosen(repository: str, siblings: list[Any]) -> list[RemoteFile]:
    """The files that a model needs and that are safe to have."""
    names = [str(sibling.rfilename) for sibling in siblings]
    has_plain_names = any(re.fullmatch(r"model.*\.safetensors", name) for name in names)
    files = []
    for sibling in siblings:
        name = str(sibling.rfilename)
        if not _is_wanted(name, has_plain_names):
            continue
        oid = sibling.lfs.sha256 if sibling.lfs is not None else sibling.blob_id
        size = sibling.lfs.size if sibling.lfs is not None else sibling.size
        if not isinstance(size, int) or size < 0 or not isinstance(oid, str) or not _OID.fullmatch(oid):
            raise PullFailed(f"The hub gives no size and hash for {name[:100]!r}, so it cannot be checked.")
        files.append(RemoteFile(name, size, oid, sibling.lfs is not None))
    if "config.json" not in names or not any(f.name.endswith(".safetensors") for f in files):
        kinds = sorted({_FOREIGN[s] for name in names if (s := PurePosixPath(name).suffix) in _FOREIGN})
        found = f" It has {' and '.join(kinds)} files." if kinds else ""
        raise ModelLoadFailed(
            f"{repository} holds no safetensors model that could be run.{found} Look for an MLX version of it, for "
            "instance at mlx-community."
        )
    _check_loadable(repository, {file.name for file in files})
    if len(files) > MAX_FILES:
        raise PullFailed(f"{repository} has more files than any model.")
    return files


def _check_loadable(repository: str, names: set[str]) -> None:
    """Before anything is fetched: what `models.folder` will want of the files. Raises ModelLoadFailed."""
    weights = {name for name in names if re.fullmatch(r"model[^/]*\.safetensors", name)}
    lacking = sorted(shards_of(weights) - weights)
    if not weights:
        problem = "its weights are not called model*.safetensors, as those are that mlx-lm reads"
    elif lacking:
        problem = f"{len(lacking)} of its weight files are missing on the hub, {lacking[0]} for one"
    elif "tokenizer.json" not in names:
        problem = "it has no tokenizer.json, and basemlx reads no other kind of tokenizer"
    else:
        return
    raise ModelLoadFailed(
        f"{repository} could not be loaded here, so nothing was downloaded: {problem}. Look for an MLX version of it, "
        "for instance at mlx-community."
    )


def _is_wanted(name: str, has_plain_names: bool) -> bool:
    parts = name.split("/")
    if not all(_FILE_NAME.fullmatch(part) for part in parts) or len(parts) > 2:
        return False
    suffix = PurePosixPath(name).suffix
    if len(parts) == 2:
        return bool(_MODULE_FOLDER.fullmatch(parts[0])) and suffix in (".json", ".safetensors")
    if suffix == ".safetensors" and has_plain_names:
        return name.startswith("model")  # beside those, repositories keep other programs' copies
    return suffix in _ROOT_SUFFIXES


# the bytes


def _check_space(folder: Path, missing: list[RemoteFile]) -> None:
    blobs = folder / "blobs"
    held = sum(_size(blobs / (file.oid + PARTIAL_SUFFIX)) for file in missing)
    needed = sum(file.size_bytes for file in missing) - held
    free = shutil.disk_usage(blobs).free
    if needed > 0 and needed + FREE_MARGIN_BYTES > free:
        raise PullFailed(
            f"{needed / 1e9:.2f} GB are to come and {free / 1e9:.2f} GB are free where the cache is. Make room, or "
            "set HF_HUB_CACHE to a larger disk."
        )


def _fetch_all(
    repository: str,
    commit: str,
    missing: list[RemoteFile],
    store: "_Store",
    endpoint: str,
    token: str | None,
    progress: Progress,
    total: int,
    stall_timeout_s: float,
    pause_s: float,
    stop: Callable[[], bool],
) -> None:
    lock, failed = threading.Lock(), threading.Event()
    done = total - sum(file.size_bytes for file in missing)
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
        transfer = Transfer(client, endpoint, token, pause_s, lambda: failed.is_set() or stop())

        def fetch(file: RemoteFile) -> None:
            url = f"{endpoint}/{repository}/resolve/{commit}/{quote(file.name)}"
            transfer.fetch(url, file, store.blob(file), advance)

        advance(0)
        by_oid = {file.oid: file for file in missing}  # the same content under two names comes once
        with ThreadPoolExecutor(_THREADS) as threads:
            futures = [threads.submit(fetch, file) for file in by_oid.values()]
            try:
                finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                failed.set()
            errors = [error for future in finished if (error := future.exception()) is not None]
            for error in sorted(errors, key=lambda error: isinstance(error, PullStopped)):
                raise error


# the cache


class _Store:
    """One repository of the cache. Under its lock; as a context manager, leaves no empty folders."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Self:
        for name in _PARTS:
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *exc: object) -> None:
        if not (self._folder / NOTE_NAME).exists():  # else something was brought, or is to come
            for name in _PARTS:
                _remove_empty(self._folder / name)
            with contextlib.suppress(OSError):
                self._folder.rmdir()

    def blob(self, file: RemoteFile) -> Path:
        return self._folder / "blobs" / file.oid

    def has(self, file: RemoteFile) -> bool:
        return _size(self.blob(file)) == file.size_bytes and self.blob(file).is_file()

    @property
    def has_brought(self) -> bool:
        """Whether anything here is to be removed. A pull that found all of it there brought nothing."""
        entries = self._note().get("commits", {}).values()
        return any(entry.get("files") or entry.get("blobs") for entry in entries)

    def expect(self, commit: str, missing: list[RemoteFile]) -> None:
        """Notes what is about to be brought: a pull that never ends leaves nothing that cannot be removed."""
        if missing:
            note = self._note()
            entry = note.setdefault("commits", {}).setdefault(commit, {"files": [], "blobs": []})
            entry["blobs"] = sorted({*entry["blobs"], *(file.oid for file in missing)})
            self._write_note(note)

    def publish(self, commit: str, revision: str, files: list[RemoteFile], brought: list[RemoteFile]) -> None:
        """Makes the snapshot appear, in one step where it is new. What was brought is noted first, so that a crash in
        between leaves nothing that cannot be removed."""
        note = self._note()
        entry = note.setdefault("commits", {}).setdefault(commit, {"files": [], "blobs": []})
        snapshot = self._folder / "snapshots" / commit
        new_links = [file.name for file in files if not (snapshot / file.name).is_symlink()]
        entry["files"] = sorted({*entry["files"], *new_links})
        entry["blobs"] = sorted({*entry["blobs"], *(file.oid for file in brought)})
        note["current"] = commit
        if not _COMMIT.fullmatch(revision):
            before, refs = _commit_in(self._reference(revision)), note.setdefault("refs", {})
            if before not in (None, commit) and (before not in note["commits"] or revision not in refs):
                refs[revision] = before  # another program's, perhaps: removing gives it back
        self._write_note(note)
        if snapshot.is_dir():
            for file in sorted(files, key=lambda file: file.name == "config.json"):
                self._link(snapshot, file)
        else:
            staging = self._folder / "snapshots" / f".basemlx-{commit}"
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
            for file in files:
                self._link(staging, file)
            staging.rename(snapshot)
        if not _COMMIT.fullmatch(revision):
            _write_atomically(self._reference(revision), commit)

    def _reference(self, revision: str) -> Path:
        path = self._folder / "refs" / revision
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _link(self, snapshot: Path, file: RemoteFile) -> None:
        link = snapshot / file.name
        link.parent.mkdir(exist_ok=True)
        if link.is_symlink() and not link.exists():
            link.unlink()
        if not link.exists():
            up = "../" * (2 + file.name.count("/"))
            link.symlink_to(f"{up}blobs/{file.oid}")

    def withdraw(self) -> int:
        note = self._note()
        commits: dict[str, Any] = note.get("commits", {})
        snapshots, blobs = self._folder / "snapshots", self._folder / "blobs"
        for commit, entry in commits.items():
            if not _COMMIT.fullmatch(commit):
                continue
            for name in sorted(entry.get("files", []), key=lambda name: name != "config.json"):
                link = snapshots / commit / str(name)
                if _is_wanted(str(name), False) and link.is_symlink():
                    link.unlink()
            _remove_empty(snapshots / commit)
        still_used = {
            os.path.basename(os.readlink(link)) for link in snapshots.rglob("*") if link.is_symlink()
        }
        freed = 0
        oids = {str(oid) for entry in commits.values() for oid in entry.get("blobs", [])}
        for path in [
            *(blobs / oid for oid in oids if _OID.fullmatch(oid)),
            *blobs.glob("*" + PARTIAL_SUFFIX),
        ]:
            if path.name not in still_used and path.is_file():
                freed += _size(path)
                path.unlink()
        refs = self._folder / "refs"
        before: dict[str, Any] = note.get("refs", {})
        for reference in [path for path in refs.rglob("*") if path.is_file()]:
            if _commit_in(reference) not in commits:
                continue
            earlier = str(before.get(reference.relative_to(refs).as_posix()))
            if _COMMIT.fullmatch(earlier) and (snapshots / earlier).is_dir():
                _write_atomically(reference, earlier)  # another program's, which pull moved on
            elif not (snapshots / str(_commit_in(reference))).exists():
                reference.unlink()
        (self._folder / NOTE_NAME).unlink(missing_ok=True)
        return freed

    def _note(self) -> dict[str, Any]:
        path = self._folder / NOTE_NAME
        if not path.is_file():
            return {}
        note = read_json_object(path)
        commits = note.get("commits")
        is_ours = isinstance(commits, dict) and all(isinstance(entry, dict) for entry in commits.values())
        return note if is_ours and isinstance(note.get("refs", {}), dict) else {}

    def _write_note(self, note: dict[str, Any]) -> None:
        _write_atomically(self._folder / NOTE_NAME, json.dumps(note, indent=1))


@contextlib.contextmanager
def _only_one(cache: Path, folder: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """One pull or removal of a repository at a time; another waits, and is told so. The lock goes with its process."""
    locks = cache / ".locks" / folder.name
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / "basemlx.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _disk_errors(cache: Path) -> Iterator[None]:
    """What the system refuses, as an error that says so."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, str(error.filename or cache)) from None


def _commit_in(reference: Path) -> str | None:
    """What a branch or tag points at, None where that is no commit."""
    try:
        commit = reference.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _remove_empty(folder: Path) -> None:
    """The folder and those in it that are empty, deepest first; never a file."""
    if not folder.is_dir():
        return
    inside = [path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink()]
    for path in [*sorted(inside, reverse=True), folder]:
        with contextlib.suppress(OSError):
            path.rmdir()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
