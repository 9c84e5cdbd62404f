"""The command line as a user meets it: help worth reading, exit codes, messages that say what to do."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from basemlx import __version__
from basemlx.engine.config import EngineConfig
from basemlx.engine.models.discovery import Discovery
from basemlx.server import cli
from basemlx.server.settings import ServerSettings
from tests.serving import API_KEY, BASEMLX, ServerProcess, ask


def start(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BASEMLX_")}
    return subprocess.Popen(
        [*BASEMLX, *arguments],
        env=clean | {"BASEMLX_OPENBLAS": "off", "COLUMNS": "110"} | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]", stdin: str = "") -> tuple[int, str, str]:
    out, err = process.communicate(stdin, timeout=120)
    return process.returncode, out, err


def basemlx(*arguments: str, stdin: str = "", **environment: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    return finish(start(*arguments, **environment), stdin)


def run_all(calls: Sequence[tuple[str, ...]]) -> list[tuple[int, str, str]]:
    """Several at once: most of their time is start-up."""
    return [finish(process) for process in [start(*call) for call in calls]]


class CommandLine:
    """The command line called in this process: for what never gets as far as loading anything."""

    def __init__(self, patch: pytest.MonkeyPatch, output: pytest.CaptureFixture[str]) -> None:
        self._patch = patch
        self._output = output
        patch.setenv("COLUMNS", "110")

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        self._patch.setattr(sys, "argv", ["basemlx", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = self._output.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, out, err


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(monkeypatch, capsys)


def test_help_lists_commands_and_every_option_says_what_it_is_for(command: CommandLine) -> None:
    overall, serve, run = command("--help"), command("serve", "-h"), command("run", "--help")
    assert command() == overall
    assert command("--version") == (0, f"basemlx {__version__}\n", "")
    assert {overall[0], serve[0], run[0]} == {0}
    for name in ("serve", "run", "list", "doctor"):
        assert f"\n  {name} " in overall[1]
    for text in (serve[1], run[1]):
        options = [line for line in text.splitlines() if line.startswith("  --")]
        assert options
        assert all(len(line.split("  ")) >= 3 or "/" in line for line in options), text
        assert "range>" not in text  # no names of types
    server, engine = ServerSettings(), EngineConfig()
    for figure in (
        server.host,
        server.port,
        engine.max_num_sequences,
        engine.max_waiting,
        server.write_timeout_s,
    ):
        assert f"[default: {figure}" in serve[1]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("serve", "--prot", "1"), "--port"),
        (("serve", "--port", "65536"), "--port"),
        (("serve", "--host", "0.0.0.0", "--port", "0"), "--api-key-file"),
        (("serve", "--api-key-file", "/nowhere/keys"), "/nowhere/keys"),
        (("serve", "--allowed-origin", "ui.example"), "https://"),
        (("serve", "--header-timeout", "0"), "--header-timeout"),
        (("serv",), "serv"),
        (("run", "--temperature", "3", "hi"), "--temperature"),
    ],
)
def test_wrong_usage_ends_with_2_and_a_line_that_says_what_to_do(
    arguments: tuple[str, ...], named: str, command: CommandLine
) -> None:
    status, out, err = command(*arguments)
    assert (status, out) == (2, "")
    assert named in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/models/org"), "/models/org: Permission denied"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (OSError(), "OSError"),
    ],
)
def test_what_the_system_refuses_ends_with_1_and_one_line(
    error: OSError, words: str, command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Discovery) -> NoReturn:
        raise error

    monkeypatch.setattr(Discovery, "scan", refused)
    assert command("list") == (1, "", f"basemlx: {words}\n")
    assert command("pull", "tiny") == (1, "", f"basemlx: {words}\n")


def test_a_full_disk_behind_standard_output_is_said(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*BASEMLX, "list"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "basemlx: No space left on device\n")


def test_as_a_program_it_answers_help_quickly_and_opens_no_port_that_it_may_not(tmp_path: Path) -> None:
    """Figures of computing time: importing MLX alone would take longer."""
    before = os.times()
    (alone, out, _), (exposed, _, message) = run_all([(), ("serve", "--host", "0.0.0.0", "--port", "0")])
    after = os.times()
    assert (alone, exposed) == (0, 2)
    assert "Commands:" in out
    assert "API key" in message
    assert (after.children_user - before.children_user) / 2 < 1.5


def test_a_port_in_use_and_a_misspelt_variable_are_refused_before_a_model_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, _, err = basemlx("serve", "--port", str(port), "--model", "/nowhere/at/all")
    assert status == 2
    assert f"Port {port}" in err
    assert "--port" in err
    status, _, err = basemlx("serve", "--host", "no.such.host.invalid", "--insecure-no-auth")
    assert status == 2
    assert "--host" in err
    status, _, err = basemlx("serve", BASEMLX_APIKEY="oops")
    assert status == 2
    assert "BASEMLX_APIKEY" in err


def test_models_that_cannot_be_served_end_with_1_and_one_line(
    zoo: Callable[..., Path], tmp_path: Path
) -> None:
    whole = zoo("qwen3")

    def copy(name: str, without: str = "") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file in whole.iterdir():
            if file.name != without:
                (folder / file.name).write_bytes(file.read_bytes())
        return folder

    truncated = copy("truncated") / "model.safetensors"
    truncated.write_bytes(truncated.read_bytes()[:-1000])
    corrupt = copy("corrupt") / "model.safetensors"
    corrupt.write_bytes(b"\xff" * 8 + corrupt.read_bytes()[8:])
    wanted = {
        str(truncated.parent): "model.safetensors",
        str(corrupt.parent): "model.safetensors",
        str(copy("speechless", without="tokenizer.json")): "tokenizer.json",
        str(copy("weightless", without="model.safetensors")): "safetensors",
        str(tmp_path / "absent"): "absent",
        "org/absent": "org/absent",
    }
    results = run_all([("serve", "--port", "0", "--model", model) for model in wanted])
    for (model, word), (status, out, err) in zip(wanted.items(), results, strict=True):
        assert status == 1, (model, err)
        assert out == ""
        assert word in err.splitlines()[-1], err
        assert err.splitlines()[-1].startswith("basemlx: ")
        assert "Traceback" not in err


def test_a_key_shows_neither_in_the_list_of_processes_nor_in_the_log(served: ServerProcess) -> None:
    command = Path(f"/proc/{served.pid}/cmdline")
    if command.exists():
        assert API_KEY.encode() not in command.read_bytes()
    assert API_KEY not in served.log
    assert "auth=key" in served.log


def test_the_log_begins_with_the_limits_in_force(served: ServerProcess) -> None:
    line = next(line for line in served.log.splitlines() if "listening" in line)
    for figure in ("auth=key", "allowed_origins=none", "body_bytes=33554432", "waiting=64", "deadline_s=600"):
        assert figure in line


def test_list_shows_models_and_what_the_server_has_loaded(served: ServerProcess) -> None:
    status, out, _ = basemlx("list", "--port", str(served.port), BASEMLX_API_KEY=API_KEY)
    assert status == 0
    rows = {line.split()[0]: line.split()[-1] for line in out.splitlines()}
    assert rows["NAME"] == "LOADED"
    assert rows["tiny"] == "yes"
    assert rows["noise"] == "yes"
    status, out, _ = basemlx("list", "--port", "1")
    assert status == 0
    assert {line.split()[0]: line.split()[-1] for line in out.splitlines()}["tiny"] == "-"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once(number: int, zoo: Callable[..., Path]) -> None:
    with ServerProcess("--model", str(zoo("qwen3")), "--drain-timeout", "600") as process:
        assert ask(process.port, model="qwen3").status == 200
        with socket.create_connection(("127.0.0.1", process.port)) as client:
            body = b'{"model": "qwen3", "prompt": "x", "max_tokens": 1900, "n": 8, "ignore_eos": true}'
            client.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (process.port, len(body), body)
            )
            while b'"running":8' not in _health(process.port):
                pass
            process.signal(number)
            while "draining: 1" not in process.log:
                time.sleep(0.01)
            process.signal(number)
            assert process.wait() == 128 + number


def _health(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n" % port)
        return b"".join(iter(lambda: client.recv(4096), b""))
