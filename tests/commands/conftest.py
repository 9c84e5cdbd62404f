"""A machine of its own for commands: a home with nothing in it, and a local hub to pull from."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.model_zoo import write_model
from tests.models.hub_server import Hub, serving

BASEMLX = Path(sys.executable).with_name("basemlx")
NAME = "mlx-community/Qwen3-0.6B-4bit"
SHORT = "qwen3-0.6b"
KEY = "a-key-of-this-test"


class Machine:
    """A home of its own, with nothing in it."""

    def __init__(self, home: Path, hub: Hub) -> None:
        self.home = home
        self.hub = hub
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("HF_", "BASEMLX_"))
        } | {
            "HOME": str(home),
            "HF_HOME": str(home / "hf"),
            "HF_ENDPOINT": hub.url,
            "BASEMLX_OPENBLAS": "off",
            "BASEMLX_API_KEY": KEY,
        }
        self.port = ""

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        place = (
            ["--port", self.port]
            if self.port and arguments[0] in ("list", "ps", "load", "unload", "rm")
            else []
        )
        done = subprocess.run(
            [str(BASEMLX), *arguments, *place],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout, done.stderr

    def ask(
        self, path: str, body: dict[str, Any] | None = None, key: str = KEY
    ) -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            None if body is None else json.dumps(body).encode(),
            {"content-type": "application/json", "authorization": f"Bearer {key}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)


@contextmanager
def machine_at(root: Path) -> Iterator[Machine]:
    hub = Hub()
    hub.add(NAME, write_model(root / "upstream", "qwen3", bits=4, seed=3))
    (root / "home").mkdir()
    with serving(hub):
        yield Machine(root / "home", hub)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with machine_at(tmp_path_factory.mktemp("machine")) as machine:
        yield machine
