"""Log-probabilities of sampled tokens and of the best alternatives, for the rows that asked.

They are the model's own: from its logits in float32, before penalties, bias, masks, temperature and filters.
"""

from collections.abc import Sequence
from typing import Any

from basemlx.engine.runtime import mx
from basemlx.engine.sampling.head import head
from basemlx.engine.sampling.row import RowSampler
from basemlx.engine.types import TokenLogprob

TOP = 32
"""How many are looked for, whatever a row asks (at most 20): what it gets does not depend on the other rows."""


class Logprobs:
    """Of a step's rows that asked; arrays may still be on their way."""

    def __init__(
        self, logits: mx.array, tokens: mx.array, rows: Sequence[RowSampler], asking: list[int]
    ) -> None:
        """`logits` [B, V] as the model gave them, `tokens` [B]; `asking` are indices of rows."""
        self._places = {row: place for place, row in enumerate(asking)}
        self._counts = [rows[i].params.top_logprobs for i in asking]
        self._read: list[Any] | None = None
        if len(asking) < len(rows):
            index = mx.array(asking, dtype=mx.int32)
            logits, tokens = logits[index], tokens[index]
        logits = logits.astype(mx.float32)
        self._tokens = tokens
        best = logits.max(axis=-1, keepdims=True)
        # e to the power of x, not exp(x): MLX's exp takes 2.7 times as long on an x86 CPU.
        total = best + mx.log(mx.power(mx.e, logits - best).sum(axis=-1, keepdims=True))
        self._chosen = (mx.take_along_axis(logits, tokens[:, None], axis=-1) - total)[:, 0]
        self._top: tuple[mx.array, mx.array] | None = None
        if any(self._counts):
            ids, values = head(logits, TOP)
            self._top = ids, values - total

    def arrays(self) -> list[mx.array]:
        return [self._chosen, *(self._top or ())]

    def entry(self, row: int) -> TokenLogprob | None:
        """The entry of a row of the step, None if it did not ask. Waits for the device."""
        place = self._places.get(row)
        if place is None:
            return None
        if self._read is None:
            self._read = [array.tolist() for array in (self._tokens, *self.arrays())]
        tokens, chosen, *rest = self._read
        top: tuple[tuple[int, float], ...] = ()
        if rest:
            count = self._counts[place]
            top = tuple(zip(rest[0][place][:count], rest[1][place][:count], strict=True))
        return TokenLogprob(tokens[place], chosen[place], top)
