"""`basemlx doctor` as a user runs it, and its checks against real ports, folders and variables."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from basemlx.engine import runtime
from basemlx.engine.runtime import RuntimeInfo
from basemlx.server.diagnosis import machine, surroundings
from basemlx.server.diagnosis.report import Check, Report, shareable
from basemlx.server.diagnosis.selftest import selftest

BASEMLX = [sys.executable, "-P", "-m", "basemlx.server.cli"]
LOOPBACK = "127.0.0.1"
SECRET = "canary-5f1c9e7a"


def doctor(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BASEMLX_")}
    command = [*BASEMLX, "doctor", *options]
    return subprocess.run(command, env=clean | environment, capture_output=True, text=True, timeout=120)


def test_a_working_installation_is_said_to_work() -> None:
    result = doctor()
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    names = [line[6:].split()[0] for line in lines if line[:4].strip() in ("ok", "note")]
    assert names == [
        "MLX",
        "BLAS",
        "Compiler",
        "Memory",
        "Cores",
        "Models",
        "Port",
        "Environment",
        "Self-test",
    ]
    assert lines[-1].startswith("Works.")
    assert not any("FAIL" in line for line in lines)


def test_json_names_a_misspelt_variable_and_shows_no_secret() -> None:
    result = doctor("--json", BASEMLX_API_KEY=SECRET, BASEMLX_APIKEY=SECRET, HF_TOKEN=SECRET)
    assert result.returncode == 1
    report = json.loads(result.stdout)
    checks = {check["name"]: check for check in report["checks"]}
    assert report["works"] is False
    assert [name for name, check in checks.items() if check["verdict"] == "FAIL"] == ["Environment"]
    assert checks["Environment"]["facts"]["unknown"] == ["BASEMLX_APIKEY"]
    assert "did you mean BASEMLX_API_KEY" in checks["Environment"]["details"][0]
    assert checks["Environment"]["facts"]["known"]["BASEMLX_API_KEY"] == "(set, not shown)"
    assert checks["Self-test"]["facts"]["greedy_repeats"] is True
    assert checks["Self-test"]["facts"]["decode_tokens_per_s"] > 1
    assert SECRET not in result.stdout + result.stderr


def test_the_rest_is_still_told_where_mlx_cannot_be_used() -> None:
    result = doctor("--json", BASEMLX_OPENBLAS="/nowhere/libopenblas.so.0")
    assert result.returncode == 1
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert checks["MLX"]["verdict"] == "FAIL"
    assert "/nowhere/libopenblas.so.0" in checks["MLX"]["summary"]
    assert {"Cores", "Models", "Port", "Environment"} <= checks.keys()
    assert "Self-test" not in checks


# machine


def test_two_backends_of_mlx_in_one_environment_are_a_failure() -> None:
    assert machine.backend_conflict({"mlx": "0.32.4", "mlx-cpu": "0.32.4"}) is None
    check = machine.backend_conflict({"mlx-cpu": "0.32.4", "mlx-cuda-13": "0.32.4"})
    assert check is not None
    assert check.verdict == "FAIL"
    assert "pip uninstall mlx-cpu mlx-cuda-13" in check.details[0]


@pytest.mark.skipif(sys.platform != "linux", reason="the bundled BLAS is that of MLX's Linux wheel")
def test_a_missing_openblas_is_named_with_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BASEMLX_OPENBLAS", raising=False)
    check = machine.blas(_runtime(device="cpu", blas=None))
    assert check.verdict == "note"
    assert any("apt-get install libopenblas0" in line for line in check.details)
    assert machine.blas(_runtime(device="cpu", blas="libopenblas.so.0")).verdict == "ok"
    assert machine.blas(_runtime(device="cuda", blas=None)).verdict == "ok"


def test_memory_figures_are_those_that_an_engine_would_use() -> None:
    facts = machine.memory(runtime.prepare()).facts
    assert 0 < facts["kv_budget_bytes"] < facts["available_bytes"] <= facts["device_bytes"]
    assert facts["prefix_cache_max_bytes"] < facts["device_bytes"]
    assert facts["free_list_bytes"] >= 64 * 2**20


def test_metal_working_set_limit_is_told_where_the_device_has_one() -> None:
    lines = machine.metal_lines({"max_recommended_working_set_size": 12 * 2**30, "memory_size": 16 * 2**30})
    assert lines[0] == "Metal's working-set limit is 12.0 GiB of this Mac's 16.0 GiB."
    assert machine.metal_lines({"device_name": "a device that does not say"}) == []


def _runtime(**facts: Any) -> RuntimeInfo:
    return RuntimeInfo(
        **{
            "device_name": "x",
            "compiles": False,
            "stand_alone": True,
            "mlx_version": "0",
            "mlx_lm_version": "0",
        }
        | facts
    )


# environment


def test_an_api_key_that_serve_would_refuse_is_a_failure_and_not_shown() -> None:
    check = surroundings.environment({"BASEMLX_API_KEY": "short"})
    assert check.verdict == "FAIL"
    assert "short" not in str(check)


def test_a_misspelt_variable_is_named_without_its_value() -> None:
    check = surroundings.environment({"BASEMLX_TURBO": SECRET, "PATH": "/bin"})
    assert check.verdict == "FAIL"
    assert "BASEMLX_TURBO" in check.details[0]
    assert SECRET not in str(check)


def test_variables_of_other_programs_are_nobodys_business() -> None:
    check = surroundings.environment({"OPENAI_API_KEY": SECRET, "HF_HOME": "/models"})
    assert (check.verdict, check.details) == ("ok", ("HF_HOME=/models",))


def test_the_name_of_the_home_folder_stays_out_of_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert shareable("/home/ada/.cache") == "~/.cache"
    assert shareable("cannot open /home/ada/x: no") == "cannot open ~/x: no"
    assert shareable("/home/ada:/home/ada/models") == "~:~/models"
    assert shareable("/home/adam/x and /mnt/home/ada/x") == "/home/adam/x and /mnt/home/ada/x"


# port


def test_a_free_port_is_free() -> None:
    check = surroundings.port(LOOPBACK, _free_port())
    assert (check.verdict, check.facts["free"]) == ("ok", True)


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ({"/": ("", "Ollama is running")}, "Ollama"),
        ({"/v1/models": ("", '{"data": [{"id": "m", "owned_by": "vllm"}]}')}, "vLLM"),
        ({"/": ("llama.cpp", "<html>")}, "llama.cpp"),
        ({"/": ("nginx/1.29\x1b[2J", "hello")}, "an HTTP server (nginx/1.29[2J)"),
        ({"/": ("", "[" * 50_000)}, "an HTTP server"),
        ({"/v1/models": ("", '{"data": 7}')}, "an HTTP server"),
    ],
)
def test_a_taken_port_is_told_with_what_took_it(answers: dict[str, tuple[str, str]], kind: str) -> None:
    with http_server(answers) as (number, requests):
        check = surroundings.port(LOOPBACK, number)
    assert check.verdict == "note"
    assert check.facts["server"] == kind
    assert not any("authorization" in headers or "x-api-key" in headers for headers in requests)


def test_a_port_taken_by_something_that_speaks_no_http_is_told() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:

        def greet() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"220 mail\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        try:
            check = surroundings.port(LOOPBACK, listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
    assert check.facts["server"] == "a program that does not speak HTTP"


def test_a_bound_port_where_nobody_listens_is_not_free() -> None:
    with socket.socket() as holder:
        holder.bind((LOOPBACK, 0))
        check = surroundings.port(LOOPBACK, holder.getsockname()[1])
    assert (check.verdict, check.facts["free"]) == ("note", False)


def test_a_running_basemlx_is_recognised_with_and_without_a_key() -> None:
    for key in ({}, {"BASEMLX_API_KEY": SECRET}):
        clean = {name: value for name, value in os.environ.items() if not name.startswith("BASEMLX_")}
        command = [*BASEMLX, "serve", "--port", "0"]
        with subprocess.Popen(
            command, env=clean | key, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as server:
            try:
                assert server.stdout is not None
                url = server.stdout.readline().split()[3]
                check = surroundings.port(LOOPBACK, int(url.rsplit(":", 1)[1]))
            finally:
                server.terminate()
        assert check.verdict == "ok"
        assert check.facts["server"].startswith("basemlx")


@contextmanager
def http_server(answers: dict[str, tuple[str, str]]) -> Iterator[tuple[int, list[dict[str, str]]]]:
    """Answers those paths with (Server header, body) and all others with 404; its port and the headers it got."""
    requests: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append({name.lower(): value for name, value in self.headers.items()})
            name, body = answers.get(self.path, ("", ""))
            self.send_response_only(200 if self.path in answers else 404)
            if name:
                self.send_header("server", name)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer((LOOPBACK, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1], requests
        finally:
            server.shutdown()
            thread.join()


def _free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as listener:
        return int(listener.getsockname()[1])


# models, self-test, report


def test_models_of_the_hub_cache_are_listed_with_their_sizes(
    zoo: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    snapshot = tmp_path / "models--acme--small" / "snapshots" / "abc"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(zoo("llama"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert surroundings.models().facts["models"].keys() == {"tiny"}, "a snapshot that leads out of the cache"
    snapshot.unlink()
    snapshot.mkdir()
    for file in zoo("llama").iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    facts = surroundings.models().facts
    assert facts["models"]["acme/small"] == (snapshot / "model.safetensors").stat().st_size


def test_models_are_listed_with_where_they_lie_and_those_that_cannot_be_loaded_are_counted(
    zoo: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none"))
    shutil.copytree(zoo("llama"), tmp_path / "mine" / "whole")
    shutil.copytree(zoo("llama"), tmp_path / "mine" / "half")
    (tmp_path / "mine" / "half" / "model.safetensors").unlink()
    monkeypatch.setenv("BASEMLX_MODELS", str(tmp_path / "mine"))
    check = surroundings.models()
    assert check.summary.startswith("2 models, the built-in one included; no Hugging Face cache at ")
    assert [line.rpartition(", ")[2] for line in check.details[:2]] == ["built-in)", "folder)"]
    assert "1 more cannot be loaded" in check.details[2]
    assert check.facts["broken"] == ["half"]


def test_a_model_that_cannot_be_run_is_reported_not_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("basemlx.engine.models.discovery.built_in_folder", lambda: None)
    check = selftest()
    assert check.verdict == "FAIL"
    assert "ModelNotFound" in check.summary


def test_a_report_fails_if_one_check_does() -> None:
    works, could_be_better, fails = Check("A", "ok", "a"), Check("B", "note", "b"), Check("C", "FAIL", "c")
    assert Report((works,)).text().endswith("Works.")
    assert Report((works, could_be_better)).text().endswith("Works. Could be better: B.")
    assert Report((works, could_be_better, fails)).text().endswith("Does not work: C.")
    assert [Report((works, check)).works for check in (works, could_be_better, fails)] == [True, True, False]
