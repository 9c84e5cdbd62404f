"""Languages as terminals: the second lexeme that makes masks cheap changes nothing of what is allowed."""

import random

import numpy as np
import pytest

from basemlx.engine.grammar import GrammarCompiler
from basemlx.engine.grammar.backend import Matcher
from basemlx.engine.grammar.languages import EVERYTHING, Language, alt, both, negation, of_length, words
from basemlx.engine.grammar.patterns import parse_pattern
from basemlx.engine.grammar.recogniser import terminal_is_empty
from basemlx.engine.grammar.terminals import string_terminal, string_terminals

OPEN = {
    "found anywhere": parse_pattern("[a-z]cole"),
    "found anywhere, repeated": parse_pattern("a+"),
    "found at the end": parse_pattern("bar$"),
    "one of two places": parse_pattern("^foo|bar"),
    "both found": both(parse_pattern("foo"), parse_pattern("[0-9]{2,}")),
    "found and long": both(parse_pattern("foo"), of_length(5, None)),
    "found, but for words": both(parse_pattern("o"), negation(words("foo", "o"))),
    "short or long": alt(of_length(0, 2), of_length(5, None)),
    "other characters than these": negation(parse_pattern("^[a-z]*$")),
    "other characters, and found": both(negation(parse_pattern("^[a-z]+$")), parse_pattern("a")),
}
CLOSED = {
    "everything": EVERYTHING,
    "long": of_length(3, None),
    "short": of_length(0, 3),
    "of these characters": parse_pattern("^[a-z]+$"),
    "nowhere": negation(parse_pattern("foo")),
    "not with this beginning": negation(parse_pattern("^x-")),
    "found, but not that": both(parse_pattern("foo"), negation(parse_pattern("bar"))),
    "found, but for words with the rare character": both(parse_pattern("o"), negation(words("foo", "\x01o"))),
    "but for words": negation(words("foo")),
}


@pytest.mark.parametrize("language", OPEN.values(), ids=OPEN)
def test_a_language_that_any_beginning_fits_has_a_second_lexeme_that_is_part_of_it(
    language: Language,
) -> None:
    whole, part = string_terminals(language)
    assert whole == string_terminal(language)
    assert terminal_is_empty(f"({part} & ~({whole}))")
    assert not terminal_is_empty(part)


@pytest.mark.parametrize("language", CLOSED.values(), ids=CLOSED)
def test_other_languages_have_one(language: Language) -> None:
    assert string_terminals(language) == (string_terminal(language),)


@pytest.mark.parametrize("language", OPEN.values(), ids=OPEN)
def test_the_second_lexeme_changes_no_mask(language: Language, compiler: GrammarCompiler) -> None:
    whole, part = string_terminals(language)
    random_ = random.Random(7)
    for start in ('"', '"fo', '"\\u0001o', '"12 foo ba', '"cole', '"x\\n'):
        matchers = [
            compiler.backend.compile_lark(lark).matcher()
            for lark in (f"start: T\nT: {whole}\n", f"start: T | U\nT: {whole}\nU: {part}\n")
        ]
        for token_id in compiler.vocabulary.spell(start):
            assert all(matcher.accept(token_id) for matcher in matchers)
        for _ in range(12):
            one, two = (mask_of(matcher, compiler.vocabulary.size) for matcher in matchers)
            assert (one == two).all()
            choices = np.flatnonzero(np.unpackbits(one.view(np.uint8), bitorder="little"))
            if not len(choices):
                break
            token_id = int(random_.choice(choices))
            if not all(matcher.accept(token_id) for matcher in matchers) or matchers[0].is_terminated:
                break


def mask_of(matcher: Matcher, size: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    mask = np.zeros((size + 31) // 32, np.int32)
    assert matcher.fill(mask)
    return mask
