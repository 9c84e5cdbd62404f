"""Trains the built-in model with MLX, on a Mac or on any other machine that MLX runs on; `train_torch.py` is its twin.

The model is mlx-lm's own Qwen3. Text is generated while training by worker processes (supply.py). A run takes
`--steps` steps; the learning rate falls linearly to zero, and from `--imitate-from` on every matrix is seen as the
exported file will hold it. A checkpoint is written every `--save-every` steps and at the end, and a run whose
checkpoint exists goes on from there. The packaged model took 27,000 steps of 65,536 tokens.

    python -m basemlx.engine.tiny.training.train --tokenizer FOLDER --out FOLDER [--steps 27000]
    python -m basemlx.engine.tiny.training.export FOLDER/weights.safetensors --tokenizer FOLDER --to MODEL
"""

import argparse
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from basemlx.engine.runtime import mlx_lm_module, mx, nn, prepare, tree_flatten
from basemlx.engine.tiny.training.architecture import BITS, GROUP_SIZE, SHAPE, Shape, config
from basemlx.engine.tiny.training.optimisers_mlx import Arrays, State, fresh, stepped
from basemlx.engine.tiny.training.supply import Supply

LEVELS = 2**BITS - 1
WARM_STEPS = 200
MATRIX_RATE, VECTOR_RATE = 0.025, 0.003
WEIGHTS_FILE, CHECKPOINT_FILE = "weights.safetensors", "checkpoint.safetensors"


def as_4_bit(weight: mx.array) -> mx.array:
    """The weight after quantisation (quantisation.py, to the bit); the gradient is the weight's own."""
    groups = mx.stop_gradient(weight).reshape(weight.shape[0], -1, GROUP_SIZE)
    low, high = groups.min(-1, keepdims=True), groups.max(-1, keepdims=True)
    scale = mx.maximum((high - low) / LEVELS, 1e-7)
    from_low = mx.abs(low) > mx.abs(high)
    scale = mx.where(from_low, scale, -scale)
    edge = mx.where(from_low, low, high)
    steps = mx.round(edge / scale)
    has_steps = steps != 0
    scale = mx.where(has_steps, edge / mx.where(has_steps, steps, 1.0), scale)
    bias = mx.where(has_steps, edge, 0.0)
    scale, bias = _bfloat16(scale), _bfloat16(bias)
    numbers = mx.clip(mx.round((groups - bias) / scale), 0, LEVELS)
    difference = (numbers * scale + bias).reshape(weight.shape) - mx.stop_gradient(weight)
    return weight + difference


def _bfloat16(values: mx.array) -> mx.array:
    return values.astype(mx.bfloat16).astype(mx.float32)


class Trainer:
    """Weights, the optimisers' state, and one step after another. `micro_sequences` bounds what is in memory."""

    def __init__(
        self, shape: Shape = SHAPE, seed: int = 1, micro_sequences: int = 4, dtype: mx.Dtype = mx.float32
    ) -> None:
        qwen3 = mlx_lm_module("models.qwen3")
        self.model: nn.Module = qwen3.Model(qwen3.ModelArgs.from_dict(config(0, 0, shape)))
        self.weights = _initial(dict(tree_flatten(self.model.parameters())), shape, seed)
        self.state = fresh(self.weights)
        self._micro_sequences = micro_sequences
        self._dtype = dtype
        self._gradients = mx.value_and_grad(self._loss)

    def step(
        self, tokens: NDArray[np.uint16], counted: NDArray[np.bool_], rate: float, imitate: bool
    ) -> float:
        """One step on [B, T] sequences at this share of the peak rates. The mean loss over the counted tokens."""
        total = max(1, int(counted[:, 1:].sum()))
        lost = mx.array(0.0)
        gradients: Arrays = {}
        for start in range(0, len(tokens), self._micro_sequences):
            part = slice(start, start + self._micro_sequences)
            ids, marks = mx.array(tokens[part].astype(np.int32)), mx.array(counted[part])
            loss, found = self._gradients(self.weights, ids, marks, imitate)
            lost = lost + loss
            gradients = {name: gradients[name] + found[name] for name in found} if gradients else found
            mx.eval(lost, gradients)
        gradients = {name: gradient / total for name, gradient in gradients.items()}
        self.weights, self.state = stepped(
            self.weights, gradients, self.state, MATRIX_RATE * rate, VECTOR_RATE * rate
        )
        mx.eval(self.weights, self.state.speeds, self.state.squares)
        return float(np.array(lost)) / total

    def _loss(self, weights: Arrays, ids: mx.array, marks: mx.array, imitate: bool) -> mx.array:
        """The summed cross-entropy of the counted tokens, each predicted from those before it."""
        seen = {
            name: as_4_bit(weight) if imitate and weight.ndim == 2 else weight
            for name, weight in weights.items()
        }
        self.model.load_weights([(name, weight.astype(self._dtype)) for name, weight in seen.items()])
        logits = self.model(ids[:, :-1]).astype(mx.float32)
        losses = nn.losses.cross_entropy(logits, ids[:, 1:])
        return (losses * marks[:, 1:]).sum()

    def save(self, folder: Path) -> None:
        """The weights for the export, and beside them all that a later run needs. No reader sees half a file."""
        folder.mkdir(parents=True, exist_ok=True)
        state = self.state
        everything = {f"weight {name}": weight for name, weight in self.weights.items()}
        everything |= {f"speed {name}": speed for name, speed in state.speeds.items()}
        everything |= {f"square {name}": square for name, square in state.squares.items()}
        for name, arrays, metadata in (
            (WEIGHTS_FILE, self.weights, {}),
            (CHECKPOINT_FILE, everything, {"steps": str(state.steps)}),
        ):
            fresh_file = folder / f"fresh-{name}"
            mx.save_safetensors(str(fresh_file), arrays, metadata={"format": "mlx", **metadata})
            os.replace(fresh_file, folder / name)

    def restore(self, folder: Path) -> bool:
        """Goes on from a checkpoint, if there is one."""
        file = folder / CHECKPOINT_FILE
        if not file.exists():
            return False
        loaded: Any = mx.load(str(file), return_metadata=True)
        arrays, metadata = loaded
        self.weights = _of_kind(arrays, "weight")
        self.state = State(_of_kind(arrays, "speed"), _of_kind(arrays, "square"), int(metadata["steps"]))
        return True


def _of_kind(arrays: Mapping[str, mx.array], kind: str) -> Arrays:
    return {
        name.removeprefix(f"{kind} "): array for name, array in arrays.items() if name.startswith(f"{kind} ")
    }


def _initial(weights: Mapping[str, mx.array], shape: Shape, seed: int) -> Arrays:
    """Norms at one, matrices normal: narrower where their output is added to the stream."""
    keys = mx.random.split(mx.random.key(seed), len(weights))
    spread = shape.hidden**-0.5 * 0.6
    made: Arrays = {}
    for key, (name, weight) in zip(keys, sorted(weights.items()), strict=True):
        if weight.ndim == 1:
            made[name] = mx.ones_like(weight)
            continue
        scale = 0.02 if "embed" in name else spread
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            scale = spread / (2 * shape.layers) ** 0.5
        made[name] = mx.random.normal(weight.shape, key=key) * scale
    return made


def rate_at(step: int, steps: int) -> float:
    """The share of the peak rate: warming up, then falling linearly to zero."""
    return (1 - step / steps) * min(1.0, (step + 1) / WARM_STEPS)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the built-in model with MLX.")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of tokenizer.json")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=27_000)
    parser.add_argument("--length", type=int, default=2048, help="tokens of a sequence")
    parser.add_argument("--sequences", type=int, default=32, help="sequences a step")
    parser.add_argument("--micro-sequences", type=int, default=4, help="sequences in memory at once")
    parser.add_argument("--long-share", type=float, default=0.02)
    parser.add_argument(
        "--imitate-from", type=float, default=0.3, help="share of the steps before 4 bits are imitated"
    )
    parser.add_argument("--save-every", type=int, default=500)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    prepare(stand_alone=True)
    dtype = mx.float32 if mx.default_device() == mx.Device(mx.cpu) else mx.bfloat16
    trainer = Trainer(seed=options.seed, micro_sequences=options.micro_sequences, dtype=dtype)
    if trainer.restore(options.out):
        print(f"going on from step {trainer.state.steps}", flush=True)
    # Another seed for the text of what follows a checkpoint: it was not seen before.
    seed = options.seed + trainer.state.steps
    supply = Supply(
        str(options.tokenizer / "tokenizer.json"),
        seed,
        options.length,
        options.long_share,
        options.workers,
        "spawn",
    )
    try:
        _train(trainer, supply, options)
    except KeyboardInterrupt:
        print("stopped; saving", file=sys.stderr)
    finally:
        supply.close()
        trainer.save(options.out)
    print(f"step {trainer.state.steps}: weights in {options.out / WEIGHTS_FILE}")


def _train(trainer: Trainer, supply: Supply, options: argparse.Namespace) -> None:
    lost, since, last = 0.0, 0, time.monotonic()
    while (step := trainer.state.steps) < options.steps:
        tokens, counted = supply.batch(options.sequences)
        imitate = step >= options.imitate_from * options.steps
        lost += trainer.step(tokens, counted, rate_at(step, options.steps), imitate)
        since += 1
        if since == 20:
            passed = time.monotonic() - last
            rate = since * options.sequences * options.length / passed
            print(f"step {step + 1} loss {lost / since:.4f} {rate:,.0f} tok/s 4bit {imitate}", flush=True)
            lost, since, last = 0.0, 0, time.monotonic()
        if (step + 1) % options.save_every == 0:
            trainer.save(options.out)


if __name__ == "__main__":
    main()
