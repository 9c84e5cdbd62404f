"""top_k, top_p and min_p as one threshold a row: what lies below it cannot be drawn.

The three are cuts in the sorted order of a row's tempered logits, so each row needs one number and the vocabulary
stays unsorted. Values are sorted only for rows that need it, and only their head where top_k bounds it. Tokens that
tie with the last one kept are kept. Order as in vLLM: min_p, then top_k, then top_p over what those left, renormalised.
Nucleus sampling (top_p) is due to Holtzman et al. (2020), min_p to Nguyen et al. (2024).
"""

import math
from collections.abc import Sequence

from basemlx.engine.runtime import mx
from basemlx.engine.types import SamplingParams

HEAD = 512
"""Rows whose top_k is at most this many sort only their head."""


def thresholds(scaled: mx.array, params: Sequence[SamplingParams]) -> mx.array | None:
    """The lowest tempered logit [B, 1] that may be drawn from `scaled` [B, V]; None where no row filters."""
    vocab_size = scaled.shape[-1]
    needs_head = [i for i, p in enumerate(params) if 0 < p.top_k <= min(HEAD, vocab_size - 1)]
    needs_sort = [
        i for i, p in enumerate(params) if i not in needs_head and (p.top_p < 1.0 or 0 < p.top_k < vocab_size)
    ]
    if not needs_head and not needs_sort and all(p.min_p == 0.0 for p in params):
        return None
    lowest = mx.full((len(params), 1), -math.inf)
    if any(p.min_p > 0.0 for p in params):
        shares = [[math.log(p.min_p) if p.min_p > 0.0 else -math.inf] for p in params]
        lowest = scaled.max(axis=-1, keepdims=True) + mx.array(shares)
    for rows in (needs_head, needs_sort):
        if not rows:
            continue
        chosen = [params[i] for i in rows]
        everyone = len(rows) == len(params)
        index = mx.array(rows, dtype=mx.int32)
        values = scaled if everyone else scaled[index]
        if rows is needs_head:
            values = mx.topk(values, max(p.top_k for p in chosen), axis=-1)
        values = -mx.sort(-values, axis=-1)
        found = mx.maximum(
            _cut(values, lowest if everyone else lowest[index], chosen), lowest if everyone else lowest[index]
        )
        if everyone:
            return found
        lowest[index] = found
    return lowest


def _cut(values: mx.array, lowest: mx.array, params: Sequence[SamplingParams]) -> mx.array:
    """The last value kept [R, 1] of `values` [R, K], sorted from high to low, under top_k and top_p."""
    width = values.shape[-1]
    ks = mx.array([[p.top_k if p.top_k > 0 else width] for p in params], dtype=mx.int32)
    allowed = (mx.arange(width, dtype=mx.int32)[None] < ks) & (values >= lowest)
    probabilities = mx.softmax(mx.where(allowed, values, -math.inf), axis=-1)
    before = mx.cumsum(probabilities, axis=-1) - probabilities
    # A token stays while the mass before it is short of top_p: the one that crosses it is in, and so is the first.
    top_ps = mx.array([[p.top_p] if p.top_p < 1.0 else [math.inf] for p in params])
    kept = allowed & ((before < top_ps) | (mx.arange(width)[None] == 0))
    last = mx.maximum(kept.astype(mx.int32).sum(axis=-1, keepdims=True) - 1, 0)
    return mx.take_along_axis(values, last, axis=-1)
