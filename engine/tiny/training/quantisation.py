"""4-bit affine quantisation in groups of 64, to the last bit as the exported file holds it.

A group's 64 weights become 4-bit numbers q with one scale s and one bias b: w is about s * q + b. The scale is chosen
as MLX chooses it (the end of the range that is farther from zero is hit exactly), then s and b are rounded to bfloat16
and q is computed from the rounded ones. The trainers imitate this during training; the export packs it. numpy only.
"""

import numpy as np
from numpy.typing import NDArray

from basemlx.engine.tiny.training.architecture import BITS, GROUP_SIZE

LEVELS = 2**BITS - 1
Floats = NDArray[np.float32]


def to_bfloat16(values: Floats) -> Floats:
    """Rounds float32 to the nearest bfloat16 (ties to even), kept as float32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


def quantise(weight: Floats) -> tuple[NDArray[np.uint32], Floats, Floats]:
    """[out, in] float32 to (packed [out, in / 8], scales and biases [out, in / 64], rounded to bfloat16)."""
    rows, columns = weight.shape
    groups = weight.astype(np.float32).reshape(rows, columns // GROUP_SIZE, GROUP_SIZE)
    low, high = groups.min(-1), groups.max(-1)
    scale = np.maximum((high - low) / LEVELS, 1e-7)
    from_low = np.abs(low) > np.abs(high)
    scale = np.where(from_low, scale, -scale)
    edge = np.where(from_low, low, high)
    steps = np.rint(edge / scale)
    scale = np.where(steps != 0, edge / np.where(steps != 0, steps, 1), scale)
    bias = np.where(steps != 0, edge, 0)
    scale, bias = to_bfloat16(scale.astype(np.float32)), to_bfloat16(bias.astype(np.float32))
    numbers = np.clip(np.rint((groups - bias[..., None]) / scale[..., None]), 0, LEVELS).astype(np.uint32)
    per_word = 32 // BITS
    words = numbers.reshape(rows, columns // per_word, per_word)
    shifts = (np.arange(per_word, dtype=np.uint32) * BITS).astype(np.uint32)
    return np.bitwise_or.reduce(words << shifts, axis=-1).astype(np.uint32), scale, bias


def dequantise(packed: NDArray[np.uint32], scale: Floats, bias: Floats) -> Floats:
    """The weights as the model computes with them."""
    shifts = np.arange(32 // BITS, dtype=np.uint32) * BITS
    numbers = (packed[..., None] >> shifts) & LEVELS
    groups = numbers.reshape(*scale.shape, GROUP_SIZE).astype(np.float32)
    weights: Floats = (groups * scale[..., None] + bias[..., None]).reshape(packed.shape[0], -1)
    return weights
