"""One batched call from logits to tokens. Everything is lazy: nothing is evaluated and nothing waits for the device.

A row's token depends on its own logits, settings and random number only. All-greedy batches cost one argmax; filters,
penalties, bias and log-probabilities are computed for the rows that ask for them. A row of NaN gives some id that
exists: the model is broken, the process is not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from basemlx.engine.runtime import mx
from basemlx.engine.sampling.filters import thresholds
from basemlx.engine.sampling.row import RowSampler
from basemlx.engine.types import TokenLogprob


@dataclass(slots=True)
class _Logprobs:
    """For the rows in `rows`: the sampled token's log-probability [R], and the best K ids and values [R, K]."""

    rows: dict[int, int]  # batch row -> row here
    counts: list[int]
    chosen: mx.array
    top_ids: mx.array | None
    top_values: mx.array | None


@dataclass(slots=True)
class Sampled:
    """`tokens` [B] int32 and, for rows that asked, log-probabilities; arrays may still be on their way."""

    tokens: mx.array
    _logprobs: _Logprobs | None = None

    def arrays(self) -> list[mx.array]:
        """Everything to evaluate."""
        found = self._logprobs
        if found is None:
            return [self.tokens]
        extra = [array for array in (found.chosen, found.top_ids, found.top_values) if array is not None]
        return [self.tokens, *extra]

    def logprobs(self, row: int) -> TokenLogprob | None:
        """The sampled token's entry, None if the row did not ask. Waits for the device."""
        found = self._logprobs
        if found is None or row not in found.rows:
            return None
        at = found.rows[row]
        top: tuple[tuple[int, float], ...] = ()
        if found.top_ids is not None and found.top_values is not None:
            count = found.counts[at]
            ids: Any = found.top_ids[at, :count].tolist()
            values: Any = found.top_values[at, :count].tolist()
            top = tuple(zip(ids, values, strict=True))
        return TokenLogprob(int(self.tokens[row]), float(found.chosen[at]), top)


def sample(
    logits: mx.array, rows: Sequence[RowSampler], positions: Sequence[int], mask: mx.array | None = None
) -> Sampled:
    """Samples one token a row from `logits` [B, V].

    `positions[i]` is the number of tokens row i has sampled before. `mask` [B, ceil(V / 32)] int32 allows a token
    where its bit is set, lowest bit first. Order: penalties, bias, mask, temperature, filters.
    """
    adjusted = _adjusted(logits, rows)
    if mask is not None:
        adjusted = mx.where(_unpacked(mask, logits.shape[-1]), adjusted, -math.inf)
    tokens = _tokens(adjusted, rows, positions)
    for index, row in enumerate(rows):
        row.observe(tokens[index])
    return Sampled(tokens, _gather_logprobs(logits, tokens, rows))


def _adjusted(logits: mx.array, rows: Sequence[RowSampler]) -> mx.array:
    """Logits after penalties and bias, touching only the rows that have some."""
    changed = {i: row for i, row in enumerate(rows) if row.has_penalties or row.bias is not None}
    if not changed:
        return logits
    parts = []
    for index in range(len(rows)):
        part = logits[index].astype(mx.float32)
        row = changed.get(index)
        if row is not None and row.has_penalties:
            part = row.penalised(part)
        if row is not None and row.bias is not None:
            part = part.at[row.bias[0]].add(row.bias[1])
        parts.append(part)
    return mx.stack(parts)


def _tokens(logits: mx.array, rows: Sequence[RowSampler], positions: Sequence[int]) -> mx.array:
    drawn = [i for i, row in enumerate(rows) if not row.is_greedy]
    if len(drawn) == len(rows):
        tokens = _draw(logits, rows, positions)
    else:
        tokens = mx.argmax(logits, axis=-1)
        if drawn:
            index = mx.array(drawn, dtype=mx.int32)
            tokens[index] = _draw(logits[index], [rows[i] for i in drawn], [positions[i] for i in drawn])
    # argmax over NaN can give anything, and the id is used as an index before anybody sees it.
    return mx.minimum(tokens, logits.shape[-1] - 1).astype(mx.int32)


def _draw(logits: mx.array, rows: Sequence[RowSampler], positions: Sequence[int]) -> mx.array:
    """Inverse transform sampling: the first token whose cumulated weight passes the row's random share of the total."""
    params = [row.params for row in rows]
    scaled = logits.astype(mx.float32) / mx.array([[p.temperature] for p in params])
    weights = mx.exp(scaled - scaled.max(axis=-1, keepdims=True))
    lowest = thresholds(scaled, params)
    if lowest is not None:
        weights = mx.where(scaled >= lowest, weights, 0.0)
    cumulated = mx.cumsum(weights, axis=-1)
    shares = mx.array([[row.draw(position)] for row, position in zip(rows, positions, strict=True)])
    passed = cumulated <= shares * cumulated[:, -1:]  # a token without weight never crosses the share
    return passed.sum(axis=-1).astype(mx.uint32)


def _unpacked(mask: mx.array, vocab_size: int) -> mx.array:
    """Bool [B, V] of a packed mask."""
    bits = (mask.astype(mx.uint32)[:, :, None] >> mx.arange(32, dtype=mx.uint32)) & 1
    return bits.reshape(mask.shape[0], -1)[:, :vocab_size].astype(mx.bool_)


def _gather_logprobs(logits: mx.array, tokens: mx.array, rows: Sequence[RowSampler]) -> _Logprobs | None:
    asking = [i for i, row in enumerate(rows) if row.params.logprobs]
    if not asking:
        return None
    index = mx.array(asking, dtype=mx.int32)
    raw = logits[index].astype(mx.float32)
    logprobs = raw - mx.logsumexp(raw, axis=-1, keepdims=True)
    chosen = mx.take_along_axis(logprobs, tokens[index][:, None], axis=-1)[:, 0]
    counts = [rows[i].params.top_logprobs for i in asking]
    top_ids = top_values = None
    if widest := min(max(counts), logits.shape[-1]):
        top_ids = mx.argpartition(-logprobs, widest - 1, axis=-1)[:, :widest]
        top_values = mx.take_along_axis(logprobs, top_ids, axis=-1)
        order = mx.argsort(-top_values, axis=-1)
        top_ids = mx.take_along_axis(top_ids, order, axis=-1)
        top_values = mx.take_along_axis(top_values, order, axis=-1)
    return _Logprobs({row: at for at, row in enumerate(asking)}, counts, chosen, top_ids, top_values)
