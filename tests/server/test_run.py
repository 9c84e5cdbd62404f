"""`basemlx run` on a pipe and on a terminal: where text goes, what Ctrl-C does, what is said about it."""

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.server.test_cli import basemlx, run_all
from tests.serving import BASEMLX, PATIENCE_S

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]")


def test_a_pipe_gets_the_answer_and_nothing_else() -> None:
    argument = ("run", "Hello", "--max-tokens", "12", "--temperature", "0")
    one, two, seeded, again = run_all(
        [
            argument,
            (*argument, "--stats"),
            ("run", "Hi", "--max-tokens", "8", "--seed", "3"),
            ("run", "Hi", "--max-tokens", "8", "--seed", "3"),
        ]
    )
    assert [status for status, _, _ in (one, two, seeded, again)] == [0] * 4
    assert one[1] == two[1]
    assert one[1].endswith("\n")
    assert "\x1b" not in one[1]
    assert one[2] == ""
    assert re.search(
        r"\d+ tokens, [\d.]+ tok/s · first token \d+ ms · prompt \d+ tokens, 0 cached · memory: \d+ MB in use",
        two[2],
    )
    assert seeded[1] == again[1]


def test_a_prompt_may_come_on_standard_input_and_must_not_be_empty() -> None:
    status, out, err = basemlx("run", "--max-tokens", "4", stdin="Hello there")
    assert (status, err) == (0, "")
    assert out.strip()
    status, out, err = basemlx("run", stdin=" \n")
    assert (status, out) == (2, "")
    assert "prompt is empty" in err


def test_an_unknown_model_ends_with_1_and_says_what_there_is() -> None:
    status, out, err = basemlx("run", "--model", "tyni", "hi")
    assert (status, out) == (1, "")
    assert "tyni" in err
    assert "tiny" in err


def test_weights_that_do_not_fit_end_with_one_line(zoo: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(zoo("qwen3"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"intermediate_size": config["intermediate_size"] + 32})
    )
    status, out, err = basemlx("run", "--model", str(folder), "hi")
    assert (status, out) == (1, "")
    assert err.startswith("basemlx: The weights do not fit config.json")
    assert err.count("\n") == 1


def test_a_reader_who_leaves_ends_it_without_a_traceback() -> None:
    process = subprocess.Popen(
        [*BASEMLX, "run", "Write a 200-word story.", "--max-tokens", "200"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"BASEMLX_OPENBLAS": "off"},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(PATIENCE_S) == 1
    process.stderr.close()
    assert b"Traceback" not in err


TAKE_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self._fd, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, *BASEMLX, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=os.environ | {"BASEMLX_OPENBLAS": "off", "TERM": "xterm", "COLUMNS": "100"},
        )
        os.close(theirs)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def read_until(self, wanted: str, *, after: int = 0) -> str:
        """What is shown from `after` on, once `wanted` is in it; escape sequences left out."""
        deadline_s = time.monotonic() + PATIENCE_S
        while wanted not in self.shown[after:]:
            assert time.monotonic() < deadline_s, f"no {wanted!r} in {self.shown[after:]!r}"
            if select.select([self._fd], [], [], 0.5)[0]:
                try:
                    data = os.read(self._fd, 65536)
                except OSError:  # how Linux says that the other end has closed
                    data = b""
                assert data, f"ended without {wanted!r}: {self.shown[after:]!r}"
                self.shown += ESCAPE.sub("", data.decode("utf-8", "replace"))
        return self.shown[after:]

    def interrupt_until(self, wanted: str, *, after: int) -> None:
        """Ctrl-C, again if need be: Python's readline misses one that comes between its prompt and its first wait."""
        deadline_s = time.monotonic() + PATIENCE_S
        while wanted not in self.shown[after:]:
            assert time.monotonic() < deadline_s, f"Ctrl-C brings no {wanted!r}"
            self.type("\x03")
            if select.select([self._fd], [], [], 1.0)[0]:
                self.read_until(wanted, after=after)

    def wait(self) -> int:
        """Its exit code, when it has ended by itself."""
        while True:
            try:
                data = os.read(self._fd, 65536)
            except OSError:
                data = b""
            if not data:
                return self.process.wait(PATIENCE_S)
            self.shown += ESCAPE.sub("", data.decode("utf-8", "replace"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._fd)


@pytest.fixture
def conversation() -> Iterator[Terminal]:
    with Terminal("run", "--max-tokens", "2000", "--temperature", "1", "--stats") as terminal:
        terminal.read_until(">>> ")
        yield terminal


def test_a_conversation_answers_is_stopped_starts_anew_and_ends(conversation: Terminal) -> None:
    assert "tiny" in conversation.shown
    assert "/exit" in conversation.shown
    mark = len(conversation.shown)
    conversation.type("Hello\r")
    conversation.read_until("tokens,", after=mark)
    shown = conversation.read_until(">>> ", after=mark + len("Hello"))
    assert "tok/s" in shown
    mark = len(conversation.shown)
    conversation.type("/help\r")
    assert "Ctrl-C" in conversation.read_until(">>> ", after=mark)
    mark = len(conversation.shown)
    conversation.interrupt_until(">>> ", after=mark)
    conversation.type("/reset\r")
    conversation.type("/exit\r")
    assert conversation.wait() == 0


def test_the_end_of_input_ends_a_conversation(conversation: Terminal) -> None:
    conversation.type("\x04")
    assert conversation.wait() == 0


def test_ctrl_c_stops_a_single_answer_with_130() -> None:
    with Terminal("run", "Write a 200-word story.", "--max-tokens", "4000", "--temperature", "2") as terminal:
        terminal.read_until("\n")  # the spinner or the first words
        terminal.type("\x03")
        assert terminal.wait() == 130
        assert "Traceback" not in terminal.shown


def test_a_terminal_sees_how_much_of_a_long_prompt_is_read() -> None:
    with Terminal("run", "rain and wind " * 200, "--max-tokens", "4") as terminal:
        assert terminal.wait() == 0
    counts = re.findall(r"reading the prompt: ([\d,]+) of ([\d,]+) tokens", terminal.shown)
    assert len({computed for computed, _ in counts}) > 2
    assert len({total for _, total in counts}) == 1
