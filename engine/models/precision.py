"""Puts a lazily loaded model's weights into memory, in the precision its device is fast in.

Metal and CUDA take weights as they are stored. A CPU is slow with bfloat16 and with packed weights (4-bit with bfloat16
activations 8 times slower than with float32), so there:

- "dense": packed weights are dequantised and everything becomes float32, where memory allows;
- "cast": else packed weights stay packed, and scales, biases, norms and all other floats become float32.

Dense matrices are laid out by columns where MLX uses the BLAS of its own Linux wheel (the reference one): its inner
loop then runs along memory and vectorises, 2.2 times as fast at every number of rows. An OpenBLAS needs no such help.

Both work module by module, each evaluated before the next is read, so that the peak is the result plus one module. That
holds for a model that was loaded with `lazy=True` and not evaluated since.
"""

import sys
from collections.abc import Iterator
from typing import Any

from basemlx.engine.models.estimate import Precision
from basemlx.engine.runtime import mlx_lm_module, mx, nn, prepare

_FLOAT32_BYTES = 4


def materialise(model: nn.Module, precision: Precision) -> Iterator[float]:
    """Evaluates all weights in place, one module each time it is advanced; yields the share that is done. A module that
    sits in two places (tied embeddings) stays one."""
    leaves = _leaves(model)
    dense_kinds = _dense_kinds()
    by_columns = precision == "dense" and _uses_reference_blas()
    total = max(sum(_own_bytes(leaf) for leaf in leaves), 1)
    done = 0
    for leaf in leaves:
        done += _own_bytes(leaf)
        if precision == "dense" and type(leaf) in dense_kinds:
            _unpack(leaf, dense_kinds[type(leaf)])
        if precision != "stored":
            leaf.set_dtype(mx.float32)
        if by_columns and type(leaf) in (nn.Linear, nn.Embedding):
            leaf.weight = mx.contiguous(leaf.weight.T).T
        mx.eval(leaf.parameters())
        yield done / total
    if precision != "stored":
        model.set_dtype(mx.float32)  # parameters that sit on a block itself, beside its modules
    mx.eval(model.parameters())


def estimate_bytes(model: nn.Module, precision: Precision) -> int:
    """Memory that the weights will take in this precision; shapes are enough, nothing is read."""
    total = 0
    dense_kinds = _dense_kinds()
    for module in _modules(model):
        unpacks = precision == "dense" and type(module) in dense_kinds
        for name, value in _own_arrays(module):
            if unpacks and name in ("scales", "biases"):
                continue
            if unpacks and name == "weight":
                total += value.size * 32 // module.bits * _FLOAT32_BYTES
            elif precision != "stored" and mx.issubdtype(value.dtype, mx.floating):
                total += value.size * _FLOAT32_BYTES
            else:
                total += value.nbytes
    return total


def _uses_reference_blas() -> bool:
    info = prepare()
    return info.device == "cpu" and info.blas is None and sys.platform == "linux"


def _dense_kinds() -> dict[type, type]:
    """Packed module class -> its dense twin, which computes the same from `weight` and `bias` alone. Other packed kinds
    (those that quantise activations too) have none and stay as they are."""
    switch = mlx_lm_module("models.switch_layers")
    mla = mlx_lm_module("models.mla")
    return {
        nn.QuantizedLinear: nn.Linear,
        nn.QuantizedEmbedding: nn.Embedding,
        switch.QuantizedSwitchLinear: switch.SwitchLinear,
        mla.QuantizedMultiLinear: mla.MultiLinear,
    }


def _unpack(module: Any, dense_kind: type) -> None:
    """Turns a packed module into its dense twin in place, so that whoever else refers to it follows."""
    biases = module.get("biases")
    floats = mx.issubdtype(module.scales.dtype, mx.floating)
    # Scales become float32 first: the weights are then as exact as the packed kernel's own.
    module.weight = mx.dequantize(
        module.weight,
        module.scales.astype(mx.float32) if floats else module.scales,
        None if biases is None else biases.astype(mx.float32),
        group_size=module.group_size,
        bits=module.bits,
        mode=module.mode,
        global_scale=module.get("global_scale"),
        dtype=mx.float32,
    )
    for name in ("scales", "biases", "global_scale", "group_size", "bits", "mode"):
        if hasattr(module, name):
            delattr(module, name)
    module.__class__ = dense_kind


def _modules(model: nn.Module) -> list[Any]:
    """Every module of the tree, once each, in the model's own order."""
    return list({id(module): module for module in reversed(model.modules())}.values())


def _leaves(model: nn.Module) -> list[Any]:
    return [module for module in _modules(model) if not module.children()]


def _own_bytes(module: Any) -> int:
    return sum(int(value.nbytes) for _, value in _own_arrays(module))


def _own_arrays(module: Any) -> Iterator[tuple[str, Any]]:
    """Arrays that belong to the module itself, those in its plain lists and dicts included, not to its modules."""
    for name, value in module.items():
        if not isinstance(value, nn.Module):
            yield from ((name, array) for array in _arrays_in(value))


def _arrays_in(value: Any) -> Iterator[Any]:
    if isinstance(value, mx.array):
        yield value
    elif isinstance(value, list | tuple | dict) and not isinstance(value, nn.Module):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _arrays_in(item)
