"""How many prompt tokens a step may take, so that running streams are not starved and aborts are noticed soon.

A forward is taken to cost `fixed + tokens * token` seconds: reading the weights once, then the arithmetic; a step that
only decodes costs `fixed + rows * row`. Both are learned from the steps themselves. Beside rows that decode, a forward
of prompts is computed a few layers a step, so it may be as large as serves the weights' reading, and the least that a
step can take of it is one layer, not the whole. It knows no sequence and no clock; whoever owns the step tells it the
seconds.
"""

from dataclasses import dataclass

GAP_RATIO = 1.7
"""While rows decode, a step with prompt tokens may take this many times a step without. Streams shall see gaps of
three times the normal one at most; the rest is for what the estimate misses."""

FLAT_SHARE = 0.1
"""Where the fixed part alone uses the budget up, tokens that add no more than this share to it are taken all the same:
one token a step would keep the gap no smaller and the prompt waiting for ever."""

ALONE_S = 0.25
"""From its first layer to its last, a forward of prompts takes about this long at most: what a newcomer waits."""

MIXED_STEPS = 12
"""Steps with prompt tokens between two without."""

FIRST_CHUNK_TOKENS = 16
FAST, SLOW = 0.3, 0.1
"""Shares of a new figure in a smoothed one: a step without prompt tokens that took longer than usual says little (the
machine, a row that moved), one that took less says what is possible."""


@dataclass(slots=True)
class LinearCost:
    """`fixed_s + units * unit_s`, from two measurements on."""

    fixed_s: float
    unit_s: float

    @classmethod
    def through(cls, small: tuple[int, float], large: tuple[int, float]) -> "LinearCost":
        """From (units, seconds) twice. Noise must not make more units look free."""
        (few, few_s), (many, many_s) = small, large
        unit_s = max((many_s - few_s) / (many - few), 0.02 * many_s / many)
        return cls(max(0.0, few_s - few * unit_s), unit_s)

    def of(self, units: int) -> float:
        return self.fixed_s + units * self.unit_s

    def learn(self, units: int, seconds: float, share: float) -> None:
        """Moves the estimate for `units` by `share` of its error, each part by what it is of the whole."""
        error_s = self._error(units, seconds, share)
        unit_share = units * self.unit_s / self.of(units)
        self.unit_s += error_s * unit_share / units
        self.fixed_s += error_s * (1.0 - unit_share)

    def learn_unit(self, units: int, seconds: float, share: float) -> None:
        """The same where the fixed part stays what it is, unless it cannot be true."""
        error_s = self._error(units, seconds, share)
        self.unit_s = max(self.unit_s + error_s / units, 0.02 * seconds / units)
        self.fixed_s += share * min(0.0, 0.5 * seconds - self.fixed_s)

    def _error(self, units: int, seconds: float, share: float) -> float:
        """An outlier counts within a factor."""
        expected_s = self.of(units)
        return share * (min(max(seconds, 0.25 * expected_s), 4.0 * expected_s) - expected_s)


class PrefillPacer:
    """For a model of `num_layers`; `max_chunk_tokens` is the ceiling whatever was measured."""

    def __init__(self, max_chunk_tokens: int, num_layers: int) -> None:
        self._max = max_chunk_tokens
        self.num_layers = num_layers
        # Nobody needs more of the last one than its keys and values.
        self._whole_layers = max(1, num_layers - 1)
        self._mixed_steps = 0  # since the last without a prompt
        self._decode: LinearCost | None = None  # of decoding rows
        self._prefill: LinearCost | None = None  # of prompt tokens

    def seed(self, decode: LinearCost, prefill: LinearCost) -> None:
        """Starts from measurements: what a step costs by its rows, and a prompt forward by its tokens."""
        self._decode, self._prefill = decode, prefill

    def chunk_tokens(self, decoding_rows: int) -> int:
        """The size of the next forward of prompts, at least one token."""
        if self._prefill is None or (decoding_rows and self._decode is None):
            return min(FIRST_CHUNK_TOKENS, self._max)
        budget_s = ALONE_S
        if decoding_rows:
            budget_s = min(ALONE_S * (1 - 1 / GAP_RATIO), self._whole_layers * self._spare_s(decoding_rows))
        spare_s = max(budget_s - self._prefill.fixed_s, FLAT_SHARE * self._prefill.fixed_s)
        return max(1, min(self._max, int(spare_s / self._prefill.unit_s)))

    def layers(self, tokens: int, decoding_rows: int) -> int:
        """How many whole layers of a forward of so many tokens the next step shall compute. None now and then, so that
        it is seen what the rows cost by themselves: their own texts grow meanwhile."""
        if not decoding_rows:
            return self.num_layers
        self._mixed_steps += 1
        if self._mixed_steps > MIXED_STEPS:
            self._mixed_steps = 0
            return 0
        if self._prefill is None or self._decode is None:
            return self.num_layers
        layer_s = self._prefill.of(tokens) / self._whole_layers
        return max(1, min(self.num_layers, int(self._spare_s(decoding_rows) / layer_s)))

    def prefers_one_forward(self, tokens_in_one: int, tokens_in_two: int) -> bool:
        """Whether one forward of so many tokens costs no more than two that have fewer between them."""
        if self._prefill is None:
            return True
        return (tokens_in_one - tokens_in_two) * self._prefill.unit_s <= self._prefill.fixed_s

    def observe(
        self,
        elapsed_s: float,
        *,
        prompt_tokens: int = 0,
        layers: int = 0,
        known_tokens: int = 0,
        extra_tokens: int = 0,
        decoding_rows: int = 0,
    ) -> None:
        """A step took `elapsed_s`: so many whole layers of a forward of `prompt_tokens`, a forward of `known_tokens`,
        and one of `decoding_rows` with `extra_tokens` beyond their one each, padding counted; 0 for what it did not
        have."""
        if decoding_rows and not prompt_tokens and not known_tokens and not extra_tokens:
            if self._decode is None:
                self._decode = LinearCost(0.5 * elapsed_s, 0.5 * elapsed_s / decoding_rows)
                return
            known_s = self._decode.of(decoding_rows)
            share = FAST if elapsed_s < known_s else SLOW
            self._decode.learn(decoding_rows, min(elapsed_s, 2 * known_s), share)
            return
        decode_s = self._decode.of(decoding_rows) if decoding_rows and self._decode is not None else 0.0
        prefill_s = max(elapsed_s - decode_s, 0.05 * elapsed_s)
        if self._prefill is None:
            self._prefill = LinearCost(0.0, prefill_s / max(1, prompt_tokens + known_tokens + extra_tokens))
        elif prompt_tokens and not known_tokens and not extra_tokens:
            # Attention grows along a prompt, with every token; what the weights cost does not.
            self._prefill.learn_unit(prompt_tokens, prefill_s * self._whole_layers / layers, FAST)
        elif known_tokens and not prompt_tokens:
            self._prefill.learn_unit(known_tokens, prefill_s, FAST)
        elif extra_tokens and not prompt_tokens:  # the fixed part is the decoding rows' own
            arithmetic = LinearCost(0.0, self._prefill.unit_s)
            arithmetic.learn_unit(extra_tokens, prefill_s, FAST)
            self._prefill.unit_s = arithmetic.unit_s

    def _spare_s(self, decoding_rows: int) -> float:
        """What a step may take beyond that of so many decoding rows."""
        assert self._decode is not None
        return (GAP_RATIO - 1) * self._decode.of(decoding_rows)
