"""`basemlx schema check` as a process: what it says, to people and to programs, and what its exit code means."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.serving import BASEMLX

NAMES = {
    "type": "object",
    "properties": {"names": {"type": "array", "items": {"type": "string"}, "uniqueItems": True}},
}
FLAG = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}


def check(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [*BASEMLX, "schema", "check", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(schema: object) -> str:
        path = tmp_path / "schema.json"
        path.write_text(json.dumps(schema))
        return str(path)

    return write


def test_a_schema_that_strict_takes(written: Any) -> None:
    done = check(written(FLAG))
    assert (done.returncode, done.stderr) == (0, "")
    assert "Enforced in full" in done.stdout
    done = check("-", "--json", text=json.dumps(FLAG))
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert (report["enforced"], report["backend"], report["remaining"]) == (True, "llguidance", [])


def test_what_is_left_to_be_checked_is_listed_by_keyword_and_pointer(written: Any) -> None:
    path = written(NAMES)
    done = check(path)
    assert done.returncode == 1
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("uniqueItems")]
    assert row.split()[1] == "/properties/names/uniqueItems"
    done = check(path, "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert (report["enforced"], report["satisfiable"]) == (False, True)
    (gap,) = report["remaining"]
    assert (gap["keyword"], gap["pointer"]) == ("uniqueItems", "/properties/names/uniqueItems")
    assert gap["reason"]


@pytest.mark.parametrize(
    ("text", "keyword", "pointer"),
    [
        ('{"type": "nothing"}', "type", "/type"),
        ('{"properties": {"a": {"$ref": "http://example.org/s"}}}', "$ref", "/properties/a/$ref"),
        ("{", None, ""),
    ],
)
def test_what_is_refused_strict_or_not_says_why(text: str, keyword: str | None, pointer: str | None) -> None:
    done = check("-", "--json", text=text)
    assert (done.returncode, done.stderr) == (1, "")
    error = json.loads(done.stdout)["error"]
    assert (error["keyword"], error["pointer"]) == (keyword, pointer)
    done = check("-", text=text)
    assert done.returncode == 1
    assert error["message"] in done.stdout


def test_a_schema_that_nothing_satisfies_is_not_enforced() -> None:
    done = check("-", text="false")
    assert done.returncode == 1
    assert "no JSON value" in done.stdout
    assert json.loads(check("-", "--json", text="false").stdout)["enforced"] is False


def test_a_file_that_cannot_be_read_is_wrong_usage(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        done = check(str(path))
        assert (done.returncode, done.stdout) == (2, "")
        assert str(path) in done.stderr
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    assert check(str(binary)).returncode == 2
