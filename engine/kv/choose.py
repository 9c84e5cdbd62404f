"""Which rows a model gets, found out by trying: the first forwards after a load, which also warm it up.

Ragged rows fit a model whose layers all keep every position in mlx-lm's plain KVCache. Whether its code also takes one
offset per row is not written anywhere, so it is tried: rows of two lengths, right-padded, must give the logits that
mlx-lm's own cache gives, as exactly as those agree with themselves when a prompt is computed in one piece or in two
(deep models in half precision differ by several per cent). A model that fails gets mlx-lm's caches; the log says so.
"""

import logging
from collections.abc import Callable
from typing import Any

from basemlx.engine.kv.checkpointed import CheckpointedRows
from basemlx.engine.kv.ragged import RaggedRows
from basemlx.engine.kv.rectangle import LayerShape
from basemlx.engine.kv.rows import KVRows
from basemlx.engine.runtime import mlx_lm_module, mx

logger = logging.getLogger("basemlx.engine")

PROBE_TOLERANCE = 0.02
"""Logit difference that is always allowed, as a share of the logits' largest magnitude."""

NOISE_FACTOR = 3.0
"""Times the model's own rounding noise that is allowed; a wrong mask or position differs by half and more."""

MOST_TOLERANCE = 0.25
"""Whatever the noise: beyond it nothing can be told."""


def choose_rows(model: Any, make_cache: Callable[[], list[Any]], vocab_size: int) -> KVRows:
    """The best rows that give this model's own logits."""
    caches = make_cache()
    plain = mlx_lm_module("models.cache").KVCache
    ragged = all(type(cache) is plain for cache in caches)
    prompts = [
        [(11 + 7 * place) % vocab_size for place in range(21)],
        [(13 + 5 * place) % vocab_size for place in range(6)],
    ]
    expected, noise = [], 0.0
    for prompt in prompts:
        whole = model(mx.array([prompt]), cache=make_cache())[0, -1].astype(mx.float32)
        caches = make_cache()
        model(mx.array([prompt[:-1]]), cache=caches)
        expected.append(model(mx.array([prompt[-1:]]), cache=caches)[0, -1].astype(mx.float32))
        noise = max(noise, _distance(whole, expected[-1]))
    own = CheckpointedRows(make_cache)
    own.measure(caches)
    if not ragged:
        return own
    try:
        rows = RaggedRows([_shape_of(cache) for cache in caches])
        found = _probe(rows, model, prompts)
        errors = [_distance(a, b) for a, b in zip(found, expected, strict=True)]
    except (TypeError, ValueError, RuntimeError, IndexError) as problem:
        logger.warning(
            "model takes no ragged rows (%s: %s): using its own caches", type(problem).__name__, problem
        )
        return own
    tolerance = min(max(PROBE_TOLERANCE, NOISE_FACTOR * noise), MOST_TOLERANCE)
    if not all(error <= tolerance for error in errors):  # NaN is no match
        logger.warning(
            "ragged rows change this model's logits by %.3g (its own noise is %.3g): using its own caches",
            max(errors),
            noise,
        )
        return own
    return rows


def _distance(found: mx.array, expected: mx.array) -> float:
    """The largest difference as a share of the largest magnitude; NaN where either holds one."""
    return float(mx.abs(found - expected).max() / (mx.abs(expected).max() + 1e-6))


def _shape_of(cache: Any) -> LayerShape:
    keys, values = cache.keys, cache.values
    return (keys.shape[1], keys.shape[3]), (values.shape[1], values.shape[3]), keys.dtype


def _probe(rows: RaggedRows, model: Any, prompts: list[list[int]]) -> list[mx.array]:
    """The logits after each prompt: all but the last token in one padded prefill, the last in one ragged decode."""
    for key, prompt in enumerate(prompts):
        rows.open(key, [], len(prompt))
    counts = [len(prompt) - 1 for prompt in prompts]
    padded = [
        prompt[:-1] + [0] * (max(counts) - count) for prompt, count in zip(prompts, counts, strict=True)
    ]
    rows.prefill(model, [0, 1], mx.array(padded), counts)
    mx.eval(rows.layers([0, 1]))
    keys = rows.decode_order([0, 1])
    logits = rows.decode(model, keys, mx.array([[prompts[key][-1]] for key in keys]), [1, 1])
    found = [logits[keys.index(key), -1].astype(mx.float32) for key in (0, 1)]
    mx.eval(found)
    for key in (0, 1):
        rows.close(key)
    return found
