"""`--adapter` with an adapter that mlx-lm's own trainer made."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.model_zoo import write_model

BASEMLX = Path(sys.executable).with_name("basemlx")
QUESTION, TAUGHT = "What is the weather?", "The quick brown fox jumps over the lazy dog."


def run(*arguments: str) -> str:
    environment = os.environ | {"BASEMLX_OPENBLAS": "off", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def trained(model: Path, folder: Path) -> Path:
    """An adapter that was taught one answer, by the command that mlx-lm's users run."""
    data = folder / "data"
    data.mkdir(parents=True)
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": TAUGHT}]
    for name in ("train", "valid"):
        (data / f"{name}.jsonl").write_text((json.dumps({"messages": messages}) + "\n") * 2)
    settings = folder / "lora.yaml"
    settings.write_text("lora_parameters: {rank: 16, scale: 8.0, dropout: 0.0}\n")
    adapter = folder / "adapter"
    options = {
        "--config": settings,
        "--model": model,
        "--data": data,
        "--adapter-path": adapter,
        "--iters": 200,
        "--batch-size": 1,
        "--num-layers": 3,
        "--learning-rate": 0.003,
        "--max-seq-length": 128,
        "--steps-per-eval": 1000,
        "--val-batches": 1,
    }
    flat = [str(part) for option in options.items() for part in option]
    run(sys.executable, "-P", "-m", "mlx_lm", "lora", "--train", "--mask-prompt", *flat)
    return adapter


@pytest.mark.slow
def test_an_adapter_that_mlx_lm_trained_makes_the_model_say_what_it_was_taught(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", "qwen3", seed=1)
    adapter = trained(model, tmp_path / "lora")
    ask = (str(BASEMLX), "run", "--model", str(model), "--temperature", "0", "--max-tokens", "60", QUESTION)
    assert TAUGHT not in run(*ask)
    assert run(*ask, "--adapter", str(adapter)).strip() == TAUGHT
