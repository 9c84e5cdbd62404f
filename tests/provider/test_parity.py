"""Two transports, one engine: every answer and refusal is the same, streamed or not, for threads and for loops."""

from typing import Any

import pytest

from basemlx.engine.errors import BaseMLXError, ModelNotFound
from basemlx.provider.backend import Backend, Chunk
from tests.provider.parity import (
    CHATS,
    EMBEDDING_REFUSALS,
    EMBEDDINGS,
    REFUSALS,
    body_of,
    error_facts,
    without_identity,
)
from tests.serving import Noise, chat_body, occupied

Both = tuple[Backend, Backend]


async def all_ways(backend: Backend, body: dict[str, Any]) -> list[Any]:
    """The answer in each of the four ways, without what differs by nature."""
    streaming = body | {"stream_options": {"include_usage": True}}
    stream = await backend.achat_stream(streaming)
    return without_identity(
        [
            backend.chat(body),
            await backend.achat(body),
            list(backend.chat_stream(streaming)),
            [chunk async for chunk in stream],
        ]
    )


RARER = (
    "tools auto",
    "tools none",
    "tools required",
    "tool messages",
    "json object",
    "reasoning, then a tool",
)
"""Of whose kind another case is run always; these with -m slow."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in RARER else name for name in CHATS]
)
async def test_every_answer_is_the_same_in_both_transports(both: Both, name: str) -> None:
    local, http = both
    here = await all_ways(local, body_of(name))
    there = await all_ways(http, body_of(name))
    assert here == there
    whole, awhole, streamed, astreamed = here
    assert (whole, streamed) == (awhole, astreamed)
    assert whole["usage"] == streamed[-1]["usage"]
    message = whole["choices"][0]["message"]
    if name in ("tools required", "tools named", "reasoning, then a tool"):
        assert message["tool_calls"][0]["function"]["name"] == "get_weather"
    if name in ("reasoning", "reasoning, then a tool"):
        assert message["reasoning_content"]
        assert whole["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
        deltas = [chunk["choices"][0]["delta"] for chunk in streamed if chunk["choices"]]
        assert sum("reasoning_content" in delta for delta in deltas) > 1


async def test_cached_tokens_are_told_in_both_transports(both: Both) -> None:
    """A prompt that nobody has asked before, then again in each way."""
    text = (
        "A prefix of its own, long enough to be worth keeping: one two three four five six seven eight nine."
    )
    body = chat_body(messages=[{"role": "user", "content": text}])
    first = both[0].chat(body)["usage"]["prompt_tokens_details"]["cached_tokens"]
    usages = []
    for backend in both:
        streamed = list(backend.chat_stream(body | {"stream_options": {"include_usage": True}}))
        usages += [backend.chat(body)["usage"], (await backend.achat(body))["usage"], streamed[-1]["usage"]]
    assert usages == usages[:1] * 6
    assert first < usages[0]["prompt_tokens_details"]["cached_tokens"] < usages[0]["prompt_tokens"]


def test_text_completions_are_the_same(both: Both) -> None:
    body = {"model": "noise", "prompt": ["The quick", "A small"], "max_tokens": 5, "seed": 3, "logprobs": 2}
    here, there = (without_identity(backend.completion(body)) for backend in both)
    assert here == there
    assert len(here["choices"]) == 2
    streams = [without_identity(list(backend.completion_stream(body))) for backend in both]
    assert streams[0] == streams[1]


async def test_text_completions_are_the_same_for_loops(both: Both) -> None:
    body = {"model": "noise", "prompt": "The quick", "max_tokens": 5, "seed": 3}
    here, there = [without_identity(await backend.acompletion(body)) for backend in both]
    assert here == there
    chunks: list[list[Chunk]] = []
    for backend in both:
        chunks.append(without_identity([chunk async for chunk in await backend.acompletion_stream(body)]))
    assert chunks[0] == chunks[1]


@pytest.mark.parametrize("name", REFUSALS)
async def test_every_refusal_is_the_same_in_both_transports(both: Both, name: str) -> None:
    facts = []
    for backend in both:
        with pytest.raises(BaseMLXError) as whole:
            backend.chat(body_of(name))
        with pytest.raises(BaseMLXError) as awhole:
            await backend.achat(body_of(name))
        with pytest.raises(BaseMLXError) as streamed:
            list(backend.chat_stream(body_of(name)))
        with pytest.raises(BaseMLXError) as astreamed:
            async for _ in await backend.achat_stream(body_of(name)):
                pass
        facts += [error_facts(info.value) for info in (whole, awhole, streamed, astreamed)]
    assert facts == facts[:1] * 8


def test_a_full_queue_is_the_same_and_says_when_to_try_again(both: Both, noise: Noise) -> None:
    with occupied(noise, 4), occupied_queue(both[0]):
        errors = []
        for backend in both:
            with pytest.raises(BaseMLXError) as info:
                backend.chat_stream(chat_body())
            errors.append(info.value)
    assert error_facts(errors[0]) == error_facts(errors[1])
    assert errors[0].status == 429
    assert errors[1].retry_after_s == errors[0].retry_after_s
    noise.check_idle()


def occupied_queue(local: Backend) -> Any:
    """The engine's queue of four is full."""
    return local.chat_stream(chat_body(n=4, max_tokens=1900))


def test_what_holds_something_that_json_cannot_is_refused_by_both(both: Both) -> None:
    facts = []
    for backend in both:
        with pytest.raises(BaseMLXError) as info:
            backend.chat(chat_body(metadata={"x": object()}))
        facts.append(error_facts(info.value))
    assert facts[0] == facts[1]


async def test_models_and_their_tokens_are_the_same(both: Both) -> None:
    local, http = both
    assert local.models() == http.models() == await local.amodels() == await http.amodels()
    assert "noise" in {entry["id"] for entry in local.models()["data"]}
    for body in (chat_body(), {"model": "noise", "prompt": "The quick brown fox"}):
        tokens = local.tokenize(body)
        assert tokens == http.tokenize(body) == await local.atokenize(body) == await http.atokenize(body)
        assert tokens["count"] == len(tokens["tokens"]) > 0
    used = local.chat(chat_body())["usage"]["prompt_tokens"]
    assert local.tokenize(chat_body())["count"] == used


def test_an_unknown_model_has_no_tokens(backend: Backend) -> None:
    with pytest.raises(ModelNotFound):
        backend.tokenize({"model": "nobody/nothing", "prompt": "x"})


@pytest.mark.parametrize("name", EMBEDDINGS)
async def test_every_embedding_is_the_same_in_both_transports(both: Both, name: str, vectors: str) -> None:
    body = {"model": vectors} | EMBEDDINGS[name]
    answers = []
    for backend in both:
        answers += [backend.embeddings(body), await backend.aembeddings(body)]
    assert answers == answers[:1] * 4
    assert [entry["index"] for entry in answers[0]["data"]] == list(range(len(answers[0]["data"])))
    assert answers[0]["usage"]["prompt_tokens"] > 0


@pytest.mark.parametrize("name", EMBEDDING_REFUSALS)
async def test_every_refusal_to_embed_is_the_same_in_both_transports(
    both: Both, name: str, vectors: str
) -> None:
    body = {"model": vectors} | EMBEDDING_REFUSALS[name]
    facts = []
    for backend in both:
        with pytest.raises(BaseMLXError) as info:
            backend.embeddings(body)
        with pytest.raises(BaseMLXError) as ainfo:
            await backend.aembeddings(body)
        facts += [error_facts(info.value), error_facts(ainfo.value)]
    assert facts == facts[:1] * 4


def test_fields_that_nobody_knows_are_named_in_both(both: Both) -> None:
    for backend in both:
        with backend.chat_stream(chat_body(frobnicate=1)) as stream:
            assert stream.ignored == ("frobnicate",)
