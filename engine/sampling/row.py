"""What sampling keeps for one sequence: its settings, its seed, and token counts where penalties need them.

Counts live on the device and follow the sampled token before anybody has read it, so that the next step can be
launched at once. Engine thread only. It knows no batch.
"""

from collections.abc import Sequence

from basemlx.engine.runtime import mx
from basemlx.engine.sampling.draws import fresh_seed, uniform
from basemlx.engine.types import SamplingParams


class RowSampler:
    """State of one choice. `seed` replaces a missing seed of the request (tests); else a fresh one is drawn."""

    def __init__(
        self,
        params: SamplingParams,
        prompt_token_ids: Sequence[int],
        vocab_size: int,
        choice: int = 0,
        seed: int | None = None,
    ) -> None:
        self.params = params
        self._choice = choice
        self._seed = next(s for s in (params.seed, seed, fresh_seed()) if s is not None)
        self._vocab_size = vocab_size
        self.counts: mx.array | None = None  # [V] float32: how often each token was sampled
        self.in_prompt: mx.array | None = None  # [V] bool
        self.bias: tuple[mx.array, mx.array] | None = None  # token ids, values
        if params.logit_bias:
            ids, values = list(params.logit_bias), list(params.logit_bias.values())
            self.bias = mx.array(ids, dtype=mx.int32), mx.array(values, dtype=mx.float32)
        if self.has_penalties:
            self.counts = mx.zeros(vocab_size)
            if params.repetition_penalty != 1.0:
                present = mx.zeros(vocab_size, dtype=mx.bool_)
                present[mx.array(sorted(set(prompt_token_ids)), dtype=mx.int32)] = mx.array(True)
                self.in_prompt = present

    @property
    def has_penalties(self) -> bool:
        p = self.params
        return p.repetition_penalty != 1.0 or p.presence_penalty != 0.0 or p.frequency_penalty != 0.0

    @property
    def is_greedy(self) -> bool:
        return self.params.temperature == 0.0

    def draw(self, position: int) -> float:
        """This row's random number for the token at `position`."""
        return uniform(self._seed, self._choice, position)

    def observe(self, token: mx.array) -> None:
        """Counts a sampled token, a scalar that may still be on its way."""
        if self.counts is not None:
            self.counts = self.counts.at[token].add(1.0)

    def rebuild(self, output_token_ids: Sequence[int]) -> None:
        """Sets the counts as if exactly these tokens had been sampled."""
        if self.counts is not None:
            counts = mx.zeros(self._vocab_size)
            if output_token_ids:
                counts = counts.at[mx.array(list(output_token_ids), dtype=mx.int32)].add(1.0)
            self.counts = counts

    def penalised(self, logits: mx.array) -> mx.array:
        """Logits [V] after this row's penalties. Repetition divides positive and multiplies negative logits of
        tokens in prompt or output (Keskar et al., "CTRL", 2019); presence and frequency are OpenAI's."""
        p, counts = self.params, self.counts
        assert counts is not None
        sampled = counts > 0
        if self.in_prompt is not None:
            scaled = mx.where(logits > 0, logits / p.repetition_penalty, logits * p.repetition_penalty)
            logits = mx.where(sampled | self.in_prompt, scaled, logits)
        return logits - p.frequency_penalty * counts - p.presence_penalty * sampled
