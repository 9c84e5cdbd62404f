"""One repository of the Hugging Face cache: what `pull` puts into it and what `rm` takes out, and nothing else.

    blobs/OID                 contents, under their hash
    snapshots/COMMIT/NAME     links to them; a new snapshot appears in one step
    refs/BRANCH               the commit that a branch or tag points at
    .basemlx.json             what was brought, noted as it gets its name; where branches pointed before

Other programs use the same folders: what they brought, and what they need of ours, stays. Knows no hub.
"""

import contextlib
import fcntl
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from basemlx.engine.errors import ModelCorrupt
from basemlx.engine.models.config import read_json_object
from basemlx.engine.models.discovery import CACHE_PREFIX, NOTE_NAME
from basemlx.engine.models.listing import COMMIT, OID, is_wanted
from basemlx.engine.models.transfer import PARTIAL_SUFFIX, PullFailed, RemoteFile, has_contents

_PARTS = ("blobs", "refs", "snapshots")
_STAGING_PREFIX = ".basemlx-"


class NoteDamaged(PullFailed):
    """What was brought is not known any more."""


def repository_folder(cache: Path, repository: str) -> Path:
    return cache / (CACHE_PREFIX + repository.replace("/", "--"))


class Store:
    """One repository of the cache. Under its lock; as a context manager, leaves no empty folders."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._noting = threading.Lock()

    def __enter__(self) -> Self:
        for name in _PARTS:
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *exc: object) -> None:
        if not (self._folder / NOTE_NAME).exists():  # else something was brought, or is to come
            for path in [*(self._folder / name for name in _PARTS), self._folder]:
                with contextlib.suppress(OSError):  # not empty
                    path.rmdir()

    def blob(self, file: RemoteFile) -> Path:
        return self._folder / "blobs" / file.oid

    def has(self, file: RemoteFile) -> bool:
        return size_of(self.blob(file)) == file.size_bytes and self.blob(file).is_file()

    @property
    def has_brought(self) -> bool:
        """Whether anything here is to be removed. A pull that found all of it there brought nothing."""
        entries = self._note()["commits"].values()
        return any(entry["files"] or entry["blobs"] for entry in entries) or bool(self._partials())

    def note_brought(self, commit: str, file: RemoteFile) -> None:
        """Notes a blob just before it gets its name: not earlier, as another program may bring it meanwhile, nor later,
        so that a pull that is killed leaves nothing that cannot be removed. Any thread."""
        with self._noting:
            note = self._note_to_write()
            entry = note["commits"].setdefault(commit, {"files": [], "blobs": []})
            entry["blobs"] = sorted({*entry["blobs"], file.oid})
            self._write_note(note)

    def _partials(self) -> list[Path]:
        """Parts of what a pull has not brought yet, told by their names."""
        return list((self._folder / "blobs").glob("*" + PARTIAL_SUFFIX))

    def publish(self, commit: str, revision: str, files: list[RemoteFile]) -> None:
        """Makes the snapshot appear, in one step where it is new. Its links are noted first, so that a crash in between
        leaves nothing that cannot be removed."""
        note = self._note_to_write()
        entry = note["commits"].setdefault(commit, {"files": [], "blobs": []})
        snapshot = self._folder / "snapshots" / commit
        missing = [file for file in files if not self._leads_to(snapshot / file.name, file)]
        entry["files"] = sorted({*entry["files"], *(file.name for file in missing)})
        note["current"] = commit
        if not COMMIT.fullmatch(revision):
            before, refs = _commit_in(self._reference(revision)), note["refs"]
            if before not in (None, commit) and (before not in note["commits"] or revision not in refs):
                refs[revision] = before  # another program's, perhaps: removing gives it back
        self._write_note(note)
        if snapshot.is_dir():
            for file in sorted(missing, key=lambda file: file.name == "config.json"):
                self._link(snapshot, file)
        else:
            staging = self._folder / "snapshots" / (_STAGING_PREFIX + commit)
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
            for file in files:
                self._link(staging, file)
            staging.rename(snapshot)
        if not COMMIT.fullmatch(revision):
            _write_atomically(self._reference(revision), commit)

    def _reference(self, revision: str) -> Path:
        path = self._folder / "refs" / revision
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _leads_to(self, link: Path, file: RemoteFile) -> bool:
        """Whether a name in a snapshot is that of the right contents: of the blob, which was checked, or, where another
        program keeps it elsewhere, of the same."""
        if link.is_symlink() and link.resolve() == self.blob(file).resolve():
            return True
        return link.is_file() and has_contents(link, file)

    def _link(self, snapshot: Path, file: RemoteFile) -> None:
        """In place of whatever has the name: it is not what the name stands for."""
        link = snapshot / file.name
        link.parent.mkdir(exist_ok=True)
        if link.is_symlink() or link.exists():
            link.unlink()
        up = "../" * (2 + file.name.count("/"))
        link.symlink_to(f"{up}blobs/{file.oid}")

    def withdraw(self) -> int:
        """Removes what was brought; the bytes that this freed."""
        note = self._note()
        commits: dict[str, Any] = note["commits"]
        snapshots, blobs = self._folder / "snapshots", self._folder / "blobs"
        for staging in snapshots.glob(_STAGING_PREFIX + "*"):  # of a killed pull: used by nobody
            shutil.rmtree(staging)
        for commit, entry in commits.items():
            if not COMMIT.fullmatch(commit):
                continue
            for name in sorted(entry["files"], key=lambda name: name != "config.json"):
                link = snapshots / commit / name
                if is_wanted(name, False) and link.is_symlink():
                    link.unlink()
            _remove_empty(snapshots / commit)
        still_used = {
            os.path.basename(os.readlink(link)) for link in snapshots.rglob("*") if link.is_symlink()
        }
        freed = 0
        oids = {oid for entry in commits.values() for oid in entry["blobs"]}
        for path in [
            *(blobs / oid for oid in oids if OID.fullmatch(oid)),
            *self._partials(),
        ]:
            if path.name not in still_used and path.is_file():
                freed += size_of(path)
                path.unlink()
        refs = self._folder / "refs"
        before: dict[str, Any] = note["refs"]
        for reference in [path for path in refs.rglob("*") if path.is_file()]:
            if _commit_in(reference) not in commits:
                continue
            earlier = str(before.get(reference.relative_to(refs).as_posix()))
            if COMMIT.fullmatch(earlier) and (snapshots / earlier).is_dir():
                _write_atomically(reference, earlier)  # another program's, which pull moved on
            elif not (snapshots / str(_commit_in(reference))).exists():
                reference.unlink()
                for parent in list(reference.parents)[: len(reference.relative_to(refs).parts) - 1]:
                    with contextlib.suppress(OSError):  # not empty
                        parent.rmdir()
        for unfinished in [*self._folder.glob(_unfinished(NOTE_NAME)), *refs.rglob(_unfinished("*"))]:
            unfinished.unlink(missing_ok=True)
        (self._folder / NOTE_NAME).unlink(missing_ok=True)
        return freed

    def _note(self) -> dict[str, Any]:
        """Raises PullFailed for one that is damaged: it is not known then what may be removed."""
        path = self._folder / NOTE_NAME
        if not path.is_file():
            return {"commits": {}, "refs": {}}
        try:
            return _checked(read_json_object(path))
        except (ModelCorrupt, LookupError, TypeError, AttributeError):
            raise NoteDamaged(
                f"{path} is damaged, so it is not known what of this model basemlx pull has brought. Remove "
                f"{self._folder} by hand, unless another program uses it."
            ) from None

    def _note_to_write(self) -> dict[str, Any]:
        """A new one in place of one that is damaged. What it had noted counts as another program's from now on."""
        try:
            return self._note()
        except NoteDamaged:
            return {"commits": {}, "refs": {}}

    def _write_note(self, note: dict[str, Any]) -> None:
        _write_atomically(self._folder / NOTE_NAME, json.dumps(note, indent=1))


@contextlib.contextmanager
def only_one(cache: Path, folder: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
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


def _commit_in(reference: Path) -> str | None:
    """What a branch or tag points at, None where that is no commit."""
    try:
        commit = reference.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return commit if COMMIT.fullmatch(commit) else None


def _checked(note: dict[str, Any]) -> dict[str, Any]:
    """A note with all its parts. Raises LookupError, TypeError or AttributeError for what is none."""
    commits = {
        str(commit): {name: [*map(_text, entry.get(name, []))] for name in ("files", "blobs")}
        for commit, entry in note["commits"].items()
    }
    refs = {str(name): _text(commit) for name, commit in note.get("refs", {}).items()}
    return note | {"commits": commits, "refs": refs}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _write_atomically(path: Path, text: str) -> None:
    """Whole or not at all, whatever happens to the machine."""
    temporary = path.with_name(_unfinished(path.name, str(os.getpid())))
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _unfinished(name: str, pid: str = "[0-9]*") -> str:
    return f".{name}.{pid}"


def _remove_empty(folder: Path) -> None:
    """The folder and those in it that are empty, deepest first; never a file."""
    if not folder.is_dir():
        return
    inside = [path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink()]
    for path in [*sorted(inside, reverse=True), folder]:
        with contextlib.suppress(OSError):
            path.rmdir()


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
