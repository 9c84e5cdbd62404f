"""The reasoning parser: the same parts however the text is cut, and nothing of the markers in either."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from basemlx.engine.chat.parser import PlainParser, ReasoningParser, reasoning_is_open

CASES = [
    ("<think>\nhmm\n\nyes\n</think>\n\nAnswer.", False, "hmm\n\nyes", "Answer."),
    ("hmm\n</think>\n\nAnswer.", True, "hmm", "Answer."),
    ("<think>\n\n</think>\n\nAnswer.", False, "", "Answer."),
    ("Plain <think>quoted</think> text", False, "", "Plain <think>quoted</think> text"),
    ("<think>never closed </thin", False, "never closed </thin", ""),
    ("  <think>a</think>b</think>c", False, "a", "b</think>c"),
    ("<thin", False, "", "<thin"),
    ("", True, "", ""),
]


def parse(pieces: list[str], is_open: bool) -> tuple[str, str]:
    parser = ReasoningParser(is_open=is_open)
    parts = [part for piece in pieces for part in parser.push(piece)] + parser.finish()
    assert all(part.text for part in parts)
    joined = {kind: "".join(p.text for p in parts if p.kind == kind) for kind in ("reasoning", "content")}
    return joined["reasoning"], joined["content"]


@pytest.mark.parametrize(("text", "is_open", "reasoning", "content"), CASES)
def test_every_cut_gives_the_same_parts(text: str, is_open: bool, reasoning: str, content: str) -> None:
    assert parse([text], is_open) == (reasoning, content)
    assert parse(list(text), is_open) == (reasoning, content)
    for at in range(len(text)):
        assert parse([text[:at], text[at:]], is_open) == (reasoning, content)


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(["<think>", "</think>", "\n", "a", "<", "</th", "ink>", " "]), max_size=10),
    st.booleans(),
)
def test_any_text_is_the_same_whole_and_in_pieces(pieces: list[str], is_open: bool) -> None:
    assert parse(pieces, is_open) == parse(["".join(pieces)], is_open)


def test_reasoning_is_shown_as_it_comes() -> None:
    parser = ReasoningParser(is_open=True)
    assert [part.text for part in parser.push("step one, ")] == ["step one, "]
    assert parser.push("</thi") == []
    assert [part.text for part in parser.push("s is not it")] == ["</this is not it"]


def test_the_prompts_tail_says_whether_thinking_is_open() -> None:
    assert reasoning_is_open("<|im_start|>assistant\n<think>\n")
    assert not reasoning_is_open("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert not reasoning_is_open("what is <think>?<|im_end|>\n<|im_start|>assistant\n")


def test_plain_text_passes_through() -> None:
    assert [part.text for part in PlainParser().push("x")] == ["x"]
    assert PlainParser().push("") == PlainParser().finish() == []
