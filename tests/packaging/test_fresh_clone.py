"""A fresh clone on a machine that has nothing cached: the README's first command, for real. Needs the package index."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only a git checkout can be cloned")
def test_a_fresh_clone_is_set_up_and_demonstrated_by_one_command(tmp_path: Path) -> None:
    clone = tmp_path / "basemlx"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    environment = {
        name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "MAKEFLAGS")
    }
    environment |= {"PIP_CACHE_DIR": str(tmp_path / "empty")}
    result = subprocess.run(
        ["make", "demo"], cwd=clone, env=environment, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "with exit code 0" in result.stdout
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True
    )
    assert status.stdout == "", "what setting up leaves behind is ignored by git"
