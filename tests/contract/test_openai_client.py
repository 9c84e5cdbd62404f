"""The official client, as its users call it: what it parses, what it raises, what it retries.

`tiny` and `noise` are asked, whose words are not looked at: counts, reasons, equality and types are.
"""

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.resources.chat.completions import Completions as ChatCompletions
from openai.resources.completions import Completions
from openai.types.chat import ChatCompletionMessageFunctionToolCall
from pydantic import BaseModel

from basemlx.engine.openai.service import OpenAIService
from tests.serving import (
    API_KEY,
    LOOPBACK,
    NOISE,
    LiveServer,
    Noise,
    ServerProcess,
    chat_body,
    occupied,
    wait_until,
)

MESSAGES: list[Any] = [{"role": "user", "content": "What is the weather in Tokyo today?"}]
BLIND = {"ignore_eos": True}


@pytest.fixture(scope="module")
def client(served: ServerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served.url}/v1", api_key=API_KEY, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
async def aclient(served: ServerProcess) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{served.url}/v1", api_key=API_KEY, max_retries=0, timeout=60) as client:
        yield client


def test_a_chat(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=NOISE, messages=MESSAGES, max_completion_tokens=6, n=2, seed=1, extra_body=BLIND
    )
    assert answer.object == "chat.completion"
    assert answer.model == NOISE
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice in answer.choices:
        assert choice.finish_reason == "length"
        assert choice.message.role == "assistant"
        assert isinstance(choice.message.content, str)
        assert choice.message.tool_calls is None
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    assert answer.usage.prompt_tokens_details is not None
    assert answer._request_id


def test_a_streamed_chat_joins_to_the_whole_one(client: OpenAI) -> None:
    options: dict[str, Any] = {
        "model": NOISE,
        "messages": MESSAGES,
        "max_tokens": 20,
        "seed": 2,
        "extra_body": BLIND,
    }
    whole = client.chat.completions.create(**options)
    with client.chat.completions.create(
        **options, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 20


def test_the_clients_own_accumulator_understands_the_stream(client: OpenAI) -> None:
    options: dict[str, Any] = {
        "model": NOISE,
        "messages": MESSAGES,
        "max_tokens": 24,
        "seed": 9,
        "extra_body": BLIND,
    }
    text = client.chat.completions.create(**options).choices[0].message.content
    assert text
    with client.chat.completions.stream(**options, stop=text[8:10]) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].finish_reason == "stop"
    assert final.choices[0].message.content == text[: text.index(text[8:10])]


def test_completions_whole_and_streamed(client: OpenAI) -> None:
    options: dict[str, Any] = {
        "model": NOISE,
        "prompt": ["The quick", "A small"],
        "max_tokens": 5,
        "seed": 4,
        "echo": True,
        "extra_body": BLIND,
    }
    whole = client.completions.create(**options)
    assert [choice.index for choice in whole.choices] == [0, 1]
    assert whole.choices[0].text.startswith("The quick")
    assert whole.choices[1].text.startswith("A small")
    texts = ["", ""]
    for chunk in client.completions.create(**options, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]


def test_a_seed_repeats_and_another_does_not(client: OpenAI) -> None:
    def said(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model=NOISE, messages=MESSAGES, max_tokens=24, seed=seed, temperature=1, extra_body=BLIND
        )
        return answer.choices[0].message.content

    assert said(7) == said(7)
    assert said(7) != said(8)


def test_stop_strings_end_the_text_and_are_not_in_it(client: OpenAI) -> None:
    options: dict[str, Any] = {
        "model": NOISE,
        "messages": MESSAGES,
        "max_tokens": 24,
        "seed": 9,
        "extra_body": BLIND,
    }
    text = client.chat.completions.create(**options).choices[0].message.content
    assert text
    stop = text[5:7]
    stopped = client.chat.completions.create(**options, stop=[stop, "never to be seen"])
    assert stopped.choices[0].message.content == text[: text.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"


def test_logprobs_in_both_forms(client: OpenAI) -> None:
    chat = client.chat.completions.create(
        model=NOISE,
        messages=MESSAGES,
        max_tokens=3,
        logprobs=True,
        top_logprobs=2,
        temperature=0,
        extra_body=BLIND,
    )
    assert chat.choices[0].logprobs is not None
    entries = chat.choices[0].logprobs.content
    assert entries is not None
    assert len(entries) == 3
    for entry in entries:
        assert entry.logprob <= 0
        assert len(entry.top_logprobs) == 2
        assert entry.top_logprobs[0].token == entry.token  # greedy takes the best
    legacy = client.completions.create(
        model=NOISE, prompt="Hi", max_tokens=3, logprobs=2, temperature=0, extra_body=BLIND
    )
    logprobs = legacy.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.token_logprobs is not None
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == 3
    assert "".join(logprobs.tokens) == legacy.choices[0].text


def test_models_are_listed_and_retrieved(client: OpenAI) -> None:
    assert {"tiny", NOISE} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("tiny").owned_by == "basemlx"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("org/none")


def test_errors_are_the_clients_own(client: OpenAI) -> None:
    def chat(**fields: Any) -> None:
        body: dict[str, Any] = {"model": NOISE, "messages": MESSAGES, "max_tokens": 1} | fields
        client.chat.completions.create(**body)

    cases: list[tuple[dict[str, Any], type[openai.APIStatusError], str | None, str]] = [
        ({"model": "gpt-5"}, openai.NotFoundError, "model_not_found", "model"),
        ({"temperature": 3}, openai.BadRequestError, None, "temperature"),
        ({"messages": []}, openai.BadRequestError, None, "messages"),
        ({"max_tokens": 10**6}, openai.BadRequestError, "context_length_exceeded", "max_tokens"),
    ]
    for fields, kind, code, param in cases:
        with pytest.raises(kind) as caught:
            chat(**fields)
        error = caught.value
        assert (error.code, error.param) == (code, param)
        assert error.request_id
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="sk-wrong-key-0").models.list()


WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Person(BaseModel):
    name: str
    age: int


def test_a_tool_loop_streamed_and_whole(client: OpenAI) -> None:
    whole = client.chat.completions.create(model="tiny", messages=MESSAGES, tools=[WEATHER], temperature=0)
    (call,) = whole.choices[0].message.tool_calls or []
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    assert whole.choices[0].finish_reason == "tool_calls"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Tokyo"})
    with client.chat.completions.stream(
        model="tiny", messages=MESSAGES, tools=[WEATHER], temperature=0
    ) as stream:
        streamed = stream.get_final_completion().choices[0].message
    (same,) = streamed.tool_calls or []
    assert (same.function.name, same.function.arguments) == (call.function.name, call.function.arguments)
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "sunny, 21 degrees"}
    history: list[Any] = [*MESSAGES, whole.choices[0].message.model_dump(), result]
    answer = client.chat.completions.create(model="tiny", messages=history, tools=[WEATHER], temperature=0)
    assert answer.choices[0].finish_reason == "stop"
    assert "sunny" in (answer.choices[0].message.content or "")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_call_that_is_required_is_made_whatever_the_model_would_say(client: OpenAI, choice: Any) -> None:
    greeting: list[Any] = [{"role": "user", "content": "Hello!"}]
    for seed in range(3):
        answer = client.chat.completions.create(
            model="tiny", messages=greeting, tools=[WEATHER], tool_choice=choice, seed=seed, max_tokens=200
        )
        calls = answer.choices[0].message.tool_calls or []
        assert calls
        assert {call.function.name for call in calls} == {"get_weather"}  # type: ignore[union-attr]
        assert answer.choices[0].message.content is None
    free = client.chat.completions.create(
        model="tiny", messages=MESSAGES, tools=[WEATHER], tool_choice="none", temperature=0
    )
    assert free.choices[0].message.tool_calls is None


def test_a_pydantic_model_is_parsed_from_a_strict_schema(client: OpenAI) -> None:
    asked: list[Any] = [{"role": "user", "content": "Ada is 36 years old. Give name and age as JSON."}]
    parsed = client.chat.completions.parse(
        model="tiny", messages=asked, response_format=Person, temperature=0
    )
    assert parsed.choices[0].message.parsed == Person(name="Ada", age=36)


def test_what_cannot_be_enforced_is_refused_by_name(client: OpenAI) -> None:
    schema = {"type": "array", "items": {"type": "number"}, "uniqueItems": True}
    strict: Any = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": True}}
    cases: list[tuple[str, str, dict[str, Any], str | None]] = [
        ("tools", NOISE, {"tools": [WEATHER]}, "unsupported_parameter"),
        ("tool_choice", "tiny", {"tool_choice": "required"}, None),
        ("response_format.json_schema.schema", "tiny", {"response_format": strict}, "unsupported_schema"),
    ]
    for param, model, fields, code in cases:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=1, **fields)
        assert (caught.value.param, caught.value.code) == (param, code)
    assert "uniqueItems" in caught.value.message
    loose: Any = {"type": "json_schema", "json_schema": {"name": "s", "schema": {**schema, "maxItems": 2}}}
    answer = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=60, response_format=loose, temperature=0
    )
    (outcome,) = (answer.model_extra or {})["basemlx"]["validation"]
    assert outcome["not_enforced"] == [{"keyword": "uniqueItems", "pointer": "/uniqueItems"}]
    assert outcome["valid"] is not bool(outcome["violations"])


# What each parameter of the client may be sent as, and whether it must be taken.
TAKEN: dict[str, Any] = {
    "frequency_penalty": 0.5, "logit_bias": {"5": 1}, "logprobs": True, "max_completion_tokens": 1, "max_tokens": 1,
    "n": 2, "presence_penalty": 0.5, "reasoning_effort": "low", "seed": 1, "stop": ["x"], "temperature": 0.5,
    "top_p": 0.9, "stream": False, "metadata": {"a": "b"}, "modalities": ["text"], "moderation": {"model": "m"},
    "parallel_tool_calls": True, "prediction": {"type": "content", "content": "x"}, "prompt_cache_key": "k",
    "prompt_cache_options": {}, "prompt_cache_retention": "24h", "safety_identifier": "s", "service_tier": "auto",
    "store": True, "user": "me", "verbosity": "low", "response_format": {"type": "text"}, "tool_choice": "none",
    "tools": [], "functions": [], "function_call": "none", "echo": True, "best_of": 1, "suffix": "",
}  # fmt: skip
REFUSED: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "wav"},
    "web_search_options": {},
    "modalities": ["text", "audio"],
    "suffix": "end",
    "best_of": 4,
    "function_call": {"name": "f"},  # of no functions
    "tool_choice": "required",  # of no tools
    "response_format": {"type": "xml"},
    "stream_options": {"include_usage": True},  # without stream
    "top_logprobs": 2,  # without logprobs
}
OWN = {"self", "model", "messages", "prompt", "extra_headers", "extra_query", "extra_body", "timeout"}


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_every_parameter_of_the_client_is_taken_or_refused_by_name(path: str, client: OpenAI) -> None:
    """A newer client brings parameters that this does not know: then it fails, and they have to be decided about."""
    resource = ChatCompletions if path.startswith("chat") else Completions
    base: dict[str, Any] = {"model": NOISE, "max_tokens": 1}
    base |= {"messages": MESSAGES} if path.startswith("chat") else {"prompt": "x"}

    def post(body: dict[str, Any]) -> httpx.Response:
        return httpx.post(f"{client.base_url}{path}", json=body, headers=client.auth_headers, timeout=60)

    for name in sorted(set(inspect.signature(resource.create).parameters) - OWN):
        assert name in TAKEN or name in REFUSED, f"{name} is new"
        if name in TAKEN:
            value = 2 if (name, path) == ("logprobs", "completions") else TAKEN[name]
            answer = post(base | {name: value})
            assert answer.status_code == 200, (name, answer.text)
            assert "x-basemlx-ignored" not in answer.headers, name
        if name in REFUSED:
            answer = post(base | {name: REFUSED[name]})
            error = answer.json()["error"]
            assert (answer.status_code, error["param"].split(".")[0]) == (400, name)


async def test_the_asynchronous_client(aclient: AsyncOpenAI) -> None:
    whole, other = await asyncio.gather(
        *(
            aclient.chat.completions.create(
                model=NOISE, messages=MESSAGES, max_tokens=12, seed=seed, extra_body=BLIND
            )
            for seed in (1, 2)
        )
    )
    stream = await aclient.chat.completions.create(
        model=NOISE, messages=MESSAGES, max_tokens=12, seed=1, extra_body=BLIND, stream=True
    )
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == whole.choices[0].message.content
    assert text != other.choices[0].message.content
    completion = await aclient.completions.create(model=NOISE, prompt="Hi", max_tokens=3, extra_body=BLIND)
    assert completion.choices[0].finish_reason == "length"
    with pytest.raises(openai.BadRequestError):
        await aclient.chat.completions.create(model=NOISE, messages=MESSAGES, n=99)


async def test_a_cancelled_task_ends_its_generation(noise: Noise) -> None:
    with LiveServer(noise) as live:
        async with AsyncOpenAI(
            base_url=f"http://{LOOPBACK}:{live.port}/v1", api_key="none", max_retries=0
        ) as client:
            create = client.chat.completions.create(
                model=NOISE, messages=MESSAGES, max_tokens=1900, extra_body=BLIND
            )
            task = asyncio.create_task(create)
            while noise.engine.health().running == 0:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        noise.check_idle()
        assert noise.finished[-1].finish_reasons == ("abort",)


def test_breaking_out_of_a_stream_ends_its_generation(noise: Noise) -> None:
    with LiveServer(noise) as live:
        with OpenAI(base_url=f"http://{LOOPBACK}:{live.port}/v1", api_key="none", max_retries=0) as client:
            stream = client.chat.completions.create(
                model=NOISE, messages=MESSAGES, max_tokens=1900, stream=True, extra_body=BLIND
            )
            with stream:
                next(iter(stream))
        noise.check_idle()
        assert noise.finished[-1].finish_reasons == ("abort",)


def test_an_error_in_the_middle_of_a_stream_is_raised(noise: Noise) -> None:
    with (
        LiveServer(noise) as live,
        OpenAI(base_url=f"http://{LOOPBACK}:{live.port}/v1", api_key="none", max_retries=0) as client,
    ):
        stream = client.chat.completions.create(
            model=NOISE, messages=MESSAGES, max_tokens=1900, stream=True, extra_body=BLIND | {"timeout": 0.3}
        )
        chunks: list[Any] = []
        with pytest.raises(openai.APIError, match="deadline"):
            chunks.extend(stream)
        assert chunks


def test_a_full_server_is_a_rate_limit_that_retries_get_over(noise: Noise) -> None:
    with (
        LiveServer(noise) as live,
        OpenAI(base_url=f"http://{LOOPBACK}:{live.port}/v1", api_key="none", max_retries=0) as client,
        occupied(noise, 4) as free,
        OpenAIService(noise.engine).chat(chat_body(n=4)),  # the queue is full as well
        ThreadPoolExecutor(1) as threads,
    ):

        def ask(max_retries: int) -> Any:
            return client.with_options(max_retries=max_retries).chat.completions.create(
                model=NOISE, messages=MESSAGES, max_tokens=1
            )

        with pytest.raises(openai.RateLimitError) as caught:
            ask(max_retries=0)
        assert caught.value.code == "queue_full"
        assert int(caught.value.response.headers["retry-after"]) >= 1
        patient = threads.submit(ask, max_retries=5)
        wait_until(lambda: b'status="429"} 2.0' in live.metrics.render(), "its first refusal")
        free()
        assert patient.result().choices
    noise.check_idle()
