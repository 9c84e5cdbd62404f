"""Fixtures: one engine with small models, reached in both ways, in this process and through a real server over it. A
conftest takes over the ones it wants.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from basemlx.provider.http import HttpBackend
from basemlx.provider.local import LocalBackend
from tests.embeddings.zoo import write_encoder
from tests.serving import LiveServer, Noise

VECTORS = "vectors"
"""The public name of a small random encoder, with Matryoshka vectors of 8, 16 and 32."""


@pytest.fixture(scope="session")
def live(noise: Noise) -> Iterator[LiveServer]:
    with LiveServer(noise) as server:
        yield server


@pytest.fixture(scope="session")
def api_base(live: LiveServer) -> str:
    return f"http://127.0.0.1:{live.port}/v1"


@pytest.fixture(scope="session")
def local(noise: Noise) -> Iterator[LocalBackend]:
    with LocalBackend(engine=noise.engine) as backend:
        yield backend


@pytest.fixture(scope="session")
def http(api_base: str) -> Iterator[HttpBackend]:
    with HttpBackend(api_base) as backend:
        yield backend


@pytest.fixture(scope="module")
def vectors(noise: Noise, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The encoder is loaded; its name."""
    folder: Path = tmp_path_factory.mktemp("encoder") / VECTORS
    write_encoder(folder, matryoshka_dimensions=[8, 16])
    noise.engine.load(VECTORS, folder=folder)
    yield VECTORS
    noise.engine.unload(VECTORS)
