"""The checkout's layout: root folders that are importable as basemlx.* and under no other name."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("engine", "integrations", "provider", "server")


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_root_folder_is_linked_relatively_and_so_in_every_clone(folder: str) -> None:
    assert os.readlink(ROOT / "src" / "basemlx" / folder) == f"../../{folder}"
    assert (ROOT / folder / "__init__.py").is_file()


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_root_folder_has_no_second_name(folder: str) -> None:
    """Imported bare, a file would be two modules, with two of every class. (`python -m pytest` puts the current folder
    on the path and fails here: run `pytest`.)"""
    assert importlib.util.find_spec(folder) is None
    assert importlib.util.find_spec(f"basemlx.{folder}") is not None


@pytest.mark.parametrize(
    "statement", ["import basemlx", "import basemlx.server.cli", "import basemlx.engine.runtime"]
)
def test_importing_loads_nothing_heavy(statement: str) -> None:
    heavy = ("mlx", "mlx_lm", "numpy", "transformers", "tokenizers", "torch", "starlette", "openai")
    script = f"import sys; {statement}; print(*[name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []


def test_the_engine_is_there_under_its_short_name() -> None:
    import basemlx
    from basemlx.engine.engine import Engine

    assert basemlx.Engine is Engine
    with pytest.raises(AttributeError, match="no attribute 'Motor'"):
        _ = basemlx.Motor
