"""The CPU's attention against MLX's own, for every kind of mask and grouping."""

import sys

import pytest

from basemlx.engine.models import cpu_attention
from basemlx.engine.runtime import mlx_lm_module, mx, prepare


@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize("width", [1, 5])
@pytest.mark.parametrize("mask", ["none", "causal", "bool", "bool-per-head", "additive", "plain-bool"])
def test_it_computes_what_mlx_computes(heads: tuple[int, int], width: int, mask: str) -> None:
    batch, length, dim = 2, 37, 16
    query_heads, key_heads = heads
    shapes = [
        (batch, query_heads, width, dim),
        (batch, key_heads, length, dim),
        (batch, key_heads, length, dim),
    ]
    queries, keys, values = (mx.random.normal(shape, key=mx.random.key(i)) for i, shape in enumerate(shapes))
    visible = mx.random.uniform(shape=(batch, 1, width, length), key=mx.random.key(9)) < 0.6
    visible[..., 0] = mx.array(True)
    masks = {
        "none": None,
        "causal": "causal" if width > 1 else None,
        "bool": visible,
        "bool-per-head": mx.broadcast_to(visible, (batch, query_heads, width, length)),
        "additive": mx.where(visible, 0.5, -1e9),
        "plain-bool": visible[0, 0],
    }
    chosen = masks[mask]
    expected = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.3, mask=chosen)
    found = cpu_attention.attend(queries, keys, values, 0.3, chosen)
    assert mx.allclose(found, expected, rtol=1e-4, atol=1e-5).item()


def test_a_row_that_sees_nothing_gives_no_nan() -> None:
    ones = mx.ones((1, 1, 1, 4))
    hidden = mx.zeros((1, 1, 1, 1), dtype=mx.bool_)
    assert not mx.isnan(cpu_attention.attend(ones, ones, ones, 1.0, hidden)).any().item()


@pytest.mark.skipif(prepare().device != "cpu" or sys.platform != "linux", reason="only this backend needs it")
def test_architectures_take_it_once() -> None:
    module = mlx_lm_module("models.qwen3")
    cpu_attention.use_in(module)
    assert module.scaled_dot_product_attention.of_basemlx
    assert not cpu_attention.use_in(module)
