"""Activations and attention of encoders, with the forms that are fast on MLX's CPU backend on Linux.

There `erf`, `exp` and `sigmoid` are computed element by element: an exact GELU took 32 ms for 1.2 million elements,
more than all matrix products of its layer; the form below takes 4. Elsewhere MLX's own are used.
"""

import sys
from collections.abc import Callable
from functools import cache

from basemlx.engine.embeddings.types import MAX_SCORES_BYTES
from basemlx.engine.errors import ModelLoadFailed
from basemlx.engine.models.cpu_attention import LOG2_E, attend
from basemlx.engine.runtime import mx, nn, prepare

Activation = Callable[[mx.array], mx.array]

# erfc(x) = 1 / (1 + a1·x + … + a6·x⁶)^16 for x ≥ 0, to 3e-7 (Abramowitz & Stegun 7.1.28, after Hastings). Here for
# x = |t| / √2, and multiplied by 2^(1/16), so that the power is 2 / erfc.
_ERFC = (1.0, 0.0705230784, 0.0422820123, 0.0092705272, 0.0001520143, 0.0002765672, 0.0000430638)
_HALF_ERFC = tuple(2 ** (1 / 16) * factor * 0.5 ** (power / 2) for power, factor in enumerate(_ERFC))


def activation(name: object) -> Activation:
    """The function that a config calls `name`. Raises ModelLoadFailed for one that is not known."""
    slow = _is_linux_cpu()
    known: dict[object, Activation] = {
        "gelu": gelu_by_polynomial if slow else nn.gelu,
        "gelu_new": nn.gelu_approx,
        "gelu_pytorch_tanh": nn.gelu_approx,
        "relu": nn.relu,
        "silu": silu_by_power if slow else nn.silu,
    }
    if not isinstance(name, str) or name not in known:
        raise ModelLoadFailed(
            f"config.json names an activation {str(name)[:64]!r}, which basemlx does not know."
        )
    return known[name]


def gelu_by_polynomial(x: mx.array) -> mx.array:
    """x·Φ(x) = max(x, 0) − |x|·erfc(|x|/√2)/2, to 1e-6."""
    size = mx.abs(x)
    power: mx.array = size * _HALF_ERFC[-1]
    for factor in _HALF_ERFC[-2:0:-1]:
        power = (power + factor) * size
    power = power + _HALF_ERFC[0]
    for _ in range(4):
        power = power * power
    return mx.maximum(x, 0.0) - size / power


def silu_by_power(x: mx.array) -> mx.array:
    """x·σ(x), by a power of two."""
    return x / (1.0 + mx.power(2.0, x * -LOG2_E))


def attention(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array | None) -> mx.array:
    """All [B, H, T, D]; `mask` bool [B, 1, 1, T], True for keys that are seen, None for all. Returns [B, H, T, D]."""
    batch, heads, width, dim = queries.shape
    compute = _attend if _is_linux_cpu() else _fused
    block = max(MAX_SCORES_BYTES // (batch * heads * width * 4), 16)
    if block >= width:
        return compute(queries, keys, values, dim**-0.5, mask)
    parts = []
    for start in range(0, width, block):
        parts.append(compute(queries[:, :, start : start + block], keys, values, dim**-0.5, mask))
        mx.eval(parts[-1])  # else the scores of many blocks are alive at once
    return mx.concatenate(parts, axis=2)


def _attend(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | None) -> mx.array:
    return attend(q, k, v, scale, mask)


def _fused(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | None) -> mx.array:
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)


@cache
def _is_linux_cpu() -> bool:
    return prepare().device == "cpu" and sys.platform == "linux"
