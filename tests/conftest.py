"""What every test may use: MLX prepared as the server prepares it, and small models on disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from basemlx.engine import runtime

runtime.prepare(stand_alone=True)  # before any test module imports mlx-lm: tests do not pay for torch

from tests.model_zoo import write_model  # noqa: E402


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """zoo("qwen3", bits=4, …) is the folder of that model, written once a session. Tests must not change it."""
    folders: dict[str, Path] = {}

    def folder(kind: str, **options: Any) -> Path:
        key = "-".join([kind, *(f"{name}={value}" for name, value in sorted(options.items()))])
        if key not in folders:
            folders[key] = write_model(tmp_path_factory.mktemp("zoo") / kind, kind, **options)
        return folders[key]

    return folder
