"""How a choice ends: what calls were whole when it stopped, and log-probabilities of what was returned only."""

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from basemlx.engine.chat.formats import FORMATS, Format
from basemlx.engine.chat.tools import Call, Tool
from basemlx.engine.openai.chat import ChatChunks
from basemlx.engine.openai.chunks import Identity
from basemlx.engine.openai.fold import ChatFold
from basemlx.engine.openai.service import OpenAIService
from basemlx.engine.types import OutputDelta
from tests.chat.wire import counter
from tests.openai.playback import PlaybackEngine, PlayedModel, chat_body

formats = pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
TOOL = Tool("f", {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}})
FIRST = Call("f", {"a": "alpha", "b": "beta"})
SECOND = Call("f", {"a": "gamma delta", "b": "omega"})


def ended(model: PlayedModel, form: Format, pieces: Iterable[str], **last: Any) -> dict[str, Any]:
    """The choice of an answer that came in `pieces`; `last` is how it ended."""
    parsers = counter()
    maker = ChatChunks(
        Identity("id", "chat.completion.chunk", 0, "played", "fp"),
        model.tokenizer,
        lambda: form.parser((TOOL,), parsers, enforced=True),
        include_usage=False,
    )
    fold = ChatFold()
    for delta in [*(OutputDelta(0, piece) for piece in pieces), OutputDelta(0, **last)]:
        for chunk in maker.push(0, delta):
            fold.add(chunk)
    choice: dict[str, Any] = fold.response()["choices"][0]
    return choice


def calls_of(choice: dict[str, Any]) -> list[str]:
    return [call["function"]["arguments"] for call in choice["message"].get("tool_calls", ())]


@formats
def test_a_stop_string_behind_whole_calls_leaves_them_to_be_carried_out(
    played_model: PlayedModel, form: Format
) -> None:
    stopped = {"finish_reason": "stop", "stop_reason": "☃"}
    for calls in ([FIRST], [FIRST, SECOND]):
        for pieces in ([form.render(calls)], list(form.render(calls))):
            choice = ended(played_model, form, pieces, **stopped)
            assert choice["finish_reason"] == "tool_calls"
            assert list(map(json.loads, calls_of(choice))) == [call.arguments for call in calls]


@formats
@pytest.mark.parametrize("before", [0, 1], ids=["first", "behind a whole one"])
def test_a_stop_string_within_a_call_is_no_call_to_be_carried_out_whatever_came_before(
    played_model: PlayedModel, form: Format, before: int
) -> None:
    text = form.render([FIRST] * before + [SECOND])
    cut = text[: text.index("gamma") + len("gamma de")]
    for pieces in ([cut], list(cut)):
        choice = ended(played_model, form, pieces, finish_reason="stop", stop_reason="lta")
        assert choice["finish_reason"] == "stop"
        *whole, part = calls_of(choice)
        assert list(map(json.loads, whole)) == [FIRST.arguments] * before
        assert part.endswith("gamma de"), "what was sent of it stays"
        with pytest.raises(ValueError, match="Unterminated"):
            json.loads(part)


@formats
def test_a_second_call_that_was_never_announced_does_not_take_the_first_away(
    played_model: PlayedModel, form: Format
) -> None:
    one, two = form.render([FIRST]), form.render([FIRST, SECOND])
    common = next((at for at, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), len(one))
    cut = two[: common + 2]
    choice = ended(played_model, form, list(cut), finish_reason="stop", stop_reason="x")
    assert list(map(json.loads, calls_of(choice))) == [FIRST.arguments]
    assert choice["finish_reason"] == "tool_calls"


@formats
def test_a_call_that_the_limit_cuts_ends_with_length(played_model: PlayedModel, form: Format) -> None:
    text = form.render([FIRST, SECOND])
    cut = text[: text.index("gamma") + 3]
    assert ended(played_model, form, [cut], finish_reason="length")["finish_reason"] == "length"


def test_so_it_is_for_a_stop_string_that_a_request_asks_for(
    play: Callable[..., tuple[PlaybackEngine, OpenAIService]],
) -> None:
    function = {"name": "f", "parameters": dict(TOOL.schema)}
    first, second = (
        f'<tool_call>\n{{"name": "f", "arguments": {json.dumps(call.arguments)}}}\n</tool_call>'
        for call in (FIRST, SECOND)
    )
    engine, _ = play(f"{first}\n{second}")
    service = OpenAIService(engine, tool_formats={"played": "hermes"})
    body = chat_body(tools=[{"type": "function", "function": function}])
    for stop, reason, num_calls in (
        ("delta", "stop", 2),
        ("alpha", "stop", 1),
        ("</tool_call>", "tool_calls", 1),
    ):
        choice = service.chat({**body, "stop": [stop]}).response()["choices"][0]
        assert (choice["finish_reason"], len(calls_of(choice))) == (reason, num_calls), stop
    assert engine.open == set()


@pytest.mark.parametrize(
    ("says", "stop", "told"),
    [
        ("One two three four", " three", "One two"),
        ("One two three four", "three", "One two "),
        ("One two three four", "wo th", "One t"),
        ("One two three four", "O", ""),
        ("One two three four", "never", "One two three four"),
        ("äöü one two", "ü", "äö"),
    ],
)
def test_log_probabilities_are_told_of_tokens_that_brought_text_only(
    play: Callable[..., tuple[PlaybackEngine, OpenAIService]], says: str, stop: str, told: str
) -> None:
    _, service = play(says)
    chat = service.chat(chat_body(stop=[stop], logprobs=True)).response()["choices"][0]
    assert chat["message"]["content"] == told
    completion = service.completion(
        {"model": "played", "prompt": "?", "stop": [stop], "logprobs": 1}
    ).response()["choices"][0]
    assert completion["text"] == told
    entries = chat["logprobs"]["content"] if chat["logprobs"] else []
    data = b"".join(bytes(entry["bytes"]) for entry in entries)
    assert data.startswith(told.encode()), "all of the text"
    before = b"".join(bytes(entry["bytes"]) for entry in entries[:-1])
    assert len(before) < len(told.encode()) or not entries, "and no token behind it"
    tokens = completion["logprobs"]["tokens"] if completion["logprobs"] else []
    assert tokens == [entry["token"] for entry in entries]
