"""The runner, before a server made up to answer wrongly, as no real one can be made to: differences have to be seen."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.matrix.cells import Cell, Request
from tests.matrix.run import Runner, Tally

CELL = Cell("no tools", True, "text", False, 1)
Say = Callable[[int, bool, int], str]
"""What is said at the n-th request, streamed or not, with so many tokens at most."""


def tallied(say: Say, *, status: int = 200, max_tokens: int = 60, document: bool = False) -> Tally:
    """Of one request asked whole and streamed, alone."""
    asked = 0

    def handle(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        body = json.loads(request.content)
        if status != 200:
            return httpx.Response(status, json={"error": {"message": "No.", "param": "tools"}})
        text = say(asked - 1, body.get("stream", False), body["max_tokens"])
        end = "length" if body["max_tokens"] < 60 else "stop"
        return _streamed(text, end) if body.get("stream") else _whole(text, end)

    body: dict[str, Any] = {"messages": [], "n": 1, "max_tokens": max_tokens, "parallel_tool_calls": True}
    if document:
        body["response_format"] = {"type": "json_object"}
    tally = Tally()
    with httpx.Client(base_url="http://test", transport=httpx.MockTransport(handle)) as client:
        Runner(client, tally, most_tokens=60).alone([Request(CELL, body)], 1)
    return tally


USAGE = {
    "prompt_tokens": 1,
    "completion_tokens": 2,
    "total_tokens": 3,
    "completion_tokens_details": {"reasoning_tokens": 0},
}


def _whole(text: str, end: str) -> httpx.Response:
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": end}
    return httpx.Response(200, json={"choices": [choice], "usage": USAGE})


def _streamed(text: str, end: str) -> httpx.Response:
    deltas = [({"role": "assistant", "content": ""}, None), ({"content": text}, None), ({}, end)]
    chunks = [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}], "usage": None}
        for delta, reason in deltas
    ]
    lines = [
        json.dumps({"id": "1", "object": "chat.completion.chunk", **chunk})
        for chunk in (*chunks, {"choices": [], "usage": USAGE})
    ]
    return httpx.Response(200, text="".join(f"data: {line}\n\n" for line in (*lines, "[DONE]")))


def test_the_same_twice_is_right() -> None:
    tally = tallied(lambda number, stream, most: "Hello")
    assert (tally.failures, tally.near_ties, tally.pairs, tally.num_samples) == ([], 0, 1, 2)


@pytest.mark.parametrize(
    ("texts", "near_ties", "problem"),
    [
        ("AAAAA", 0, ""),
        ("ABAAA", 1, ""),
        ("ABBBB", 1, ""),
        ("ABABA", 0, "streamed and whole differ"),
        ("ABCCC", 0, "differs from what it was"),
    ],
)
def test_answers_that_differ_are_asked_for_again(texts: str, near_ties: int, problem: str) -> None:
    tally = tallied(lambda number, stream, most: texts[number])
    assert tally.near_ties == near_ties
    assert problem in "".join(failure.problem for failure in tally.failures)
    assert bool(tally.failures) is bool(problem)


def test_what_is_cut_off_has_to_be_the_beginning_of_what_it_would_have_become() -> None:
    def say(number: int, stream: bool, most: int) -> str:
        return "Hello you" if most == 60 else "Hello"

    tally = tallied(say, max_tokens=8)
    assert (tally.failures, tally.grown, tally.near_ties) == ([], 1, 0)
    tally = tallied(
        lambda *asked: say(*asked).replace("o", "a") if asked[2] == 8 else say(*asked), max_tokens=8
    )
    assert [failure.problem for failure in tally.failures] == [
        "cut off, it is not the beginning of what it would have become"
    ]


def test_an_answer_that_breaks_a_rule_and_one_that_does_not_come_are_failures() -> None:
    tally = tallied(lambda number, stream, most: "Hello", document=True)
    assert ["no JSON" in failure.problem for failure in tally.failures] == [True, True]
    assert {cell.stream for cell in tally.failed} == {False, True}
    tally = tallied(lambda number, stream, most: "", status=400)
    assert [failure.problem for failure in tally.failures] == ["Refused: 400: No."] * 2
    assert tally.num_samples == 0
