"""The best few values of long rows, without sorting or partitioning the rows.

A row is dealt into columns; the `count` best values lie in the `count` columns with the best maxima, so only those are
looked at. 152k entries on a CPU: 0.2 ms for the best 64 where a partition of the row takes 1.3 ms and a sort 14.
"""

import math

from basemlx.engine.runtime import mx


def head(values: mx.array, count: int) -> tuple[mx.array, mx.array]:
    """Indices [R, K] and values [R, K] of the K = min(count, N) best of each row of `values` [R, N], best first.

    Of values that tie with the last one, which are in is not specified; for one row it is always the same.
    """
    rows, width = values.shape
    count = min(count, width)
    depth = 1 << max(0, round(math.log2(math.sqrt(width / count))))
    if depth == 1:
        return _best(values, count, None)
    if width % depth:
        values = mx.pad(values, [(0, 0), (0, -width % depth)], constant_values=-math.inf)
    dealt = values.reshape(rows, depth, -1)  # [R, D, C]: value (d, c) was at d * C + c
    columns = dealt.shape[-1]
    best = mx.argpartition(dealt.max(axis=1), columns - count, axis=-1)[:, None, columns - count :]
    candidates = mx.take_along_axis(dealt, best, axis=2).reshape(rows, -1)
    starts = mx.arange(depth, dtype=mx.uint32)[None, :, None] * columns
    ids, found = _best(candidates, count, (best + starts).reshape(rows, -1))
    return mx.minimum(ids, width - 1), found  # padding is chosen only where nothing above -inf is left


def _best(values: mx.array, count: int, ids: mx.array | None) -> tuple[mx.array, mx.array]:
    width = values.shape[-1]
    if count < width:
        at = mx.argpartition(values, width - count, axis=-1)[:, width - count :]
        values = mx.take_along_axis(values, at, axis=-1)
        ids = at if ids is None else mx.take_along_axis(ids, at, axis=-1)
    order = mx.argsort(-values, axis=-1)
    values = mx.take_along_axis(values, order, axis=-1)
    return order if ids is None else mx.take_along_axis(ids, order, axis=-1), values
