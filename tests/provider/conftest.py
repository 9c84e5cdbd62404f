"""One engine with a small random model, reached in both ways: in this process, and through a real server over it."""

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # LiteLLM would download its table of prices

from basemlx.provider.backend import Backend
from basemlx.provider.http import HttpBackend
from basemlx.provider.local import LocalBackend
from tests.serving import LiveServer, Noise


@pytest.fixture(scope="module")
def live(noise: Noise) -> Iterator[LiveServer]:
    with LiveServer(noise) as server:
        yield server


@pytest.fixture(scope="module")
def api_base(live: LiveServer) -> str:
    return f"http://127.0.0.1:{live.port}/v1"


@pytest.fixture(scope="module")
def local(noise: Noise) -> Iterator[LocalBackend]:
    with LocalBackend(engine=noise.engine) as backend:
        yield backend


@pytest.fixture(scope="module")
def http(api_base: str) -> Iterator[HttpBackend]:
    with HttpBackend(api_base) as backend:
        yield backend


@pytest.fixture(scope="module", params=["local", "http"])
def backend(request: pytest.FixtureRequest) -> Backend:
    made: Backend = request.getfixturevalue(request.param)
    return made


@pytest.fixture(scope="module")
def both(local: LocalBackend, http: HttpBackend) -> tuple[Backend, Backend]:
    return local, http
