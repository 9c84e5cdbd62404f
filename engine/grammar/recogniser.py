"""Whether a text belongs to a language, and whether a language has any text at all, in linear time.

llguidance's lexer does both, over a vocabulary of the 256 bytes: no backtracking, and fuel that runs out instead of
time. So patterns mean the same to the grammar and to the validator after it, and a hostile one costs neither of them.
Loads no model's tokenizer.
"""

from functools import lru_cache
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from basemlx.engine.grammar.languages import EVERYTHING, NOTHING, And, Language, Not, Words
from basemlx.engine.grammar.terminals import plain_terminal

_EOS = 256


class TooCostly(ValueError):
    """The lexer ran out of fuel: the language is too complex to work with."""


class _Bytes:
    """What llguidance asks of a tokenizer, for one whose tokens are the bytes and `num_controls` control tokens."""

    eos_token_id = _EOS
    bos_token_id = None

    def __init__(self, num_controls: int) -> None:
        names = [b"<eos>", *(b"<control %d>" % number for number in range(num_controls))]
        self.tokens = (*(bytes([value]) for value in range(256)), *names)
        self.special_token_ids = tuple(range(_EOS, len(self.tokens)))

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


FIRST_CONTROL = _EOS + 1
"""Id of the first control token of a byte tokenizer."""


@lru_cache(maxsize=8)
def byte_tokenizer(num_controls: int = 0) -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(_Bytes(num_controls)), slices=[])


_LIMITS: dict[str, Any] = {"max_lexer_states": 50_000, "verbose_errors": False}


@lru_cache(maxsize=2048)
def _matcher(terminal: str) -> LLMatcher:
    """A matcher at its start; callers copy it."""
    matcher = LLMatcher(
        byte_tokenizer(),
        LLMatcher.grammar_from_lark(f"start: T\nT: {terminal}"),
        limits=LLParserLimits(**_LIMITS),
        log_level=0,
    )
    if matcher.is_error():
        raise TooCostly(matcher.get_error().splitlines()[0][:200])
    return matcher


def contains(language: Language, text: str) -> bool:
    """Whether `text` is in `language`. Raises TooCostly."""
    if isinstance(language, Words):
        return text in language.texts
    if isinstance(language, Not):
        return not contains(language.part, text)
    if isinstance(language, And):
        return all(contains(part, text) for part in language.parts)
    if language == EVERYTHING:
        return True
    if not text:
        return language.nullable
    matcher = _matcher(plain_terminal(language)).deep_copy()
    data = text.encode("utf-8", "surrogatepass")
    taken = matcher.try_consume_tokens(list(data))
    if matcher.is_error():
        raise TooCostly("the lexer ran out of fuel")
    return taken == len(data) and bool(matcher.is_accepting())


@lru_cache(maxsize=4096)
def is_empty(language: Language) -> bool:
    """Whether no text is in `language`. Raises TooCostly."""
    if language == NOTHING:
        return True
    if language.nullable or isinstance(language, Words):
        return False
    return terminal_is_empty(plain_terminal(language))


@lru_cache(maxsize=4096)
def terminal_is_empty(terminal: str) -> bool:
    """The same of a terminal as written down. Raises TooCostly."""
    matcher = _matcher(terminal).deep_copy()
    if matcher.is_accepting():
        return False
    mask = matcher.compute_bitmask()
    if matcher.is_error():
        if "NoExtension" in matcher.get_error():
            return True
        raise TooCostly("the lexer ran out of fuel")
    # Only the end-of-text token, which a matcher without a way on still offers, says that nothing can follow.
    return not any(mask[:32])
