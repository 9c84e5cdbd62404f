from collections.abc import Iterator

import pytest

from tests.serving import LiveServer, Noise


@pytest.fixture(scope="module")
def live(noise: Noise) -> Iterator[LiveServer]:
    """A server in this process, one a module; its engine is idle and whole afterwards."""
    with LiveServer(noise) as server:
        yield server


@pytest.fixture
def whole(noise: Noise) -> Iterator[Noise]:
    """The engine, idle and whole after each test."""
    yield noise
    noise.check_idle()
