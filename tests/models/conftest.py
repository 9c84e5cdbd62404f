"""Places on disk as other programs leave them, and engines that look only there; a local hub."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from basemlx.engine.models import hub as hub_module
from basemlx.engine.models.discovery import Discovery, ModelPlaces
from tests.model_zoo import write_model
from tests.models.hub_server import Hub, serving
from tests.models.pulling import NAME

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


@pytest.fixture(scope="package")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_model(tmp_path_factory.mktemp("hub") / "model", "qwen3", seed=5)
    (folder / "README.md").write_text("a model card")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04 a pickle")
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    (folder / "consolidated.safetensors").write_bytes(b"another program's copy")
    return folder


@pytest.fixture
def hub(upstream: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    hub = Hub()
    hub.add(NAME, upstream)
    with serving(hub):
        yield hub


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def sharded(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hub's model in two shards; their names. Files come one after another, in the order of their names."""
    hub.add(NAME, write_model(tmp_path / "sharded", "qwen3", shards=2))
    hub.repositories[NAME] = dict(sorted(hub.repositories[NAME].items()))
    monkeypatch.setattr(hub_module, "_THREADS", 1)
    return sorted(file for file in hub.repositories[NAME] if file.startswith("model-"))
