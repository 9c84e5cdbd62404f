"""A model on a local hub, and what a pull of it leaves."""

from pathlib import Path
from typing import Any

from basemlx.engine.models.discovery import Discovery, FoundModel, ModelPlaces
from basemlx.engine.models.hub import pull
from basemlx.engine.models.transfer import PARTIAL_SUFFIX
from tests.models.hub_server import Hub

NAME = "org/model"
WEIGHTS = "model.safetensors"


def fetch(hub: Hub, cache: Path, name: str = NAME, **options: Any) -> Any:
    options = {"stall_timeout_s": 10.0, "pause_s": 0.01} | options
    return pull(name, cache=cache, endpoint=hub.url, **options)


def found(cache: Path, name: str = NAME) -> FoundModel | None:
    return Discovery(ModelPlaces(None, cache)).find(name)


def weights_of(hub: Hub) -> bytes:
    return hub.repositories[NAME][WEIGHTS]


def partials(cache: Path) -> list[Path]:
    return list(cache.rglob("*" + PARTIAL_SUFFIX))


def sizes(files: list[Path]) -> list[int]:
    return [file.stat().st_size for file in files if file.exists()]
