"""What sampling keeps for one sequence: its settings, its seed, and token counts where penalties need them.

Counts live on the device and follow the sampled token before anybody has read it, so that the next step can be
launched at once. Engine thread only. It knows no batch.
"""

from collections.abc import Sequence
from typing import Literal

from basemlx.engine.runtime import mx
from basemlx.engine.sampling.draws import fresh_seed, uniform
from basemlx.engine.types import SamplingParams

Method = Literal["greedy", "head", "wide head", "whole"]

HEADS: dict[Method, int] = {"head": 64, "wide head": 512}
"""Rows whose top_k is within one of these look at that many of their best tokens only."""


class RowSampler:
    """State of one choice. `seed` replaces a missing seed of the request (tests); else a fresh one is drawn.

    `method` says how the row's tokens are found. It follows from the row's own settings alone, since each method deals
    the same random number to other tokens.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt_token_ids: Sequence[int],
        vocab_size: int,
        choice: int = 0,
        seed: int | None = None,
    ) -> None:
        self.params = params
        self.method = _method(params, vocab_size)
        self._choice = choice
        self._seed = next(s for s in (params.seed, seed, fresh_seed()) if s is not None)
        self._vocab_size = vocab_size
        self.bias: tuple[mx.array, mx.array] | None = None  # token ids, values
        if params.logit_bias:
            ids, values = list(params.logit_bias), list(params.logit_bias.values())
            self.bias = mx.array(ids, dtype=mx.int32), mx.array(values, dtype=mx.float32)
        self.has_repetition = params.repetition_penalty != 1.0
        self.has_frequency = params.presence_penalty != 0.0 or params.frequency_penalty != 0.0
        self._in_prompt = self._counted(prompt_token_ids) > 0 if self.has_repetition else None  # [V] bool
        self._counts = self._counted([]) if self.has_penalties else None

    @property
    def has_penalties(self) -> bool:
        return self.has_repetition or self.has_frequency

    @property
    def counts(self) -> mx.array:
        """[V] float32: how often each token was sampled. Rows with penalties only."""
        assert self._counts is not None
        return self._counts

    @property
    def seen(self) -> mx.array:
        """[V] bool: tokens of prompt and output. Rows with a repetition penalty only."""
        assert self._in_prompt is not None
        return self._in_prompt | (self.counts > 0)

    def draw(self, position: int) -> float:
        """This row's random number for the token at `position`."""
        return uniform(self._seed, self._choice, position)

    def observe(self, token: mx.array) -> None:
        """Counts a sampled token, a scalar that may still be on its way. Rows with penalties only."""
        self._counts = self.counts.at[token].add(1.0)

    def rebuild(self, output_token_ids: Sequence[int]) -> None:
        """Sets the counts as if exactly these tokens had been sampled."""
        if self.has_penalties:
            self._counts = self._counted(output_token_ids)

    def _counted(self, token_ids: Sequence[int]) -> mx.array:
        counts = mx.zeros(self._vocab_size)
        return counts.at[mx.array(list(token_ids), dtype=mx.int32)].add(1.0) if token_ids else counts


def _method(params: SamplingParams, vocab_size: int) -> Method:
    if params.temperature == 0.0 or params.top_k == 1 or params.top_p == 0.0:
        return "greedy"
    for method, width in HEADS.items():
        if 0 < params.top_k <= width < vocab_size:
            return method
    return "whole"
