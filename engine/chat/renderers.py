"""The processes that render chat templates: started early, shared by all models, killed when a template runs away.

A render costs about a tenth of a millisecond more than in this process. What it buys: a template that loops, or
builds a monster, holds neither this process's interpreter lock nor its memory, and is really stopped. A process is
started afresh (never forked from this one's state: MLX's threads would not survive that), takes 60 ms and 19 MB, and
ends when this process does. Knows templates as text only.
"""

import atexit
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from basemlx.engine.errors import EngineUnavailable

TIME_LIMIT_S = 1.5
"""Of computing. Of waiting, on a machine that is busy with something else, WAIT_FACTOR times as much."""

WAIT_FACTOR = 10
START_LIMIT_S = 30.0
MAX_PROCESSES = 2
OUTPUT_FACTOR = 4
OUTPUT_EXTRA_CHARACTERS = 1 << 20

_SCRIPT = Path(__file__).with_name("sandbox.py")
_RENDERED, _REFUSED = b"r", b"x"  # its outcomes; it is not imported, since it imports jinja2

# A child needs little of the environment, and secrets are not among it.
_PASSED_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ")


class RenderFailed(Exception):
    """The template gave no prompt. `refused`: it said so itself; `ran_away`: it was stopped."""

    def __init__(self, message: str, *, refused: bool = False, ran_away: bool = False) -> None:
        super().__init__(message)
        self.refused = refused
        self.ran_away = ran_away


class _Gone(Exception):
    """The process has ended."""


class Renderer:
    """One process. Not safe to share between threads at one time."""

    def __init__(self) -> None:
        if not sys.executable or getattr(sys, "frozen", False):
            raise EngineUnavailable(
                "Chat templates are rendered by a Python interpreter, and there is none to be started."
            )
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", str(_SCRIPT), *_library_folders()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _PASSED_VARIABLES if name in os.environ},
                process_group=0,  # Ctrl-C in a terminal is meant for this process alone
                bufsize=0,
            )
        except OSError as error:
            raise EngineUnavailable(
                f"The process that renders chat templates cannot be started ({error.strerror})."
            ) from None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests = self._process.stdin.fileno()
        self._replies = self._process.stdout.fileno()
        os.set_blocking(self._requests, False)
        self._is_ready = False

    def render(self, source: bytes, variables: Mapping[str, Any]) -> str:
        """The prompt. Raises RenderFailed; after one that ran away, or an exception of another kind, close it."""
        encoded = json.dumps(variables, ensure_ascii=False).encode("utf-8", "surrogatepass")
        limit = OUTPUT_FACTOR * (len(encoded) + len(source)) + OUTPUT_EXTRA_CHARACTERS
        wait_s = TIME_LIMIT_S * WAIT_FACTOR
        # The kernel's second timer is for when this process is gone or busy.
        head = (
            f'{{"limit_characters": {limit}, "limit_s": {TIME_LIMIT_S}, "wait_s": {wait_s + 1}, "variables": '
        ).encode()
        request = [len(source).to_bytes(4, "big"), source]
        request += [(len(head) + len(encoded) + 1).to_bytes(4, "big"), head, encoded, b"}"]
        if not self._is_ready:
            self._reply(time.monotonic() + START_LIMIT_S)
            self._is_ready = True
        deadline_s = time.monotonic() + wait_s
        self._send(b"".join(request), deadline_s)
        try:
            outcome, text = self._reply(deadline_s)
        except _Gone:
            if self._process.wait() == -signal.SIGPROF:
                raise _took_too_long() from None
            raise RenderFailed("it took the process that renders it down", ran_away=True) from None
        if outcome == _RENDERED:
            return text
        raise RenderFailed(text, refused=outcome == _REFUSED)

    def close(self) -> None:
        """Kills the process and waits for its end."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()

    def disown(self) -> None:
        """In a forked child: lets go of the parent's process without touching it."""
        self._process.returncode = 0  # it is not ours to wait for
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _send(self, content: bytes, deadline_s: float) -> None:
        left = memoryview(content)
        while left:
            _wait(self._requests, select.POLLOUT, deadline_s)
            try:
                left = left[os.write(self._requests, left) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise _Gone from None

    def _reply(self, deadline_s: float) -> tuple[bytes, str]:
        head = self._read(5, deadline_s)
        content = self._read(int.from_bytes(head[1:], "big"), deadline_s)
        return head[:1], content.decode("utf-8", "surrogatepass")

    def _read(self, num_bytes: int, deadline_s: float) -> bytes:
        content = bytearray()
        while len(content) < num_bytes:
            _wait(self._replies, select.POLLIN, deadline_s)
            part = os.read(self._replies, num_bytes - len(content))
            if not part:
                raise _Gone
            content += part
        return bytes(content)


def _wait(file: int, event: int, deadline_s: float) -> None:
    poll = select.poll()
    poll.register(file, event)
    if not poll.poll(max(0.0, deadline_s - time.monotonic()) * 1e3):
        raise _took_too_long()


def _took_too_long() -> RenderFailed:
    return RenderFailed(f"it took longer than {TIME_LIMIT_S:g} s", ran_away=True)


class RendererPool:
    """At most MAX_PROCESSES renderers, made as they are needed. Safe to use from any thread."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._idle: list[Renderer] = []
        self._num_renderers = 0

    def warm_up(self) -> None:
        """Has a process ready soon; does not wait for it."""
        with self._condition:
            if self._num_renderers:
                return
            self._num_renderers = 1
        self._give_back(self._started())

    def render(self, source: bytes, variables: Mapping[str, Any]) -> str:
        """The prompt, waiting for a process if all are taken. Raises RenderFailed or EngineUnavailable."""
        for _ in range(MAX_PROCESSES + 1):
            renderer = self._take()
            keep = False
            try:
                text = renderer.render(source, variables)
                keep = True
                return text
            except RenderFailed as failure:
                keep = not failure.ran_away
                raise
            except _Gone:  # it died while it was idle: nothing the template did
                continue
            finally:
                self._give_back(renderer) if keep else self._discard(renderer)
        raise EngineUnavailable("The process that renders chat templates does not stay alive.")

    def close(self) -> None:
        """Ends the idle processes."""
        with self._condition:
            idle, self._idle = self._idle, []
            self._num_renderers -= len(idle)
            self._condition.notify_all()
        for renderer in idle:
            renderer.close()

    def start_over(self) -> None:
        """In a child that was forked from this process: the renderers are the parent's, and a lock may be held for
        ever."""
        for renderer in self._idle:
            renderer.disown()
        self._condition, self._idle, self._num_renderers = threading.Condition(), [], 0

    def _take(self) -> Renderer:
        with self._condition:
            while not self._idle and self._num_renderers >= MAX_PROCESSES:
                self._condition.wait()
            if self._idle:
                return self._idle.pop()
            self._num_renderers += 1
        return self._started()

    def _started(self) -> Renderer:
        """A new process, counted already."""
        try:
            return Renderer()
        except BaseException:
            with self._condition:
                self._num_renderers -= 1
                self._condition.notify()
            raise

    def _give_back(self, renderer: Renderer) -> None:
        with self._condition:
            self._idle.append(renderer)
            self._condition.notify()

    def _discard(self, renderer: Renderer) -> None:
        with self._condition:
            self._num_renderers -= 1
            self._condition.notify()
        renderer.close()


def _library_folders() -> list[str]:
    """Where jinja2 and markupsafe are installed."""
    folders = []
    for name in ("jinja2", "markupsafe"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise EngineUnavailable(f"The package {name} is not installed.")
        folders.append(str(Path(spec.origin).parent.parent))
    return list(dict.fromkeys(folders))


pool = RendererPool()
atexit.register(pool.close)
os.register_at_fork(after_in_child=pool.start_over)
