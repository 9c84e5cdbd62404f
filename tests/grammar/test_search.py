"""Texts without certain others: the expression against looking for them."""

import random
import re
from itertools import product

import pytest

from basemlx.engine.grammar.search import without

TEXTS = "", "a", "ab", "aa", "aba bb", "abab ba", "aab aba", "a ab", "abc b", "ab c"


@pytest.mark.parametrize("excluded", [tuple(texts.split()) for texts in TEXTS])
def test_every_short_text_is_told_apart(excluded: tuple[str, ...]) -> None:
    expression = re.compile(without(excluded) or "")
    for length in range(8):
        for text in map("".join, product("abc", repeat=length)):
            assert bool(expression.fullmatch(text)) == (not any(part in text for part in excluded)), text


MARKUP = ("<tool_call>", "<think>", "</think>", "[TOOL_CALLS]", "<｜tool▁calls▁begin｜>")


@pytest.mark.parametrize("excluded", [MARKUP, ("<a>b>", "<<>>", "[x]"), (*MARKUP, "\n</a>\n")])
@pytest.mark.parametrize("to_its_end", [True, False])
def test_so_are_texts_with_beginnings_of_markup(excluded: tuple[str, ...], to_its_end: bool) -> None:
    written = without(excluded, to_its_end=to_its_end) or ""
    expression = re.compile(re.sub(r"\\x\{(\w+)\}", lambda found: rf"\U{found[1]:0>8}", written))
    random_ = random.Random(3)
    pieces = [part[:length] for part in excluded for length in range(1, len(part) + 1)]
    pieces += ["x", "\n", " ", "<", ">"]
    seen = set()
    for _ in range(3000):
        text = "".join(random_.choices(pieces, k=random_.randrange(6)))
        free = not any(part in text for part in excluded)
        assert bool(expression.fullmatch(text)) == free, text
        seen.add(free)
    assert seen == {True, False}


def test_too_many_letters_are_left_to_a_complement() -> None:
    assert without([f"{number:03}" * 10 for number in range(20)]) is None
