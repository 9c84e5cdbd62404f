"""Grammars on llguidance: an Earley parser over a lexer of regular-expression derivatives.

The engine of choice: it has intersection and complement of regular expressions, compiles in about a millisecond, and
its work per step is bounded by fuel. Nothing here parses untrusted text for the first time; `worker` has compiled it
before.
"""

import re
from typing import TYPE_CHECKING, Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from basemlx.engine.errors import GenerationFailed, UnsupportedSchema

if TYPE_CHECKING:
    from basemlx.engine.core.constraint import Mask
    from basemlx.engine.grammar.vocabulary import Vocabulary

LIMITS: dict[str, Any] = {
    "max_items_in_row": 20_000,
    "initial_lexer_fuel": 4_000_000,
    "step_lexer_fuel": 400_000,
    "step_max_items": 200_000,
    "max_lexer_states": 100_000,
    "max_grammar_size": 2_000_000,
    "precompute_large_lexemes": False,
    "verbose_errors": False,
}
_SLICES = [
    r"[\x20\x0A\x0D\x09]+",
    r'[^"\\\x00-\x1F\x7F\u2028\u2029<>\[\]]{1,10}',
    r'[^"\\\x00-\x1F\x7F\u2028\u2029<>\[\]]{1,30}',
    r'[^"\\\x00-\x1F\x7F]+',
]
"""Parts of the vocabulary that a lexeme may allow as a whole: llguidance's own for JSON, without what a pattern's dot
does not match and what markup begins and ends with."""
_TERMINAL = re.compile(r"[A-Z][A-Z0-9_]*: ")
_MAX_TRIED = 40
_TRIED_STEPS = 5
_BYTES_PER_GRAMMAR_BYTE = 40
"""Measured, roughly: memory of a grammar and its lexer's states against the grammar's text."""


class LLGuidanceBackend:
    """Raises nothing on construction; takes 0.3 s for 150,000 tokens."""

    name = "llguidance"

    def __init__(self, vocabulary: "Vocabulary") -> None:
        self.vocabulary = vocabulary
        self._tokenizer = make_tokenizer(vocabulary)
        self.eos_token_ids = vocabulary.eos_token_ids

    def compile_lark(self, text: str) -> "LLGuidanceGrammar":
        matcher = self.start(text)
        if matcher.is_error():
            raise UnsupportedSchema(first_line(matcher.get_error()))
        self._try_hard_terminals(text)
        matcher.compute_bitmask()  # the first mask builds much of the lexer: here, not in the step
        return LLGuidanceGrammar(self, matcher, text)

    def start(self, text: str) -> LLMatcher:
        """A matcher with a lexer of its own."""
        return LLMatcher(
            self._tokenizer, LLMatcher.grammar_from_lark(text), limits=LLParserLimits(**LIMITS), log_level=0
        )

    def _try_hard_terminals(self, text: str) -> None:
        """Intersections of several automata may be more than the lexer can hold, which shows only when a mask is filled
        inside of one. So each is tried. Raises UnsupportedSchema."""
        hard = [line for line in text.splitlines() if _is_hard_terminal(line)]
        for line in hard[:_MAX_TRIED]:
            _, _, expression = line.partition(": ")
            matcher = self.start(f"start: T\nT: {expression}")
            matcher.try_consume_tokens(self.greedy_tokens(b'"'))
            for step in range(_TRIED_STEPS):
                mask = np.frombuffer(matcher.compute_bitmask(), np.uint8)
                allowed = np.flatnonzero(np.unpackbits(mask, bitorder="little"))
                if matcher.is_error() or len(allowed) == 0 or matcher.is_stopped():
                    break
                matcher.consume_token(int(allowed[(7919 * step) % len(allowed)]))
            if matcher.is_error() and "NoExtension" not in matcher.get_error():
                reason = first_line(matcher.get_error())
                raise UnsupportedSchema(
                    f"A text that is asked for is too complex: {reason}.", keyword="pattern"
                )

    def greedy_tokens(self, text: bytes) -> list[int]:
        """Ordinary tokens that spell `text`, longest first."""
        return list(self._tokenizer.greedy_tokenize(text.decode()))


class LLGuidanceGrammar:
    def __init__(self, backend: LLGuidanceBackend, start: LLMatcher, text: str) -> None:
        self.backend = backend
        self._start = start
        self._text = text
        self.size_bytes = 4096 + (_BYTES_PER_GRAMMAR_BYTE + 1) * len(text)

    def matcher(self) -> "LLGuidanceMatcher":
        return LLGuidanceMatcher(self, self._start.deep_copy())

    def renewed(self, tokens: list[int]) -> LLMatcher:
        """A matcher that has come as far as `tokens`, with a new lexer for all that follow. The states of one lexer are
        shared and only ever become more."""
        start = self.backend.start(self._text)
        self._start = start.deep_copy()
        start.consume_tokens(tokens)
        return start


class LLGuidanceMatcher:
    """See `backend.Matcher`. llguidance itself treats an end token as the start of an error; here it is remembered
    outside of it, so it can be taken back."""

    def __init__(self, grammar: LLGuidanceGrammar, matcher: LLMatcher) -> None:
        self._grammar = grammar
        self._matcher = matcher
        self._tokens: list[int] = []
        self._is_terminated = False

    @property
    def is_terminated(self) -> bool:
        return self._is_terminated

    @property
    def is_complete(self) -> bool:
        return bool(self._matcher.is_accepting())

    def fill(self, mask: "Mask") -> bool:
        if self._is_terminated:
            raise GenerationFailed("The grammar has ended; nothing can follow.")
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if self._matcher.is_error() and "lexer error" in self._matcher.get_error():
            self._matcher = self._grammar.renewed(self._tokens)
            self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if self._matcher.is_error():
            raise GenerationFailed(f"The grammar engine gave up: {first_line(self._matcher.get_error())}")
        return True

    def accept(self, token_id: int) -> bool:
        if self._is_terminated:
            return False
        if token_id in self._grammar.backend.eos_token_ids:
            self._is_terminated = self.is_complete
            return self._is_terminated
        # A token that is refused would leave llguidance's matcher in an error for good, so it is asked first.
        if self._matcher.validate_tokens([token_id]) != 1:
            return False
        if not self._matcher.consume_token(token_id):
            return False
        self._tokens.append(token_id)
        return True

    def rollback(self, count: int) -> None:
        if count and self._is_terminated:
            self._is_terminated = False
            count -= 1
        if count and not self._matcher.rollback(count):
            raise GenerationFailed("The grammar could not be taken back.")
        if count:
            del self._tokens[-count:]

    def fork(self) -> "LLGuidanceMatcher":
        other = LLGuidanceMatcher(self._grammar, self._matcher.deep_copy())
        other._tokens, other._is_terminated = self._tokens.copy(), self._is_terminated
        return other

    def accepts_bytes(self, text: bytes) -> bool:
        other = self.fork()
        tokens = self._grammar.backend.greedy_tokens(text)
        return all(other.accept(token_id) for token_id in tokens) and other.is_complete


class _Tokens:
    """What llguidance asks of a tokenizer."""

    bos_token_id = None

    def __init__(self, vocabulary: "Vocabulary") -> None:
        self._vocabulary = vocabulary
        # Without texts of their own, all control tokens would be allowed wherever one is.
        self.tokens = tuple(token or b"\xff%d" % token_id for token_id, token in enumerate(vocabulary.tokens))
        self.eos_token_id = min(vocabulary.eos_token_ids)
        self.special_token_ids = sorted(vocabulary.control_token_ids)

    def __call__(self, text: bytes | str) -> list[int]:
        """Asked where the grammar leaves one text only: the mask then holds the token that the model would expect."""
        return self._vocabulary.spell(text if isinstance(text, str) else text.decode())


def make_tokenizer(vocabulary: "Vocabulary") -> LLTokenizer:
    return LLTokenizer(
        TokenizerWrapper(_Tokens(vocabulary)),
        n_vocab=vocabulary.size,
        eos_token=sorted(vocabulary.eos_token_ids),
        slices=_SLICES,
    )


def _is_hard_terminal(line: str) -> bool:
    """Of a grammar's text: whether the line is a terminal that intersects more than a string with one complement."""
    return bool(_TERMINAL.match(line)) and (
        line.count(" & ") > 1 or (" & " in line and "} & " in line) or "/ & /" in line
    )


def first_line(message: str) -> str:
    """Errors of the engine go on with dumps of its state."""
    return next((line for line in message.splitlines() if line.strip()), "unknown error")[:300]
