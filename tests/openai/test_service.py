"""Requests from body to chunks, over an engine that plays back known text."""

import gc
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from basemlx.engine.errors import (
    BaseMLXError,
    ContextLengthExceeded,
    GenerationFailed,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    QueueFull,
)
from basemlx.engine.openai.fold import ChatFold
from basemlx.engine.openai.service import OpenAIService
from tests.openai.playback import PlaybackEngine, PlayedModel, chat_body

Play = Callable[..., tuple[PlaybackEngine, OpenAIService]]


def completion_body(**fields: Any) -> dict[str, Any]:
    return {"model": "played", "prompt": "Hi", **fields}


def deltas(chunks: list[dict[str, Any]], index: int = 0) -> list[dict[str, Any]]:
    return [part["delta"] for chunk in chunks for part in chunk["choices"] if part["index"] == index]


def test_a_streamed_chat_has_openais_chunks_in_openais_order(play: Play) -> None:
    _, service = play("Hello world")
    turn = service.chat(chat_body(stream=True, stream_options={"include_usage": True}))
    chunks = list(turn)
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    assert turn.stream
    assert deltas(chunks)[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas(chunks)) == "Hello world"
    assert deltas(chunks)[-1] == {}
    reasons = [part["finish_reason"] for chunk in chunks for part in chunk["choices"]]
    assert reasons == [None] * (len(reasons) - 1) + ["stop"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] > 2
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert len({(c["id"], c["created"], c["model"], c["system_fingerprint"]) for c in chunks}) == 1


def test_a_text_that_is_cut_off_within_a_character_ends_before_it(play: Play) -> None:
    text = "gare 🚉🚉, où?"
    _, service = play(text)
    said = [
        service.chat(chat_body(max_tokens=most)).response()["choices"][0]["message"]["content"]
        for most in range(1, 40)
    ]
    assert said[-1] == text
    assert all(text.startswith(each) for each in said)
    assert len(set(said)) < len(said[: said.index(text) + 1])  # the tokenizer has no token for a whole one
    _, service = play("wrong: �")  # said by the model itself
    assert service.chat(chat_body(max_tokens=40)).response()["choices"][0]["message"]["content"] == "wrong: �"


def test_without_include_usage_no_chunk_speaks_of_it(play: Play) -> None:
    _, service = play("Hello")
    assert all("usage" not in chunk for chunk in service.chat(chat_body(stream=True)))


def test_a_whole_response_has_openais_shape(play: Play) -> None:
    _, service = play("Hello world")
    response = service.chat(chat_body(n=2)).response()
    ChatCompletion.model_validate(response)
    assert response["object"] == "chat.completion"
    assert [choice["index"] for choice in response["choices"]] == [0, 1]
    assert response["choices"][1]["message"] == {
        "role": "assistant",
        "content": "Hello world",
        "refusal": None,
    }
    usage = response["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 1}
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 0}
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_reasoning_goes_into_its_own_fields_and_is_counted(play: Play) -> None:
    _, service = play("<think>\nhm, well\n</think>\n\nYes.")
    response = service.chat(chat_body()).response()
    message = response["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"], message["reasoning"]) == (
        "Yes.",
        "hm, well",
        "hm, well",
    )
    reasoning_tokens = response["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert 0 < reasoning_tokens < response["usage"]["completion_tokens"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    says=st.lists(st.sampled_from(["<think>", "</think>", "\n", "東京 🙂", "fox", " END"]), max_size=6).map(
        "".join
    ),
    n=st.integers(1, 2),
    stop=st.sampled_from([[], ["END"], ["\n\n", "x"]]),
    max_tokens=st.integers(1, 30),
    logprobs=st.booleans(),
)
def test_a_whole_response_is_the_fold_of_the_stream(
    play: Play, says: str, n: int, stop: list[str], max_tokens: int, logprobs: bool
) -> None:
    _, service = play(says)
    body = chat_body(n=n, stop=stop, max_tokens=max_tokens, logprobs=logprobs)
    whole = service.chat(body).response()
    fold = ChatFold()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(service.chat(body | options))
    for chunk in chunks:
        fold.add(chunk)
    streamed = fold.response()
    assert {**streamed, "id": ""} == {**whole, "id": ""}
    for index in range(n):
        choice = whole["choices"][index]
        assert choice["finish_reason"] in ("stop", "length")
        assert not any(text in choice["message"]["content"] for text in stop)
        middle = deltas(chunks, index)[1:-1]
        assert all(value for delta in middle for value in delta.values())
        if logprobs and "<think>" not in says:
            tokens = choice["logprobs"]["content"] if choice["logprobs"] else []
            joined = b"".join(bytes(token["bytes"]) for token in tokens).decode("utf-8", "replace")
            assert joined.startswith(choice["message"]["content"])


def test_chat_logprobs_name_tokens_bytes_and_alternatives(play: Play) -> None:
    _, service = play("é")
    choice = service.chat(chat_body(logprobs=True, top_logprobs=2)).response()["choices"][0]
    content = choice["logprobs"]["content"]
    assert b"".join(bytes(token["bytes"]) for token in content) == "é".encode()
    assert [len(token["top_logprobs"]) for token in content] == [2] * len(content)


def test_completions_have_text_offsets_echo_and_an_index_for_every_prompt_and_choice(play: Play) -> None:
    _, service = play(lambda request, choice: f"{len(request.prompt_token_ids)}.{choice}")
    body = completion_body(prompt=["a", "b c d"], n=2, echo=True)
    response = service.completion(body).response()
    Completion.model_validate(response)
    assert [choice["index"] for choice in response["choices"]] == [0, 1, 2, 3]
    texts = [choice["text"] for choice in response["choices"]]
    assert [
        text.startswith(echo) for text, echo in zip(texts, ["a", "a", "b c d", "b c d"], strict=True)
    ] == [True] * 4
    assert [text[-2:] for text in texts] == [".0", ".1", ".0", ".1"]
    logprobs = service.completion(completion_body(logprobs=1)).response()["choices"][0]["logprobs"]
    ends = [
        offset + len(token) for offset, token in zip(logprobs["text_offset"], logprobs["tokens"], strict=True)
    ]
    assert logprobs["text_offset"] == [0, *ends[:-1]]
    assert len(logprobs["token_logprobs"]) == len(logprobs["top_logprobs"]) == len(logprobs["tokens"])


def test_a_completion_may_be_given_as_token_ids_which_the_model_must_have(
    play: Play, played_model: PlayedModel
) -> None:
    engine, service = play("x")
    service.completion(completion_body(prompt=[[5, 6], [7]])).response()
    assert [request.prompt_token_ids for request in engine.requests] == [(5, 6), (7,)]
    for fields, param in (
        ({"prompt": [played_model.vocab_size]}, "prompt"),
        ({"logit_bias": {str(played_model.vocab_size): 1}}, "logit_bias"),
        ({"stop_token_ids": [played_model.vocab_size]}, "stop_token_ids"),
    ):
        with pytest.raises(InvalidRequest) as refusal:
            service.completion(completion_body(**fields))
        assert refusal.value.param == param


async def test_an_event_loop_gets_the_same_chunks(play: Play) -> None:
    _, service = play("<think>a</think>Hello world")
    body = chat_body(stream=True, stream_options={"include_usage": True})
    expected = [chunk["choices"] for chunk in service.chat(body)]
    assert [chunk["choices"] async for chunk in service.chat(body)] == expected
    response = await service.chat(chat_body()).aresponse()
    assert response["choices"][0]["message"]["content"] == "Hello world"


def test_a_prompt_that_does_not_fit_is_refused_by_the_field_to_change(
    play: Play, played_model: PlayedModel
) -> None:
    engine, service = play("x")
    long = "What is the weather in Tokyo? " * 100
    message = {"role": "user", "content": long}
    cases: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
        (service.chat, chat_body(messages=[message]), "messages"),
        (service.completion, completion_body(prompt=long), "prompt"),
        (service.completion, completion_body(prompt=["x", long]), "prompt[1]"),
        (service.completion, completion_body(prompt=[1] * played_model.context_tokens), "prompt"),
        (service.completion, completion_body(max_tokens=played_model.context_tokens), "max_tokens"),
        (service.chat, chat_body(max_completion_tokens=10**6), "max_completion_tokens"),
    ]
    for submit, body, param in cases:
        with pytest.raises(ContextLengthExceeded, match="maximum context length") as refusal:
            submit(body)
        assert refusal.value.param == param
    assert not engine.requests


def test_ten_megabytes_of_prompt_are_refused_within_a_second(play: Play, played_model: PlayedModel) -> None:
    _, service = play("x", replace(played_model, context_tokens=32_768))
    text = "What is the weather in Tokyo? " * 350_000
    user = {"role": "user", "content": text}
    calls = [
        {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Tokyo"}'}}
    ] * 128
    for submit, body in (
        (service.chat, chat_body(messages=[user])),
        (
            service.chat,
            chat_body(
                messages=[user | {"content": "Hi"}, *[{"role": "assistant", "tool_calls": calls}] * 900]
            ),
        ),
        (service.completion, completion_body(prompt=text)),
    ):
        assert min(seconds_to_refuse(submit, body) / second() for _ in range(3)) < 1.0


def second() -> float:
    """What takes this machine, as busy as it is now, as long as a usual one takes for a second."""
    started_s, total = time.thread_time(), 0
    for number in range(2_000_000):
        total += number
    return 16 * (time.thread_time() - started_s)  # 31 ns a turn


def seconds_to_refuse(submit: Callable[..., Any], body: dict[str, Any]) -> float:
    """Of this thread alone, without looking through what other tests left in memory: that is no slow refusal."""
    gc.collect()
    gc.freeze()
    started_s = time.thread_time()
    try:
        with pytest.raises(ContextLengthExceeded):
            submit(body)
        return time.thread_time() - started_s
    finally:
        gc.unfreeze()


def test_a_model_without_a_template_completes_but_does_not_chat(
    play: Play, played_model: PlayedModel
) -> None:
    _, service = play("x", replace(played_model, template=None))
    with pytest.raises(InvalidRequest, match="/v1/completions"):
        service.chat(chat_body())
    service.completion(completion_body()).response()


def test_the_models_own_sampling_settings_are_used_where_the_request_has_none(
    play: Play, played_model: PlayedModel
) -> None:
    engine, service = play("x", replace(played_model, generation_defaults={"temperature": 0.6, "top_k": 20}))
    service.chat(chat_body(temperature=0)).response()
    assert (engine.requests[0].sampling.temperature, engine.requests[0].sampling.top_k) == (0.0, 20)


def test_an_assistant_message_is_continued(play: Play, played_model: PlayedModel) -> None:
    engine, service = play(" world")
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    service.chat(chat_body(messages=messages, continue_final_message=True)).response()
    prompt = played_model.tokenizer.decode(engine.requests[0].prompt_token_ids, skip_special_tokens=False)
    assert prompt.endswith("<|im_start|>assistant\nHello")


def test_if_one_prompt_fails_all_are_given_up(play: Play) -> None:
    engine, service = play("some words here")
    engine.error, engine.error_after = GenerationFailed("broken"), 3
    turn = service.completion(completion_body(prompt=["a", "b", "c"], stream=True))
    with pytest.raises(GenerationFailed):
        list(turn)
    assert not engine.open
    assert len(engine.aborted) == 2
    assert list(turn) == []


def test_if_one_prompt_is_not_taken_none_is(play: Play) -> None:
    engine, service = play("x")
    engine.capacity = 2
    with pytest.raises(QueueFull):
        service.completion(completion_body(prompt=["a", "b", "c"]))
    assert not engine.open


@pytest.mark.parametrize("leave", ["abort", "with", "drop"])
def test_leaving_a_turn_gives_its_requests_up(play: Play, leave: str) -> None:
    engine, service = play("some words here")
    turn = service.completion(completion_body(prompt=["a", "b"], stream=True))
    next(turn)
    if leave == "abort":
        turn.abort()
        turn.abort()
    elif leave == "with":
        with turn:
            pass
    else:
        del turn
        gc.collect()  # the playback's streams are cycles; the engine's are not
    assert not engine.open
    assert len(engine.aborted) == 2


def test_a_request_id_that_is_in_use_is_made_unique(play: Play) -> None:
    engine, service = play("x")
    turns = [service.chat(chat_body(), request_id="mine") for _ in range(2)]
    first, second = (request.request_id for request in engine.requests)
    assert first == turns[0].request_id == "mine"
    assert second.startswith("mine-")


def test_models_are_listed_and_looked_up(play: Play) -> None:
    _, service = play("x")
    [entry] = service.models()["data"]
    assert entry == service.model("played")
    assert (entry["id"], entry["object"], entry["owned_by"], entry["loaded"]) == (
        "played",
        "model",
        "basemlx",
        True,
    )
    assert (entry["context_length"], entry["size_bytes"], entry["quantization"]) == (256, 1000, "4-bit")
    for name in ("other", "../../etc/passwd"):
        with pytest.raises(ModelNotFound):
            service.model(name)


def test_every_refusal_is_of_the_engines_own_kind(play: Play) -> None:
    _, service = play("x")
    for body in ({}, {"model": "other", "messages": [{"role": "user", "content": "x"}]}):
        with pytest.raises(BaseMLXError):
            service.chat(body)


async def test_a_chunk_that_cannot_be_made_gives_the_request_up(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, service = play("a long answer")
    turns = service.chat(chat_body(n=2)), service.chat(chat_body(n=2))
    for turn in turns:
        monkeypatch.setattr(turn._maker, "push", lambda *delta: 1 / 0)
    with pytest.raises(InternalError):
        turns[0].response()
    with pytest.raises(InternalError):
        await turns[1].aresponse()
    assert len(engine.aborted) == 2
    assert not engine.open
