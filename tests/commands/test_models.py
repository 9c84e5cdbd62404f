"""pull, list, serve, ps, load, unload and rm as a new user uses them: the real command, a real server, a local hub."""

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.commands.conftest import BASEMLX, NAME, SHORT, Machine


@pytest.fixture(scope="module")
def served(machine: Machine) -> Iterator[Machine]:
    """The machine with a server on it, once a model has been pulled."""
    assert machine("pull", SHORT)[0] == 0
    command = [str(BASEMLX), "serve", "--port", "0", "--max-memory", "0.7", "--log-level", "warning"]
    with subprocess.Popen(command, env=machine.environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("basemlx ready on"), line
            machine.port = line.split()[3].rpartition(":")[2]
            yield machine
        finally:
            machine.port = ""
            process.terminate()
    assert process.returncode == 0


def test_a_new_user_pulls_by_short_name_sees_it_and_removes_it(machine: Machine) -> None:
    status, out, err = machine("pull", "Qwen3 0.6B")
    assert (status, out.split()[:3]) == (0, [NAME, "is", "here"]), err
    assert "taken for qwen3-0.6b" in err
    status, out, _ = machine("list")
    assert status == 0
    [row] = [line for line in out.splitlines() if line.startswith(NAME)]
    assert row.split()[-3:] == ["chat", "huggingface", "-"]
    assert "(qwen3-0.6b)" in row
    assert "4-bit" in row
    rows = [line.split() for line in machine("list", "--available")[1].splitlines()]
    assert [row[-1] for row in rows if row[:1] == [SHORT]] == ["yes"]
    assert [row[-1] for row in rows if row[:1] == ["qwen3-4b"]] == ["no"]
    assert machine("pull", SHORT)[1].startswith(f"{NAME} is here already, complete")
    assert machine("rm", SHORT)[0] == 1, "nobody can be asked, so nothing is removed"
    status, out, _ = machine("rm", SHORT, "--yes")
    assert (status, out.startswith(f"{NAME} is removed")) == (0, True)
    assert NAME not in machine("list")[1]
    assert not list((machine.home / "hf" / "hub").glob("models--*"))


def test_names_that_are_wrong_get_a_line_that_helps_and_no_traceback(machine: Machine) -> None:
    for arguments, words in (
        (("pull", "qwen3-o.6b"), "Did you mean qwen3-0.6b"),
        (("pull", "org/nothing"), "does not exist"),
        (("rm", "org/nothing", "--yes"), "not brought by basemlx pull"),
        (("rm", "tiny", "--yes"), "built in"),
        (("run", "--adapter", "/nowhere", "hello"), "not a folder"),
        (("ps", "--port", "9"), "No basemlx server answers"),
        (("run", "--model", "nobody/nothing", "hello"), "basemlx pull nobody/nothing"),
    ):
        status, out, err = machine(*arguments)
        assert (status, out) == (1, "")
        assert words in err
        assert err.startswith("basemlx: ")
        assert "Traceback" not in err


def test_a_request_by_short_name_loads_the_model_and_ps_shows_it(served: Machine) -> None:
    body = {"model": SHORT, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    status, answer = served.ask("/v1/chat/completions", body)
    assert (status, answer["model"]) == (200, NAME)
    out = served("ps")[1]
    assert {line.split()[0] for line in out.splitlines()[1:]} == {"tiny", NAME}
    assert "min more, if idle" in next(line for line in out.splitlines() if line.startswith(NAME))
    assert [line.split()[-1] for line in served("list")[1].splitlines()[1:]] == ["yes", "yes"]
    status, _, err = served("rm", SHORT, "--yes")
    assert status == 1
    assert f"basemlx unload {SHORT}" in err


def test_load_and_unload_by_command(served: Machine) -> None:
    assert served("unload", SHORT)[:2] == (0, f"{NAME} is not in memory any more\n")
    assert NAME not in served("ps")[1]
    assert served("unload", SHORT)[:2] == (0, f"{NAME} was not in memory\n")
    status, out, err = served("load", SHORT, "--pin")
    assert status == 0, err
    assert out.startswith(f"{NAME} is loaded")
    assert "pinned" in served("ps")[1]
    assert served("unload", "Qwen3-0.6B")[0] == 0


def test_load_and_unload_over_http_want_the_key_and_known_names(served: Machine) -> None:
    path = f"/v1/models/{NAME}"
    assert served.ask(f"{path}/load", {}, key="wrong-key-here")[0] == 401
    status, entry = served.ask(f"{path}/load", {"idle_ttl_s": 60})
    assert (status, entry["id"], entry["loaded"], entry["state"]) == (200, NAME, True, "loaded")
    assert 0 < entry["expires_in_s"] <= 60
    assert (entry["aliases"], entry["source"], entry["quantization"]) == ([SHORT], "huggingface", "4-bit")
    status, entry = served.ask(f"/v1/models/{SHORT}/unload", {})
    assert (status, entry["loaded"]) == (200, False)
    assert served.ask("/v1/models/nobody/load", {})[0] == 404
    assert served.ask("/v1/models/..%2f..%2fetc/load", {})[0] == 404
    for wrong in ({"pin": 1}, {"idle_ttl_s": -1}, {"path": "/etc"}):
        status, answer = served.ask(f"{path}/load", wrong)
        assert (status, answer["error"]["param"]) == (400, next(iter(wrong)))


def test_no_path_of_the_machine_is_told_over_http(served: Machine) -> None:
    status, answer = served.ask("/v1/models")
    assert status == 200
    assert {entry["id"] for entry in answer["data"]} == {"tiny", NAME}
    text = json.dumps(answer)
    assert str(served.home) not in text
    assert "/root" not in text
    status, answer = served.ask(
        "/v1/chat/completions",
        {"model": str(served.home), "messages": [{"role": "user", "content": "Hi"}]},
    )
    assert status == 404
