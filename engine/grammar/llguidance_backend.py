"""Grammars on llguidance: an Earley parser over a lexer of regular-expression derivatives.

The engine of choice: it has intersection and complement of regular expressions, compiles in about a millisecond, and
its work per step is bounded by fuel. Nothing here parses untrusted text for the first time; `worker` has compiled it
before.
"""

from typing import TYPE_CHECKING, Any

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
        matcher = LLMatcher(
            self._tokenizer, LLMatcher.grammar_from_lark(text), limits=LLParserLimits(**LIMITS), log_level=0
        )
        if matcher.is_error():
            raise UnsupportedSchema(first_line(matcher.get_error()))
        return LLGuidanceGrammar(self, matcher, len(text))

    def greedy_tokens(self, text: bytes) -> list[int]:
        """Ordinary tokens that spell `text`, longest first."""
        return list(self._tokenizer.greedy_tokenize(text.decode()))


class LLGuidanceGrammar:
    def __init__(self, backend: LLGuidanceBackend, start: LLMatcher, text_bytes: int) -> None:
        self._backend = backend
        self._start = start
        self.size_bytes = 4096 + _BYTES_PER_GRAMMAR_BYTE * text_bytes

    def matcher(self) -> "LLGuidanceMatcher":
        return LLGuidanceMatcher(self._backend, self._start.deep_copy())


class LLGuidanceMatcher:
    """See `backend.Matcher`. llguidance itself treats an end token as the start of an error; here it is remembered
    outside of it, so it can be taken back."""

    def __init__(self, backend: LLGuidanceBackend, matcher: LLMatcher, is_terminated: bool = False) -> None:
        self._backend = backend
        self._matcher = matcher
        self._is_terminated = is_terminated

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
        if self._matcher.is_error():
            raise GenerationFailed(f"The grammar engine gave up: {first_line(self._matcher.get_error())}")
        return True

    def accept(self, token_id: int) -> bool:
        if self._is_terminated:
            return False
        if token_id in self._backend.eos_token_ids:
            self._is_terminated = self.is_complete
            return self._is_terminated
        # A token that is refused would leave llguidance's matcher in an error for good, so it is asked first.
        if self._matcher.validate_tokens([token_id]) != 1:
            return False
        return bool(self._matcher.consume_token(token_id))

    def rollback(self, count: int) -> None:
        if count and self._is_terminated:
            self._is_terminated = False
            count -= 1
        if count and not self._matcher.rollback(count):
            raise GenerationFailed("The grammar could not be taken back.")

    def fork(self) -> "LLGuidanceMatcher":
        return LLGuidanceMatcher(self._backend, self._matcher.deep_copy(), self._is_terminated)

    def accepts_bytes(self, text: bytes) -> bool:
        other = self.fork()
        tokens = self._backend.greedy_tokens(text)
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
        slices=LLTokenizer.json_slices(),
    )


def first_line(message: str) -> str:
    """Errors of the engine go on with dumps of its state."""
    return next((line for line in message.splitlines() if line.strip()), "unknown error")[:300]
