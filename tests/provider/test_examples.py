"""Every example runs as a user would run it, here and at a server where it can, and warns of nothing of ours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.embeddings.zoo import write_encoder
from tests.transports import VECTORS

EXAMPLES = Path(__file__).parents[2] / "examples"
NEEDS = {"litellm_provider.py": "litellm", "langchain_chat.py": "langchain_core"}

# name -> what it must have printed
SAID = {
    "in_process.py": ("tokens",),
    "over_http.py": ("'tiny'", "tokens in the prompt", "InvalidRequest 400 temperature"),
    "openai_client.py": ("tokens",),
    "embeddings.py": ("A fox lives", "32 dimensions"),
    "litellm_provider.py": ("tokens, cost 0", "ContextWindowExceededError"),
    "langchain_chat.py": ("[('get_weather', {'city':", "name=", "age="),
}
HERE = ("in_process.py", "litellm_provider.py", "langchain_chat.py")
AT_A_SERVER = ("over_http.py", "openai_client.py", "litellm_provider.py", "langchain_chat.py")


def test_every_example_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SAID)
    assert {*HERE, *AT_A_SERVER, "embeddings.py"} == set(SAID)
    told = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in EXAMPLES.iterdir() if path.is_file() and f"`{path.name}`" not in told] == [
        "README.md"
    ]


def cases(names: tuple[str, ...]) -> list[object]:
    """Those that import a framework take seconds."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in NEEDS else name for name in names]


@pytest.mark.parametrize("name", cases(HERE))
def test_an_example_runs_in_this_process(name: str) -> None:
    run(name)


@pytest.mark.parametrize("name", cases(AT_A_SERVER))
def test_an_example_runs_at_a_server(name: str, api_base: str) -> None:
    run(name, api_base)


def test_the_example_of_embeddings_runs_at_a_server(vectors: str, api_base: str) -> None:
    run("embeddings.py", vectors, api_base)


@pytest.mark.slow
def test_the_example_of_embeddings_runs_in_this_process(tmp_path: Path) -> None:
    write_encoder(tmp_path / VECTORS)
    run("embeddings.py", str(tmp_path / VECTORS))


def run(name: str, *arguments: str) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"{NEEDS[name]} is not installed")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("BASEMLX_")}
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error::ResourceWarning", str(EXAMPLES / name), *arguments],
        env=environment | {"BASEMLX_OPENBLAS": "off", "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for text in SAID[name]:
        assert text in done.stdout, done.stdout
    assert "basemlx" not in done.stderr, done.stderr
