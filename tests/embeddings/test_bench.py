"""bench/embeddings.py says by its exit whether its figures are what they must be."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="module")
def bench() -> Any:
    path = Path(__file__).parents[2] / "bench" / "embeddings.py"
    spec = importlib.util.spec_from_file_location("bench_embeddings", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Side:
    """A probe that takes `slice_s` a slice and gives random vectors, turned away from them by `error`."""

    what = "made up"

    def __init__(self, slice_s: float, error: float = 0.0) -> None:
        self.seconds: list[float] = []
        self._slice_s, self._error = slice_s, error

    def embed(self, texts: list[str]) -> Any:
        self.seconds.append(self._slice_s)
        vectors = np.random.default_rng(len(texts)).normal(size=(len(texts), 8))
        vectors[0] += self._error
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("ours", "missed"),
    [
        (Side(1.0), 0),
        (Side(1.4), 0),
        (Side(1.5), 1),
        (Side(1.0, error=0.2), 1),
        (Side(1.5, error=0.2), 2),
        (Side(1.0, error=float("nan")), 1),
    ],
)
def test_a_figure_that_is_missed_is_an_exit_of_1(
    bench: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ours: Side,
    missed: int,
) -> None:
    sides = {"ours": ours, "theirs": Side(1.0)}
    monkeypatch.setattr(bench, "Probe", lambda _python, name, _model, **_environment: sides[name])
    monkeypatch.setattr("sys.argv", ["embeddings.py", "--reference", "python", "--model", "m", "--count=200"])
    assert bench.main() == (1 if missed else 0)
    assert capsys.readouterr().out.count("MISSED") == missed
