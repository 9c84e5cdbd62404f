"""One file from a hub to this disk: in parts that survive whatever happens, and under its final name only when its hash
is right.

A part (`NAME.basemlx-partial`) is resumed by Range after a broken connection, a stall or a killed process; a busy
server is left alone for as long as it asks (Retry-After), within MAX_RETRY_AFTER_S; a server that answers a Range with
the whole file, or with other bytes than asked for, makes it start again. It knows nothing of repositories or caches.
"""

import contextlib
import errno
import hashlib
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from io import FileIO
from pathlib import Path
from typing import Any, Protocol

import httpx

from basemlx.engine.errors import BaseMLXError
from basemlx.engine.models.redirects import RedirectRefused, is_same_origin, next_url

PARTIAL_SUFFIX = ".basemlx-partial"
MAX_REDIRECTS = 5
MAX_TRIES_WITHOUT_PROGRESS = 4
MAX_TRIES = 100
CHUNK_BYTES = 1 << 20
MAX_RETRY_AFTER_S = 120.0
_STOP_EVERY_S = 0.1
_RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


class PullFailed(BaseMLXError):
    """A download could not be completed. What has come is kept for the next try."""

    default_code = "pull_failed"


class PullStopped(PullFailed):
    """Somebody wanted it stopped, or another file of it failed."""


class _Busy(Exception):
    """The server wants to be left alone for a while."""

    def __init__(self, status: int, wait_s: float) -> None:
        super().__init__(f"answer {status}")
        self.wait_s = wait_s


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository. `oid` is its SHA-256 where the hub keeps it as a large file, else its Git blob id."""

    name: str
    size_bytes: int
    oid: str
    is_large: bool

    def hasher(self) -> _Hash:
        if self.is_large:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size_bytes, usedforsecurity=False)


@dataclass(frozen=True, slots=True)
class Transfer:
    """How files are fetched: from where, as whom, and how patiently. `stop` is asked between chunks."""

    client: httpx.Client
    endpoint: str
    token: str | None
    pause_s: float = 1.0
    stop: Callable[[], bool] = lambda: False
    _streams: list[Any] = field(default_factory=list)

    def shut(self) -> None:
        """Ends what is waited for, from another thread: a read that waits does not see `stop`."""
        for stream in list(self._streams):
            line = stream.get_extra_info("socket")
            if line is not None:
                with contextlib.suppress(OSError):  # closed meanwhile
                    line.shutdown(socket.SHUT_RDWR)

    def _trace(self, event: str, info: dict[str, Any]) -> None:
        """httpx tells of its connections."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self._streams.append(info["return_value"])

    def fetch(
        self,
        url: str,
        file: RemoteFile,
        target: Path,
        progress: Callable[[int], None],
        on_whole: Callable[[], None] = lambda: None,
    ) -> None:
        """The file under `target`, whole and checked. `progress` is told of bytes gained (or, negative, given up),
        `on_whole` just before it gets that name. Raises PullFailed."""
        try:
            self._fetch(url, file, target, progress, on_whole)
        except OSError as error:
            raise disk_error(error, file.name) from None

    def is_whole(self, file: RemoteFile, path: Path, progress: Callable[[int], None]) -> bool:
        """Whether a file that is there already has the right contents; reads all of it. `progress` as in `fetch`.
        Raises PullStopped."""
        held = 0

        def read(count: int) -> None:
            nonlocal held
            self._check_stop()
            held += count
            progress(count)

        if has_contents(path, file, read):
            return True
        progress(-held)
        return False

    def _fetch(
        self,
        url: str,
        file: RemoteFile,
        target: Path,
        progress: Callable[[int], None],
        on_whole: Callable[[], None],
    ) -> None:
        partial = target.with_name(target.name + PARTIAL_SUFFIX)
        may_restart = True
        while True:
            found = self._complete(url, file, partial, progress)
            if found == file.oid:
                on_whole()
                partial.replace(target)
                return
            progress(-file.size_bytes)
            partial.unlink(missing_ok=True)
            if not may_restart:
                raise PullFailed(
                    f"{file.name} arrived whole but is not the file that the hub describes (wrong hash). It was "
                    "deleted; try again later."
                )
            may_restart = False  # an old part may have been damaged here; a second time it is the server

    def _complete(self, url: str, file: RemoteFile, partial: Path, progress: Callable[[int], None]) -> str:
        """Fetches until the part has the file's size; its hash."""
        tries_left = MAX_TRIES_WITHOUT_PROGRESS
        reason, wait_s, most = "", 0.0, 0
        for number in range(MAX_TRIES):
            if number:
                self._pause(max(self.pause_s, wait_s))
            self._check_stop()
            wait_s = 0.0
            hasher = file.hasher()
            with _opened(partial) as part:
                held = _hashed(part, hasher, file.size_bytes)
                if held is None:
                    part.truncate(0)
                    hasher, held = file.hasher(), 0
                if not number and held:
                    progress(held)
                most = max(most, held)
                try:
                    hasher = self._receive(url, file, part, held, hasher, progress)
                    reason = f"it ended after {part.tell()} of {file.size_bytes} bytes"
                except _Busy as busy:
                    reason, wait_s = str(busy), busy.wait_s
                except httpx.HTTPError as error:
                    reason = type(error).__name__
                self._check_stop()
                if (held := part.tell()) == file.size_bytes:
                    return hasher.hexdigest()
            # Beyond what was ever there: a file that is shorter than listed would come again and again.
            tries_left = MAX_TRIES_WITHOUT_PROGRESS if held > most else tries_left - 1
            most = max(most, held)
            if not tries_left:
                break
        raise PullFailed(
            f"{file.name} could not be downloaded: the connection keeps breaking off or stalling"
            f"{f' ({reason})' if reason else ''}. What has come is kept: run the same command again to go on."
        )

    def _check_stop(self) -> None:
        if self.stop():
            raise PullStopped("The download was stopped. What has come is kept.")

    def _pause(self, seconds: float) -> None:
        """Sleeps, and no longer than until somebody wants it stopped."""
        until_s = time.monotonic() + seconds
        while not self.stop() and (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(left_s, _STOP_EVERY_S))

    def _receive(
        self,
        url: str,
        file: RemoteFile,
        part: FileIO,
        held: int,
        hasher: _Hash,
        progress: Callable[[int], None],
    ) -> _Hash:
        """One answer's worth of bytes; the hash of all there is."""
        if held == file.size_bytes:
            return hasher
        with self._answer(url, held) as answer:
            if answer.status_code in _RETRIED_STATUSES:
                raise _Busy(answer.status_code, _retry_after_s(answer.headers.get("retry-after"), file))
            if answer.status_code == 416 or (answer.status_code == 206 and not _continues(answer, held)):
                part.truncate(0)
                part.seek(0)
                progress(-held)
                return file.hasher()
            if answer.status_code not in (200, 206):
                raise PullFailed(f"The hub answered {answer.status_code} for {file.name}.")
            if answer.status_code == 200 and held:  # it sends the whole file whatever was asked
                part.truncate(0)
                part.seek(0)
                progress(-held)
                hasher, held = file.hasher(), 0
            gained = 0
            for chunk in answer.iter_raw():
                if held + gained + len(chunk) > file.size_bytes:
                    part.truncate(0)
                    part.seek(0)
                    progress(-held - gained)
                    raise PullFailed(f"The hub sent more of {file.name} than it has. Nothing of it was kept.")
                _write(part, chunk)  # what has come survives this process
                hasher.update(chunk)
                gained += len(chunk)
                progress(len(chunk))
                if self.stop():
                    break
            return hasher

    def _answer(self, url: str, held: int) -> AbstractContextManager[httpx.Response]:
        """The first answer that is no redirect. The token goes to the hub only."""
        for _ in range(MAX_REDIRECTS + 1):
            headers = {"accept-encoding": "identity"}  # a compressed answer could not be resumed
            if held:
                headers["range"] = f"bytes={held}-"
            if self.token and is_same_origin(url, self.endpoint):
                headers["authorization"] = f"Bearer {self.token}"
            try:
                request = self.client.build_request(
                    "GET", url, headers=headers, extensions={"trace": self._trace}
                )
                answer = self.client.send(request, stream=True)  # which looks at where it redirects, too
            except httpx.InvalidURL:
                raise PullFailed("The hub redirects a download to something that is no address.") from None
            if not answer.has_redirect_location:
                return contextlib.closing(answer)
            answer.close()
            try:
                url = next_url(url, answer.headers["location"], self.endpoint)
            except RedirectRefused as refused:
                raise PullFailed(f"The hub redirects a download {refused}, which is not followed.") from None
        raise PullFailed("The hub redirects a download in circles.")


def has_contents(path: Path, file: RemoteFile, read: Callable[[int], None] = lambda _count: None) -> bool:
    """Whether what is under `path` is that file; reads all of it, and tells `read` of every part."""
    hasher, held = file.hasher(), 0
    try:
        with path.open("rb", buffering=0) as whole:
            while chunk := whole.read(CHUNK_BYTES):
                read(len(chunk))
                hasher.update(chunk)
                held += len(chunk)
    except OSError:  # a disk that gives it back no more is damage, too
        return False
    return held == file.size_bytes and hasher.hexdigest() == file.oid


def _opened(partial: Path) -> FileIO:
    """Without a buffer: on a full disk, closing would write what is left in it and fail a second time."""
    if partial.is_symlink():
        partial.unlink()
    return partial.open("r+b" if partial.exists() else "w+b", buffering=0)


def _write(part: FileIO, data: bytes) -> None:
    """All of it: one call may take less where the disk is nearly full."""
    rest = memoryview(data)
    while rest:
        rest = rest[part.write(rest) :]


def _hashed(part: FileIO, hasher: _Hash, limit: int) -> int | None:
    """Reads what an earlier try left; its size, None if that is more than the file has."""
    held = 0
    while chunk := part.read(CHUNK_BYTES):
        hasher.update(chunk)
        held += len(chunk)
        if held > limit:
            part.seek(0)
            return None
    return held


def _continues(answer: httpx.Response, held: int) -> bool:
    return str(answer.headers.get("content-range", "")).startswith(f"bytes {held}-")


def _retry_after_s(header: str | None, file: RemoteFile) -> float:
    """Seconds that the header asks for, a number or a date; 0 without one. Raises PullFailed for more than anybody
    would want to sit and wait."""
    if header is None:
        return 0.0
    try:
        wait_s = float(header)
    except ValueError:
        try:
            wait_s = parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    if not wait_s <= MAX_RETRY_AFTER_S:
        raise PullFailed(
            f"The hub is busy and wants to be asked for {file.name} again in {wait_s:.0f} s. What has come is kept: "
            "run the same command again then."
        )
    return max(0.0, wait_s)


def disk_error(error: OSError, what: str) -> PullFailed:
    """What the system said of a file or folder, for people."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return PullFailed(
            f"The disk is full ({what}). What has come is kept; make room and run the same command again."
        )
    return PullFailed(f"{what} cannot be written ({error.strerror or type(error).__name__}).")
