"""The built-in model in an engine of this process, and a real server over that engine."""

from collections.abc import Iterator

import pytest

from basemlx.provider.http import HttpBackend
from basemlx.provider.local import LocalBackend
from tests.serving import LiveServer, Noise


@pytest.fixture(scope="session")
def shared_local(noise: Noise) -> Iterator[LocalBackend]:
    with LocalBackend(engine=noise.engine) as backend:
        yield backend


@pytest.fixture(scope="session")
def shared_live(noise: Noise) -> Iterator[LiveServer]:
    with LiveServer(noise) as server:
        yield server


@pytest.fixture(scope="session")
def api_base(shared_live: LiveServer) -> str:
    return f"http://127.0.0.1:{shared_live.port}/v1"


@pytest.fixture(scope="session")
def shared_http(api_base: str) -> Iterator[HttpBackend]:
    with HttpBackend(api_base) as backend:
        yield backend
