"""What changes logits before a token is chosen: penalties, logit_bias and the mask of a constraint.

Only rows that ask for penalties or a bias are computed. Repetition divides positive and multiplies negative logits of
tokens in prompt or output (Keskar et al., "CTRL", 2019); presence and frequency are OpenAI's. It chooses nothing.
"""

import math
from collections.abc import Callable, Sequence

from basemlx.engine.runtime import mx
from basemlx.engine.sampling.row import RowSampler


def adjusted(logits: mx.array, rows: Sequence[RowSampler], mask: mx.array | None) -> mx.array:
    """`logits` [B, V] after penalties, bias and `mask`; the same array where there are none."""
    if any(row.has_penalties or row.bias is not None for row in rows):
        logits = logits.astype(mx.float32)  # a new array: the caller's stays as it is
        logits = _on_rows(logits, rows, [row.has_repetition for row in rows], _without_repetition)
        logits = _on_rows(logits, rows, [row.has_frequency for row in rows], _without_frequency)
    for i, row in enumerate(rows):
        if row.bias is not None:
            logits = logits.at[i, row.bias[0]].add(row.bias[1])
    if mask is not None:
        logits = mx.where(unpacked(mask, logits.shape[-1]), logits, -math.inf)
    return logits


def unpacked(mask: mx.array, vocab_size: int) -> mx.array:
    """Bool [B, V] of a packed mask [B, ceil(V / 32)] int32, lowest bit first. Shifts cost as little as a table of bytes
    (152k entries on a CPU: 0.14 and 0.17 ms a row)."""
    bits = (mask.view(mx.uint32)[:, :, None] >> mx.arange(32, dtype=mx.uint32)) & 1
    return bits.reshape(mask.shape[0], -1)[:, :vocab_size].astype(mx.bool_)


def _on_rows(
    logits: mx.array,
    rows: Sequence[RowSampler],
    wanted: Sequence[bool],
    change: Callable[[mx.array, Sequence[RowSampler]], mx.array],
) -> mx.array:
    """`change` applied to the wanted rows; `logits` itself may be written to."""
    if all(wanted):
        return change(logits, rows)
    members = [i for i, want in enumerate(wanted) if want]
    if members:
        index = mx.array(members, dtype=mx.int32)
        logits[index] = change(logits[index], [rows[i] for i in members])
    return logits


def _without_repetition(logits: mx.array, rows: Sequence[RowSampler]) -> mx.array:
    seen = mx.stack([row.seen for row in rows])
    factors = mx.array([[row.params.repetition_penalty] for row in rows])
    scaled = mx.maximum(logits, 0.0) / factors + mx.minimum(logits, 0.0) * factors
    return mx.where(seen, scaled, logits)


def _without_frequency(logits: mx.array, rows: Sequence[RowSampler]) -> mx.array:
    params = [row.params for row in rows]
    counts = mx.stack([row.counts for row in rows])
    if any(p.frequency_penalty != 0.0 for p in params):
        logits = logits - mx.array([[p.frequency_penalty] for p in params]) * counts
    if any(p.presence_penalty != 0.0 for p in params):
        logits = logits - mx.array([[p.presence_penalty] for p in params]) * (counts > 0)
    return logits
