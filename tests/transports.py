"""Fixtures: one engine with small models, reached in both ways, in this process and through a real server over it. A
conftest takes over the ones it wants.
"""

import contextlib
import socket
import threading
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


class answering:
    """A server that says the same to whoever comes first, and closes. `heard` is the head of what was asked."""

    def __init__(self, answer: bytes) -> None:
        self.heard = b""
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except OSError:
            return
        with connection:
            self.heard = connection.recv(1 << 16).partition(b"\r\n\r\n")[0]
            connection.sendall(self._answer)
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                while connection.recv(1 << 16):  # closing with something unread would cut the answer off
                    pass

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"

    def __exit__(self, *exc: object) -> None:
        self._thread.join(10)
        self._socket.close()
