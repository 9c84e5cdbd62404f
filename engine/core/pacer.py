"""How many prompt tokens a forward may take, so that running streams are not starved and aborts are noticed soon.

A forward of n prompt tokens is taken to cost `fixed + n * token` seconds: reading the weights once, then the
arithmetic. Both are learned from the steps themselves, as is what a step costs without prompt tokens. It knows no
sequence and no clock; whoever owns the step tells it the seconds.
"""

GAP_RATIO = 2.2
"""While rows decode, a step with prompt tokens may take this many times a step without. Streams shall see gaps of
three times the normal one at most; the rest is for what the estimate misses."""

FLAT_SHARE = 0.1
"""Where the fixed part alone uses the budget up, tokens that add no more than this share to it are taken all the same:
one token a step would keep the gap no smaller and the prompt waiting for ever."""

ALONE_S = 0.25
"""With nobody decoding, one forward takes about this long at most: the latency of an abort or of a newcomer."""

FIRST_CHUNK_TOKENS = 16
FAST, SLOW = 0.3, 0.03
"""Shares of a new figure in a smoothed one: a step without prompt tokens that took longer than usual says little (the
machine, a row that moved), one that took less says what is possible."""


class PrefillPacer:
    """`max_chunk_tokens` is the ceiling whatever was measured."""

    def __init__(self, max_chunk_tokens: int) -> None:
        self._max = max_chunk_tokens
        self._decode_s: float | None = None
        self._fixed_s = 0.0
        self._token_s: float | None = None

    def seed(self, decode_s: float, small: tuple[int, float], large: tuple[int, float]) -> None:
        """Starts from measurements: a decode step, and two prompt forwards as (tokens, seconds)."""
        self._decode_s = decode_s
        (few, few_s), (many, many_s) = small, large
        self._token_s = max((many_s - few_s) / (many - few), 0.02 * many_s / many)
        self._fixed_s = max(0.0, few_s - few * self._token_s)

    def chunk_tokens(self, decoding: bool) -> int:
        """Prompt tokens for the next forward, at least one."""
        if self._token_s is None:
            return min(FIRST_CHUNK_TOKENS, self._max)
        budget_s = ALONE_S
        if decoding and self._decode_s is not None:
            budget_s = min(ALONE_S, (GAP_RATIO - 1) * self._decode_s)
        spare_s = max(budget_s - self._fixed_s, FLAT_SHARE * self._fixed_s)
        return max(1, min(self._max, int(spare_s / self._token_s)))

    def prefers_one_forward(self, tokens_in_one: int, tokens_in_two: int) -> bool:
        """Whether one forward of so many tokens costs no more than two that have fewer between them."""
        if self._token_s is None:
            return True
        return (tokens_in_one - tokens_in_two) * self._token_s <= self._fixed_s

    def observe(self, elapsed_s: float, prefill_tokens: int, decoding: bool) -> None:
        """A step took `elapsed_s` and held so many prompt tokens beside its decoding rows (if any)."""
        if not prefill_tokens:
            if decoding:
                known_s = elapsed_s if self._decode_s is None else self._decode_s
                share = FAST if elapsed_s < known_s else SLOW
                self._decode_s = known_s + share * (min(elapsed_s, 2 * known_s) - known_s)
            return
        prefill_s = elapsed_s - ((self._decode_s or 0.0) if decoding else 0.0)
        if self._token_s is None:
            self._token_s = max(prefill_s, 0.05 * elapsed_s) / prefill_tokens
            return
        # The error goes to whichever part is the larger share of such a forward; outliers count within a factor.
        expected_s = self._fixed_s + prefill_tokens * self._token_s
        error_s = FAST * (min(max(prefill_s, 0.25 * expected_s), 4.0 * expected_s) - expected_s)
        token_share = prefill_tokens * self._token_s / expected_s
        self._token_s += error_s * token_share / prefill_tokens
        self._fixed_s += error_s * (1.0 - token_share)
