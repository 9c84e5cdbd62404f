"""The compile worker: the process in which untrusted schemas and grammars are first looked at, so that it can be
killed.

`main` runs in the child: one task in, one answer out, each a line of JSON. It plans schemas, compiles grammars once
over a vocabulary of bytes (they cost the same there), and checks documents. Its memory is limited. It imports no MLX
and reads no model. `CompileWorker` is the parent's side: one child, started when first needed, killed when a task
takes too long or is given up, and started anew for the next.
"""

import json
import os
import selectors
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from basemlx.engine.errors import EngineUnavailable, UnsupportedSchema

MEMORY_BYTES = 3 * 1024**3
MAX_ANSWER_BYTES = 64 * 1024 * 1024

Task = dict[str, Any]


class TaskAbandoned(Exception):
    """Everyone who waited for the task has given up."""


class CompileWorker:
    """One child process and the tasks sent to it, one at a time (the caller sees to that)."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._is_closed = False

    def start(self) -> None:
        """Starts the child if there is none; it gets ready by itself."""
        with self._lock:
            if self._is_closed:
                raise EngineUnavailable("The grammar compiler is closed.")
            if self._process is None or self._process.poll() is not None:
                self._process = _spawn()

    @property
    def pid(self) -> int | None:
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def run(self, task: Task, deadline: float, abandoned: threading.Event) -> dict[str, Any]:
        """The task's answer. `deadline` is a time of `time.monotonic`. Raises UnsupportedSchema if the task asks too
        much, or TaskAbandoned; the child is then gone."""
        self.start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(task).encode() + b"\n")
            process.stdin.flush()
            line = self._read(process, deadline, abandoned)
        except (BrokenPipeError, EOFError):
            self.kill()
            raise UnsupportedSchema("The schema or grammar takes too much memory to compile.") from None
        except TimeoutError:
            self.kill()
            raise UnsupportedSchema("The schema or grammar takes too long to compile.") from None
        except TaskAbandoned:
            self.kill()
            raise
        answer: dict[str, Any] = json.loads(line)
        return answer

    def kill(self) -> None:
        """Ends the child, whatever it does."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):
                        pipe.close()

    def close(self) -> None:
        self._is_closed = True
        self.kill()

    def _read(self, process: "subprocess.Popen[bytes]", deadline: float, abandoned: threading.Event) -> bytes:
        assert process.stdout is not None
        chunks: list[bytes] = []
        size = 0
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                if abandoned.is_set():
                    raise TaskAbandoned
                if not selector.select(min(left, 0.05)):
                    continue
                chunk = os.read(process.stdout.fileno(), 1 << 20)
                if not chunk:
                    raise EOFError
                chunks.append(chunk)
                size += len(chunk)
                if chunk.endswith(b"\n"):
                    return b"".join(chunks)
                if size > MAX_ANSWER_BYTES:
                    raise TimeoutError


def _spawn() -> "subprocess.Popen[bytes]":
    # The child finds the same packages as this process, however it was started, and nothing in the current folder.
    path = [folder for folder in sys.path if folder]
    code = f"import sys; sys.path[:] = {path!r}; from basemlx.engine.grammar.worker import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C at the terminal is the parent's to handle
    )


def main() -> None:
    """The child: answers tasks until its input ends."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from basemlx.engine.grammar import tasks

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get among the answers
    for line in sys.stdin.buffer:
        answers.write(json.dumps(tasks.answer(json.loads(line))).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
