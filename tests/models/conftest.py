"""Places on disk as other programs leave them, and engines that look only there."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from basemlx.engine.models.discovery import Discovery, ModelPlaces

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def put_in_hub_cache(cache: Path, name: str, source: Path, *, commit: str = COMMIT) -> Path:
    """Copies a model into a Hugging Face cache as huggingface_hub lays it out; returns the snapshot."""
    repository = cache / ("models--" + name.replace("/", "--"))
    snapshot = repository / "snapshots" / commit
    (repository / "blobs").mkdir(parents=True, exist_ok=True)
    (repository / "refs").mkdir(exist_ok=True)
    snapshot.mkdir(parents=True)
    for file in source.iterdir():
        blob = repository / "blobs" / f"{commit[:8]}-{file.name}"
        shutil.copyfile(file, blob)
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    (repository / "refs" / "main").write_text(commit)
    return snapshot


@pytest.fixture
def places(tmp_path: Path) -> ModelPlaces:
    """An empty machine."""
    return ModelPlaces(
        built_in=None,
        hub_cache=tmp_path / "hub",
        lm_studio=(tmp_path / "lmstudio", tmp_path / "old-lmstudio"),
        folders=(tmp_path / "mine",),
    )


@pytest.fixture
def machine(places: ModelPlaces, zoo: Callable[..., Path]) -> Discovery:
    """A machine with two small models in its Hugging Face cache, org/a and org/b."""
    put_in_hub_cache(places.hub_cache, "org/a", zoo("qwen3", seed=1))
    put_in_hub_cache(places.hub_cache, "org/b", zoo("llama", seed=2))
    return Discovery(places)
