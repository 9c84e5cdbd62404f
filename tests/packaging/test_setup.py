"""scripts/setup.sh: when it installs, and when it leaves everything as it is. And the demonstration after it.

The interpreter is a stand-in that notes what it is asked to do: what pip does is pip's, and CI does the real thing.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

STAND_IN = """#!/bin/sh
case "$*" in
    "-c "*) exec {python} "$@" ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
esac
echo "$*" >> {notes}
"""


class Checkout:
    """A folder with what setup.sh reads, and a python of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkout with a space"
        (self.folder / "scripts").mkdir(parents=True)
        shutil.copy(ROOT / "scripts" / "setup.sh", self.folder / "scripts")
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.folder)
        self._notes = folder / "notes"
        self.python = folder / "python3"
        self.python.write_text(STAND_IN.format(python=sys.executable, notes=self._notes))
        self.python.chmod(0o755)

    def setup(self, **environment: str) -> list[str]:
        """What python was asked to do, by module."""
        self._notes.write_text("")
        path = f"{self.folder.parent}:/usr/bin:/bin"
        subprocess.run(
            ["sh", "scripts/setup.sh"], cwd=self.folder, env={"PATH": path} | environment, check=True
        )
        return [line.split()[1] for line in self._notes.read_text().splitlines()]

    def append(self, name: str) -> None:
        with (self.folder / name).open("a") as file:
            file.write("# changed\n")


def test_it_installs_once_and_again_when_versions_may_have_changed(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    assert checkout.setup() == ["venv", "pip", "pip"]
    assert checkout.setup() == []
    os.utime(checkout.folder / "pyproject.toml")
    assert checkout.setup() == [], "a new time stamp alone changes nothing"
    checkout.append("pyproject.toml")
    assert checkout.setup() == ["pip", "pip"]
    checkout.append("constraints.txt")
    assert checkout.setup() == ["pip", "pip"]
    assert checkout.setup() == []


def test_other_extras_or_another_python_start_anew(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    assert checkout.setup() == ["venv", "pip", "pip"]
    assert checkout.setup(EXTRAS="cuda13,dev") == ["venv", "pip", "pip"]
    assert checkout.setup(EXTRAS="cuda13,dev") == []
    assert checkout.setup(EXTRAS="cuda13,dev", PYTHON=str(checkout.python)) == [], "the same version"
    (checkout.folder / ".venv" / "bin" / "python").write_text("#!/bin/sh\necho 3.10\n")
    assert checkout.setup(EXTRAS="cuda13,dev", PYTHON=str(checkout.python)) == ["venv", "pip", "pip"]


def test_an_installation_that_failed_is_tried_again(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    working = checkout.python.read_text()
    checkout.python.write_text(working.replace("esac\n", '    "-m pip "*) exit 1 ;;\nesac\n'))
    with pytest.raises(subprocess.CalledProcessError):
        checkout.setup()
    (checkout.folder / ".venv" / "bin" / "python").write_text(working)
    assert checkout.setup() == ["pip", "pip"]


@pytest.mark.parametrize(("python", "found"), [("too-old", "Python 3.10"), ("not-there", "no Python")])
def test_a_python_that_is_too_old_is_named(tmp_path: Path, python: str, found: str) -> None:
    checkout = Checkout(tmp_path)
    too_old = tmp_path / "too-old"
    too_old.write_text('#!/bin/sh\ncase "$2" in *exit*) exit 1 ;; esac\necho 3.10\n')
    too_old.chmod(0o755)
    result = subprocess.run(
        ["sh", "scripts/setup.sh"],
        cwd=checkout.folder,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHON": python},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert f"basemlx needs Python 3.11 or newer, and {python} is {found}." in result.stderr
    assert not (checkout.folder / ".venv").exists()


def test_the_demonstration_runs_and_keeps_its_promises() -> None:
    result = _demo()
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("✓") == 9
    assert "with exit code 0" in result.stdout


def test_the_demonstration_fails_if_the_server_does_not_start() -> None:
    result = _demo(BASEMLX_TURBO="1")
    assert result.returncode == 1
    assert "BASEMLX_TURBO" in result.stderr
    assert "the demonstration failed" in result.stderr


def _demo(**environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", str(ROOT / "scripts" / "demo.py")]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120)
