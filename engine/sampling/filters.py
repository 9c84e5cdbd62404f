"""top_k, top_p and min_p on weights: the lowest weight a row may still draw.

Weights are proportional to the tempered probabilities, the best one of a row being 1. Order as in vLLM: min_p, then
top_k, then top_p over what those left, renormalised. Tokens that tie with the last one kept are kept.
Nucleus sampling (top_p) is due to Holtzman et al. (2020), min_p to Nguyen et al. (2024).
"""

import math
from collections.abc import Sequence

from basemlx.engine.runtime import mx
from basemlx.engine.types import SamplingParams

SORTED_AT_ONCE = 1024


def min_p_weights(params: Sequence[SamplingParams]) -> mx.array:
    """[R, 1]: with the best weight at 1, min_p is a weight itself."""
    return mx.array([[p.min_p] for p in params])


def sorted_cut(weights: mx.array, params: Sequence[SamplingParams]) -> mx.array:
    """How many may be drawn, [R, 1] int32, of `weights` [R, K] that are sorted from high to low; at least one."""
    width = weights.shape[-1]
    lowest = min_p_weights(params)
    if any(p.top_k for p in params):
        last = mx.array([[min(p.top_k or width, width) - 1] for p in params], dtype=mx.int32)
        lowest = mx.maximum(lowest, mx.take_along_axis(weights, last, axis=-1))
    kept = _count(weights >= lowest)
    if all(p.top_p == 1.0 for p in params):
        return kept
    cumulated = mx.cumsum(weights, axis=-1)
    targets = mx.array([[p.top_p] if p.top_p < 1.0 else [math.inf] for p in params])
    targets = targets * mx.take_along_axis(cumulated, kept - 1, axis=-1)
    # A token stays while the mass before it is short of top_p: the one that crosses it is in, and so is the first.
    nucleus = _count(cumulated - weights < targets)
    lowest = mx.maximum(lowest, mx.take_along_axis(weights, nucleus - 1, axis=-1))
    return _count(weights >= lowest)


def unsorted_cut(weights: mx.array, params: Sequence[SamplingParams]) -> mx.array | None:
    """The lowest weight [R, 1] that may be drawn of `weights` [R, V] in any order; None where no row filters."""
    width = weights.shape[-1]
    with_top_k = [i for i, p in enumerate(params) if 0 < p.top_k < width]
    with_top_p = [i for i, p in enumerate(params) if p.top_p < 1.0]
    if not with_top_k and not with_top_p and all(p.min_p == 0.0 for p in params):
        return None
    lowest = min_p_weights(params)
    for i in with_top_k:
        at = width - params[i].top_k
        lowest[i] = mx.maximum(lowest[i], mx.partition(weights[i], at)[at])
    if with_top_p:
        rows = mx.array(with_top_p, dtype=mx.int32)
        left = weights[rows]
        left = left * (left >= lowest[rows])
        shares = mx.array([[params[i].top_p] for i in with_top_p])
        lowest[rows] = mx.maximum(lowest[rows], _nucleus(left, shares))
    return lowest


def _nucleus(weights: mx.array, shares: mx.array) -> mx.array:
    """The weight [R, 1] at which the largest of `weights` [R, V] add up to `shares` of their total.

    A CPU halves the row until it is short enough to sort: of a partition into an upper and a lower half, it goes on in
    the upper one if that holds enough, else in the lower one for the rest; O(V), and the same operations whatever the
    values are. GPUs partition by sorting, so there one sort is best.
    """
    target = shares * weights.sum(axis=-1, keepdims=True)
    width = weights.shape[-1]
    longest = SORTED_AT_ONCE if mx.default_device() == mx.cpu else width
    while width > longest:
        half = (width + 1) // 2  # of an odd row, the middle one is in both halves
        weights = mx.partition(weights, width - half, axis=-1)
        upper, lower = weights[:, width - half :], weights[:, :half]
        enough = upper.sum(axis=-1, keepdims=True) >= target
        beyond_lower = weights[:, half:].sum(axis=-1, keepdims=True)
        weights = mx.where(enough, upper, lower)
        target = mx.where(enough, target, target - beyond_lower)
        width = half
    weights = -mx.sort(-weights, axis=-1)
    kept = _count(mx.cumsum(weights, axis=-1) - weights < target)
    return mx.take_along_axis(weights, kept - 1, axis=-1)


def _count(kept: mx.array) -> mx.array:
    return mx.maximum(kept.sum(axis=-1, keepdims=True), 1)
