"""Writes the packaged model folder from trained weights: quantised to 4 bits, with its configuration and tokenizer.

The folder is written beside its place and then moved in file by file, so that a reader never sees half of one file.
The chat template and the model card are written by hand and stay as they are.

    python -m basemlx.engine.tiny.training.export WEIGHTS.safetensors… --tokenizer FOLDER [--to FOLDER]
"""

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from basemlx.engine.runtime import mx
from basemlx.engine.tiny import MODEL_DIR
from basemlx.engine.tiny.training.architecture import config, parameter_shapes
from basemlx.engine.tiny.training.quantisation import Floats, quantise
from basemlx.engine.tiny.training.tokenizer import END_OF_TEXT, END_OF_TURN, id_of


def read_weights(files: Sequence[Path]) -> dict[str, Floats]:
    """The weights of all files together, checked against the architecture. Raises ValueError."""
    found: dict[str, Floats] = {}
    for file in files:
        found |= {name: np.asarray(value, np.float32) for name, value in load_file(str(file)).items()}
    expected = parameter_shapes()
    if found.keys() != expected.keys():
        raise ValueError(f"weights missing or unknown: {sorted(found.keys() ^ expected.keys())[:4]}")
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise ValueError(f"{name} is {found[name].shape}, not {shape}")
    return found


def quantised(weights: Mapping[str, Floats]) -> dict[str, mx.array]:
    """Matrices in 4 bits with scales and biases, vectors in bfloat16."""
    arrays: dict[str, mx.array] = {}
    for name, weight in weights.items():
        if weight.ndim == 1:
            arrays[name] = mx.array(weight).astype(mx.bfloat16)
            continue
        packed, scales, biases = quantise(weight)
        stem = name.removesuffix("weight")
        arrays[name] = mx.array(packed)
        arrays[stem + "scales"] = mx.array(scales).astype(mx.bfloat16)
        arrays[stem + "biases"] = mx.array(biases).astype(mx.bfloat16)
    return arrays


def export(weights: Mapping[str, Floats], tokenizer_folder: Path, folder: Path = MODEL_DIR) -> None:
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    end_of_turn, end_of_text = id_of(tokenizer, END_OF_TURN), id_of(tokenizer, END_OF_TEXT)
    generation = {
        "bos_token_id": end_of_text,
        "do_sample": False,
        "eos_token_id": [end_of_turn, end_of_text],
        "pad_token_id": end_of_text,
    }
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        fresh = Path(temporary)
        mx.save_safetensors(str(fresh / "model.safetensors"), quantised(weights), metadata={"format": "mlx"})
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tokenizer_folder / name, fresh / name)
        described = config(end_of_turn, end_of_text)
        (fresh / "config.json").write_text(json.dumps(described, indent=2) + "\n", "utf-8")
        (fresh / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", "utf-8")
        for file in sorted(fresh.iterdir()):
            os.chmod(file, 0o644)
            os.replace(file, folder / file.name)


def main() -> None:
    parser = argparse.ArgumentParser(description="Quantise trained weights into a model folder.")
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--to", type=Path, default=MODEL_DIR)
    options = parser.parse_args()
    export(read_weights(options.weights), options.tokenizer, options.to)
    size = sum(file.stat().st_size for file in options.to.iterdir())
    print(f"{options.to}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
