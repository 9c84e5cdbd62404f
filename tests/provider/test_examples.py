"""Every example runs as a user would run it, and warns of nothing of ours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NEEDS = {"litellm_provider.py": "litellm", "langchain_chat.py": "langchain_core"}
AT_A_SERVER = ("over_http.py", "openai_client.py")

# name -> what it must have printed
SAID = {
    "in_process.py": ("tokens",),
    "over_http.py": ("'tiny'", "tokens in the prompt", "InvalidRequest 400 temperature"),
    "openai_client.py": ("tokens",),
    "litellm_provider.py": ("tokens, cost 0", "ContextWindowExceededError"),
    "langchain_chat.py": ("[('get_weather', {'city':", "name=", "age="),
}


def test_every_example_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SAID)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in NEEDS else name for name in SAID]
)
def test_an_example_runs(name: str, api_base: str) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"{NEEDS[name]} is not installed")
    arguments = [api_base] if name in AT_A_SERVER else []
    environment = {key: value for key, value in os.environ.items() if not key.startswith("BASEMLX_")}
    done = subprocess.run(
        [sys.executable, "-P", str(EXAMPLES / name), *arguments],
        env=environment | {"BASEMLX_OPENBLAS": "off", "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for text in SAID[name]:
        assert text in done.stdout, done.stdout
