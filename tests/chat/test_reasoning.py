import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basemlx.engine.chat.reasoning import ReasoningParser, reasoning_is_open

CASES = [
    ("<think>\nhmm\n\nyes\n</think>\n\nAnswer.\n", False, "hmm\n\nyes", "Answer.\n"),
    ("hmm\n</think>\n\nAnswer.", True, "hmm", "Answer."),
    ("<think>\n\n</think>\n\nAnswer.", False, "", "Answer."),
    ("Plain <think>quoted</think> text", False, "", "Plain <think>quoted</think> text"),
    ("<think>never closed </thin", False, "never closed </thin", ""),
    ("  <think>a</think>b</think>c", False, "a", "b</think>c"),
    (" \n <thing>", False, "", " \n <thing>"),
    ("<thin", False, "", "<thin"),
    ("", True, "", ""),
]


def parsed(pieces: list[str], is_open: bool) -> tuple[str, str]:
    parser = ReasoningParser(is_open=is_open)
    parts = [part for piece in pieces for part in parser.push(piece)] + parser.finish()
    assert all(part.text for part in parts)
    joined = {
        kind: "".join(part.text for part in parts if part.kind == kind) for kind in ("reasoning", "content")
    }
    return joined["reasoning"], joined["content"]


@pytest.mark.parametrize(("text", "is_open", "reasoning", "content"), CASES)
def test_reasoning_and_answer_come_apart_without_markers(
    text: str, is_open: bool, reasoning: str, content: str
) -> None:
    assert parsed([text], is_open) == (reasoning, content)
    assert parsed(list(text), is_open) == (reasoning, content)


pieces_of_markup = st.lists(
    st.sampled_from(["<think>", "</think>", "<th", "ink>", "</", "\n", " ", "a", "b\n"]), max_size=10
)


@given(pieces=pieces_of_markup, is_open=st.booleans(), cuts=st.lists(st.integers(0, 60)))
def test_every_cut_gives_the_same_parts(pieces: list[str], is_open: bool, cuts: list[int]) -> None:
    text = "".join(pieces)
    ends = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    cut_text = [text[start:end] for start, end in pairwise(ends)]
    assert parsed(cut_text, is_open) == parsed([text], is_open)


def test_what_is_certain_is_not_held_back() -> None:
    parser = ReasoningParser(is_open=True)
    assert [part.text for part in parser.push("one two </th")] == ["one two "]
    assert [part.text for part in parser.push("ree ")] == ["</three "]
    assert parser.in_reasoning
    assert [(part.kind, part.text) for part in parser.push("</think>Hi")] == [("content", "Hi")]
    assert not parser.in_reasoning


@pytest.mark.parametrize("piece", ["\n", " ", "a", "</thin", "<think>"])
def test_cost_is_linear_for_a_block_that_is_never_closed(piece: str) -> None:
    def seconds(num_pieces: int) -> float:
        parser = ReasoningParser(is_open=piece != " ")
        started_s = time.perf_counter()
        for _ in range(num_pieces):
            parser.push(piece)
        parser.finish()
        return time.perf_counter() - started_s

    seconds(1000)
    assert min(seconds(40_000) for _ in range(3)) < 5 * min(seconds(20_000) for _ in range(3))


def test_the_prompts_tail_says_whether_a_block_is_open() -> None:
    assert reasoning_is_open("…<|im_start|>assistant\n<think>\n")
    assert not reasoning_is_open("…<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert not reasoning_is_open("user: what does <think> mean?\nassistant: ")
    prompt = "user: go on\nassistant: <think>\nI wonder"
    assert reasoning_is_open(prompt, continued="<think>\nI wonder")
    assert reasoning_is_open("assistant: <think>\nI wonder", continued="I wonder")
    assert not reasoning_is_open("assistant: <think>a</think>b", continued="<think>a</think>b")
