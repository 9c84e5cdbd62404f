"""LiteLLM over the provider: `basemlx/…` here and at a server, beside LiteLLM's own `openai/…` at the same server."""

import asyncio
import contextlib
import gc
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

litellm = pytest.importorskip("litellm", reason="the extra litellm is not installed")

import openai  # noqa: E402

import basemlx  # noqa: E402
import basemlx.provider.litellm  # noqa: E402
from basemlx.engine.engine import Engine  # noqa: E402
from basemlx.engine.models.discovery import built_in_folder  # noqa: E402
from basemlx.provider.connect import use_engine  # noqa: E402
from basemlx.provider.litellm import handler  # noqa: E402
from basemlx.provider.local import LocalBackend  # noqa: E402
from basemlx.server.settings import ServerSettings  # noqa: E402
from tests.provider.parity import CHATS, UNENFORCEABLE, without_identity  # noqa: E402
from tests.provider.quiet import QUIET  # noqa: E402
from tests.serving import LiveServer, Noise, chat_body, occupied, wait_until  # noqa: E402
from tests.transports import answering  # noqa: E402

pytestmark = QUIET

EXTRA_FIELDS = ("ignore_eos", "min_p", "top_k", "chat_template_kwargs", "stop_token_ids")
NOT_LITELLMS = ("reasoning_effort",)


@pytest.fixture(scope="module", autouse=True)
def here(local: LocalBackend) -> Iterator[None]:
    before = use_engine(local)
    yield
    use_engine(before)


@pytest.fixture(params=["local", "http"])
def where(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Nothing, or the server's address."""
    return {} if request.param == "local" else {"api_base": request.getfixturevalue("api_base")}


def call(provider: str = "basemlx", **fields: Any) -> dict[str, Any]:
    """A body as arguments of litellm.completion."""
    arguments = chat_body(**fields)
    arguments["model"] = f"{provider}/{arguments['model']}"
    allowed = [name for name in NOT_LITELLMS if name in arguments]
    if allowed:
        arguments["allowed_openai_params"] = allowed
    if provider == "openai":
        extra = {name: arguments.pop(name) for name in EXTRA_FIELDS if name in arguments}
        arguments |= {"extra_body": extra, "api_key": "none"}
    return arguments


def facts_of(answer: Any) -> Any:
    return without_identity(answer.model_dump())


ALWAYS = ("plain", "logprobs", "stop", "developer and parts", "two choices", "tools named", "reasoning")
"""The rest of the matrix is run with -m slow."""


def cases(names: Iterable[str], *more: Any) -> list[Any]:
    return [
        pytest.param(name, *more, marks=() if name in ALWAYS else pytest.mark.slow, id=name) for name in names
    ]


@pytest.mark.parametrize("name", cases(CHATS))
def test_whole_answers_equal_those_of_litellms_openai_provider(name: str, api_base: str) -> None:
    fields = CHATS[name]
    here = litellm.completion(**call(**fields))
    there = litellm.completion(**call(**fields), api_base=api_base)
    openai = litellm.completion(**call("openai", **fields), api_base=api_base)
    assert facts_of(here) == facts_of(there) == facts_of(openai)
    assert bool(getattr(here.choices[0].message, "reasoning_content", None)) == (name in REASONED)


REASONED = ("reasoning", "reasoning, then a tool")


@pytest.mark.parametrize(
    ("name", "include_usage"),
    [
        *cases([name for name in CHATS if "n" not in CHATS[name]], True),
        pytest.param("plain", False, id="plain, no usage"),
    ],
)
async def test_streams_equal_those_of_litellms_openai_provider(
    name: str, include_usage: bool, api_base: str
) -> None:
    fields = CHATS[name] | {"stream": True}
    if include_usage:
        fields |= {"stream_options": {"include_usage": True}}
    here = list(litellm.completion(**call(**fields)))
    there = list(litellm.completion(**call(**fields), api_base=api_base))
    ahere = [chunk async for chunk in await litellm.acompletion(**call(**fields))]
    athere = [chunk async for chunk in await litellm.acompletion(**call(**fields), api_base=api_base)]
    openai = list(litellm.completion(**call("openai", **fields), api_base=api_base))
    expected = stream_facts(openai)
    assert [stream_facts(chunks) for chunks in (here, there, ahere, athere)] == [expected] * 4
    deltas = [chunk.choices[0].delta for chunk in here if chunk.choices]
    assert any(getattr(delta, "reasoning_content", None) for delta in deltas) == (name in REASONED)


def stream_facts(chunks: list[Any]) -> list[Any]:
    """Without nulls, of which OpenAI's client adds some, and without the fingerprint, which the chunks that LiteLLM
    makes itself (finish reason, usage) do not have."""
    assert len({chunk.created for chunk in chunks}) <= 2  # LiteLLM's clock may have ticked
    facts = [without_identity(chunk.model_dump(exclude_none=True)) for chunk in chunks]
    for fact in facts:
        fact.pop("system_fingerprint", None)
    return facts


def test_a_stream_folds_to_the_whole_answer_with_exact_usage(where: dict[str, Any]) -> None:
    whole = litellm.completion(**call(seed=4, max_tokens=12), **where)
    chunks = list(litellm.completion(**call(seed=4, max_tokens=12), stream=True, **where))
    built = litellm.stream_chunk_builder(chunks)
    assert built.choices[0].message.content == whole.choices[0].message.content
    assert built.usage.completion_tokens == whole.usage.completion_tokens == 12
    assert built.usage.prompt_tokens == whole.usage.prompt_tokens


def test_logprobs_come_with_a_stream(where: dict[str, Any]) -> None:
    chunks = list(litellm.completion(**call(seed=2, logprobs=True, top_logprobs=2), stream=True, **where))
    found = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices and chunk.choices[0].logprobs]
    assert sum(len(item["content"] if isinstance(item, dict) else item.content) for item in found) == 4


def test_several_choices_come_whole_and_are_refused_streamed(where: dict[str, Any]) -> None:
    assert len(litellm.completion(**call(n=2), **where).choices) == 2
    with pytest.raises(litellm.BadRequestError, match="n above 1 cannot be streamed"):
        litellm.completion(**call(n=2, stream=True), **where)


# (fields, class, what the message must have)
REFUSALS: dict[str, tuple[dict[str, Any], str, str]] = {
    "model": ({"model": "nobody/nothing"}, "NotFoundError", "does not exist"),
    "context": ({"max_tokens": 10**6}, "ContextWindowExceededError", "maximum context length"),
    "range": ({"temperature": 9}, "BadRequestError", "temperature must be between"),
    "schema": ({"response_format": UNENFORCEABLE}, "BadRequestError", "'uniqueItems' at /uniqueItems"),
    "deadline": ({"max_tokens": 1500, "timeout": 0.05}, "Timeout", "deadline"),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_refusals_are_litellms_own_classes_raised_by_the_call(name: str, where: dict[str, Any]) -> None:
    fields, kind, message = REFUSALS[name]
    expected = getattr(litellm, kind)
    with pytest.raises(expected, match=message):
        litellm.completion(**call(**fields), **where)
    with pytest.raises(expected, match=message):
        await litellm.acompletion(**call(**fields), **where)
    with pytest.raises(expected, match=message):
        list(litellm.completion(**call(**fields), stream=True, **where))
    with pytest.raises(expected, match=message):
        async for _ in await litellm.acompletion(**call(**fields), stream=True, **where):
            pass


@pytest.mark.parametrize("name", [name for name in REFUSALS if name != "deadline"])
def test_refusals_equal_those_of_litellms_openai_provider(name: str, api_base: str) -> None:
    fields, _, _ = REFUSALS[name]
    told = []
    for asked in (
        call(**fields),
        call(**fields) | {"api_base": api_base},
        call("openai", **fields) | {"api_base": api_base},
    ):
        with pytest.raises(openai.OpenAIError) as info:  # whose classes LiteLLM's are
            litellm.completion(**asked, num_retries=0)
        error = info.value
        # LiteLLM drops the body where its own provider meets these two; every message names its provider.
        has_body = not isinstance(error, litellm.ContextWindowExceededError | litellm.NotFoundError)
        body = {key: error.body[key] for key in ("code", "param", "type")} if has_body else None
        told.append((type(error), error.status_code, body))
    assert told[0] == told[1] == told[2]


async def test_a_full_queue_is_a_rate_limit_error_of_the_call_itself(
    where: dict[str, Any], noise: Noise, local: LocalBackend
) -> None:
    with occupied(noise, 4), local.chat_stream(chat_body(n=4, max_tokens=1900)):
        with pytest.raises(litellm.RateLimitError) as info:
            litellm.completion(**call(), **where)
        assert info.value.status_code == 429
        assert info.value.response.headers["retry-after"]
        with pytest.raises(litellm.RateLimitError):
            litellm.completion(**call(), stream=True, **where)
        with pytest.raises(litellm.RateLimitError):
            await litellm.acompletion(**call(), stream=True, **where)
    noise.check_idle()


async def test_an_engine_that_drains_is_a_service_that_is_unavailable() -> None:
    with Engine() as engine, LocalBackend(engine=engine) as backend:
        engine.drain(0)
        before = use_engine(backend)
        try:
            for stream in (False, True):
                with pytest.raises(litellm.ServiceUnavailableError, match="shutting down"):
                    litellm.completion(**call(model="tiny"), stream=stream)
                with pytest.raises(litellm.ServiceUnavailableError, match="shutting down"):
                    await litellm.acompletion(**call(model="tiny"), stream=stream)
        finally:
            use_engine(before)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, "AuthenticationError"),
        (403, "PermissionDeniedError"),
        (404, "NotFoundError"),
        (408, "Timeout"),
        (418, "BadRequestError"),
        (429, "RateLimitError"),
        (499, "BadRequestError"),
        (500, "InternalServerError"),
        (502, "BadGatewayError"),
        (503, "ServiceUnavailableError"),
        (504, "Timeout"),
    ],
)
def test_a_status_of_a_server_is_litellms_class(status: int, kind: str, stream: bool) -> None:
    """Of whatever stands before the engine as well."""
    head = f"HTTP/1.1 {status} No\r\nretry-after: 3\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno"
    with answering(head.encode()) as base, pytest.raises(openai.OpenAIError) as info:
        litellm.completion(**call(), api_base=base, stream=stream, num_retries=0)
    assert type(info.value) is getattr(litellm, kind)
    if status in (429, 503):
        assert info.value.response.headers["retry-after"] == "3"


def test_nobody_at_the_address_is_a_connection_error() -> None:
    with pytest.raises(litellm.APIConnectionError, match="No server answers"):
        litellm.completion(**call(), api_base="http://127.0.0.1:9/v1")
    with pytest.raises(litellm.BadRequestError, match="api_base must be a URL"):
        litellm.completion(**call(), api_base="nowhere")
    with pytest.raises(litellm.BadRequestError, match=r"api_key .* has characters") as info:
        litellm.completion(**call(), api_base="http://127.0.0.1:9/v1", api_key="sk-canary\n")
    assert "canary" not in str(info.value)


def test_the_servers_address_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASEMLX_API_BASE", "http://127.0.0.1:9/v1")
    with pytest.raises(litellm.APIConnectionError, match="No server answers"):
        litellm.completion(**call())


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"min_p": 7}, "min_p"),
        ({"top_k": -5}, "top_k"),
        ({"chat_template_kwargs": {"messages": 1}}, "chat_template_kwargs.messages"),
        ({"extra_body": {"min_p": 7}, "min_p": 0.1}, "min_p"),
        ({"extra_body": {"reasoning_effort": "vast"}}, "reasoning_effort"),
        ({"reasoning_effort": "vast"}, "reasoning_effort"),
        ({"seed": 2**70}, "seed"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"stop": ["x" * 1000]}, "stop"),
        ({"audio": {"voice": "x"}}, "audio"),
    ],
)
def test_what_is_asked_reaches_the_engine_which_names_what_is_wrong(
    fields: dict[str, Any], named: str, where: dict[str, Any]
) -> None:
    with pytest.raises(litellm.BadRequestError) as info:
        litellm.completion(**call(**fields), **where)
    assert named in str(info.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "tiny"),
        ("messages", [{"role": "user", "content": "Something else."}]),
        ("input", "x"),
        ("stream", True),
        (None, "no object"),
    ],
)
def test_extra_body_cannot_change_what_is_asked_of_whom(
    name: str | None, value: Any, where: dict[str, Any], vectors: str
) -> None:
    extra = value if name is None else {name: value}
    named = "extra_body" if name is None else f"extra_body.{name}"
    with pytest.raises(litellm.BadRequestError) as info:
        litellm.completion(**call(extra_body=extra), **where)
    assert info.value.body["param"] == named
    with pytest.raises(litellm.BadRequestError) as info:
        litellm.embedding(model=f"basemlx/{vectors}", input=["a fox"], extra_body=extra, **where)
    assert info.value.body["param"] == named


def test_extra_body_adds_fields_and_wins_over_parameters(where: dict[str, Any]) -> None:
    asked = call(max_tokens=4, seed=1)
    repeated = {"model": "noise", "messages": asked["messages"], "stream": False}
    plain = litellm.completion(**asked, **where)
    longer = litellm.completion(**asked, extra_body=repeated | {"max_tokens": 6}, **where)
    assert (plain.usage.completion_tokens, longer.usage.completion_tokens) == (4, 6)
    assert longer.choices[0].message.content.startswith(plain.choices[0].message.content)
    streamed = litellm.completion(**asked, stream=True, extra_body={"stream": True, "max_tokens": 6}, **where)
    assert text_of(streamed) == longer.choices[0].message.content
    with pytest.raises(litellm.BadRequestError, match="n above 1 cannot be streamed"):
        litellm.completion(**asked, stream=True, extra_body={"n": 2}, **where)


def test_a_pydantic_class_as_response_format_reaches_the_engine(where: dict[str, Any]) -> None:
    from pydantic import BaseModel

    class Answer(BaseModel):
        yes: bool

    answer = litellm.completion(**call(response_format=Answer, max_tokens=200), **where)
    assert isinstance(Answer.model_validate_json(answer.choices[0].message.content).yes, bool)


def test_litellms_own_messages_can_be_sent_back(where: dict[str, Any]) -> None:
    first = litellm.completion(**call(), **where).choices[0].message
    call_ = litellm.ChatCompletionMessageToolCall(
        id="call_1", type="function", function=litellm.types.utils.Function(name="get", arguments="{}")
    )
    messages = [
        {"role": "user", "content": "Hi"},
        first,
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call_]},
        {"role": "tool", "tool_call_id": "call_1", "name": "get", "content": "Rain"},
    ]
    answer = litellm.completion(**call(messages=messages), **where)
    assert answer.choices[0].message.content


# embeddings


async def test_embeddings_equal_those_of_litellms_openai_provider(api_base: str, vectors: str) -> None:
    texts = ["a fox", "the weather in tokyo"]
    asked = {"model": f"basemlx/{vectors}", "input": texts}
    theirs = litellm.embedding(model=f"openai/{vectors}", input=texts, api_base=api_base, api_key="none")
    answers = [litellm.embedding(**asked), litellm.embedding(**asked, api_base=api_base)]
    answers += [await litellm.aembedding(**asked), await litellm.aembedding(**asked, api_base=api_base)]
    assert [facts_of(answer) for answer in answers] == [facts_of(theirs)] * 4
    assert [len(entry["embedding"]) for entry in answers[0].data] == [32, 32]
    assert answers[0]._hidden_params["response_cost"] == 0


async def test_embeddings_take_what_litellm_lets_through(where: dict[str, Any], vectors: str) -> None:
    asked = {"model": f"basemlx/{vectors}", "input": ["a fox"], **where}
    short = litellm.embedding(**asked, extra_body={"dimensions": 8})
    assert len(short.data[0]["embedding"]) == 8
    with pytest.raises(litellm.BadRequestError, match="dimensions"):
        await litellm.aembedding(**asked, extra_body={"dimensions": 33})
    with pytest.raises(litellm.BadRequestError, match="embed"):
        litellm.embedding(**asked | {"model": "basemlx/noise"})
    with pytest.raises(litellm.NotFoundError):
        await litellm.aembedding(**asked | {"model": "basemlx/nobody/nothing"})


# what LiteLLM builds on top


def test_registering_is_idempotent_and_survives_an_assignment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litellm, "custom_provider_map", [])
    basemlx.register()
    basemlx.register()
    [entry] = litellm.custom_provider_map
    assert entry["custom_handler"] is not handler, "a proxy's own, which takes no folders"
    litellm.custom_provider_map = [{"provider": "basemlx", "custom_handler": handler}]
    basemlx.register()
    assert len(litellm.custom_provider_map) == 1, "what a proxy was told stands"


def test_capabilities_and_a_cost_of_nothing_are_known() -> None:
    for model in ("basemlx/tiny", "basemlx/qwen3-4b", "basemlx/mlx-community/Qwen3-4B-Instruct-2507-4bit"):
        assert litellm.supports_function_calling(model)
        assert litellm.supports_response_schema(model)
        assert litellm.get_model_info(model)["input_cost_per_token"] == 0
    assert litellm.supports_reasoning("basemlx/qwen3-8b")
    assert not litellm.supports_reasoning("basemlx/qwen3-4b")
    assert not litellm.supports_vision("basemlx/tiny")
    answer = litellm.completion(**call())
    assert answer._hidden_params["response_cost"] == 0
    assert litellm.completion_cost(answer, model="basemlx/noise") == 0
    assert "temperature" in litellm.get_supported_openai_params("noise", "basemlx")


async def test_a_model_is_registered_once_it_has_taken_a_request(where: dict[str, Any], vectors: str) -> None:
    """A name that does not exist leaves nothing behind in LiteLLM's tables, whatever was asked."""
    nobody: dict[str, Any] = {"model": "basemlx/nobody/at-all", **where}
    asked = call() | nobody
    for refused in (
        lambda: litellm.completion(**asked),
        lambda: litellm.completion(**asked, stream=True),
        lambda: litellm.embedding(**nobody, input=["x"]),
    ):
        with pytest.raises(litellm.NotFoundError):
            refused()
    with pytest.raises(litellm.NotFoundError):
        await litellm.acompletion(**asked)
    with pytest.raises(litellm.NotFoundError):
        await litellm.acompletion(**asked, stream=True)
    with pytest.raises(litellm.NotFoundError):
        await litellm.aembedding(**nobody, input=["x"])
    assert not [name for name in litellm.model_cost if "nobody" in name]
    chats: tuple[dict[str, Any], ...] = ({}, {"stream": True})
    for options in chats:
        litellm.model_cost.pop("basemlx/noise", None)
        litellm.completion(**call(), **options, **where)
        assert litellm.get_model_info("basemlx/noise")["mode"] == "chat"
    litellm.model_cost.pop(f"basemlx/{vectors}", None)
    litellm.embedding(model=f"basemlx/{vectors}", input=["x"], **where)
    assert litellm.get_model_info(f"basemlx/{vectors}")["mode"] == "embedding"


async def test_the_router_sees_refusals_by_their_class(where: dict[str, Any]) -> None:
    params = {"model": "basemlx/noise", **where}
    router = litellm.Router(model_list=[{"model_name": "small", "litellm_params": params}], num_retries=0)
    body = chat_body(model="small", seed=1)
    answer = await router.acompletion(**body)
    assert answer.choices[0].message.content == router.completion(**body).choices[0].message.content
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        await router.acompletion(**body, temperature=9)
    chunks = [chunk async for chunk in await router.acompletion(**body, stream=True)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


async def test_callbacks_are_told_usage_provider_and_cost(api_base: str) -> None:
    """Both transports in one test: LiteLLM's logging stays with the event loop that it first saw."""
    from litellm.integrations.custom_logger import CustomLogger

    told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    class Recorder(CustomLogger):  # type: ignore[misc]
        async def async_log_success_event(
            self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
        ) -> None:
            await told.put(kwargs["standard_logging_object"])

    recorder = Recorder()
    litellm.callbacks.append(recorder)
    events = []
    try:
        for where in ({}, {"api_base": api_base}):
            await litellm.acompletion(**call(max_tokens=5), **where)
            events.append(await asyncio.wait_for(told.get(), 30))
            async for _ in await litellm.acompletion(**call(max_tokens=5), stream=True, **where):
                pass
            events.append(await asyncio.wait_for(told.get(), 30))
    finally:
        litellm.callbacks.remove(recorder)
    for event in events:
        assert event["custom_llm_provider"] == "basemlx"
        assert event["completion_tokens"] == 5
        assert event["prompt_tokens"] == events[0]["prompt_tokens"] > 0
        assert event["response_cost"] == 0


async def test_text_completions_go_through_the_chat(where: dict[str, Any]) -> None:
    asked = {"model": "basemlx/noise", "prompt": "The quick", "max_tokens": 4, "ignore_eos": True, "seed": 1}
    answer = litellm.text_completion(**asked, **where)
    assert answer.choices[0].text
    assert answer.usage.completion_tokens == 4
    streamed = [
        chunk.choices[0].text or "" for chunk in litellm.text_completion(**asked, **where, stream=True)
    ]
    stream = await litellm.atext_completion(**asked, **where, stream=True)
    astreamed = [chunk.choices[0].text or "" async for chunk in stream]
    assert "".join(streamed) == "".join(astreamed) == answer.choices[0].text


async def test_responses_go_through_the_chat(where: dict[str, Any]) -> None:
    asked = {
        "model": "basemlx/noise",
        "input": "Hi",
        "max_output_tokens": 8,
        "extra_body": {"seed": 1},
        **where,
    }
    response = await litellm.aresponses(**asked)
    assert 0 < response.usage.output_tokens <= 8
    text = response.output[-1].content[0].text
    assert text
    events = [event async for event in await litellm.aresponses(**asked, stream=True)]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == text
    assert events[-1].type in ("response.completed", "response.incomplete")
    assert events[-1].response.usage.output_tokens == response.usage.output_tokens


async def test_anthropics_messages_go_through_the_chat(where: dict[str, Any]) -> None:
    asked = {
        "model": "basemlx/noise",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 8,
        "temperature": 0,
        **where,
    }
    message = await litellm.anthropic.messages.acreate(**asked)
    assert 0 < message["usage"]["output_tokens"] <= 8
    text = "".join(block["text"] for block in message["content"] if block["type"] == "text")
    assert text
    raw = b""
    async for piece in await litellm.anthropic.messages.acreate(**asked, stream=True):
        raw += piece if isinstance(piece, bytes) else piece.encode()
    events = [json.loads(line[6:]) for line in raw.splitlines() if line.startswith(b"data: ")]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(delta.get("text", "") for delta in deltas) == text
    assert events[0]["type"] == "message_start"
    assert events[-1]["type"] == "message_stop"


def test_litellms_cache_answers_for_the_engine(
    where: dict[str, Any], noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One answer is made; the second time neither whole nor streamed asks the engine."""
    pytest.importorskip("litellm_proxy_extras", reason="LiteLLM's cache imports its proxy: make test-agents")
    monkeypatch.setattr(litellm, "cache", litellm.Cache(type="local"))
    asked = call(seed=1, temperature=0.8, user=repr(where)) | {"caching": True, **where}
    for stream in (False, True):
        first = text_of(litellm.completion(**asked, stream=stream))
        num_finished = len(noise.finished)
        again = litellm.completion(**asked, stream=stream)
        assert text_of(again) == first != ""
        assert len(noise.finished) == num_finished
        assert text_of(litellm.completion(**asked | {"seed": 2}, stream=stream)) != ""
        assert len(noise.finished) == num_finished + 1


def text_of(answer: Any) -> str:
    """Of a whole answer or a stream, which this reads."""
    if isinstance(answer, litellm.ModelResponse):
        return answer.choices[0].message.content or ""
    return "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)


async def test_a_cancelled_call_frees_its_row(where: dict[str, Any], noise: Noise) -> None:
    task = asyncio.create_task(litellm.acompletion(**call(max_tokens=1900), **where))
    while noise.is_idle and not task.done():
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(check_given_up, noise)


@pytest.mark.parametrize("place", ["local", "http"])
async def test_a_stream_that_is_cancelled_before_its_first_token_gives_its_request_up(
    place: str, noise: Noise
) -> None:
    """Here at once. Over HTTP a thread of LiteLLM's waits for the first byte, which no cancelling reaches: with that
    byte, a comment after `heartbeat_s` if no token, the request is given up (docs/litellm.md)."""

    async def read(where: dict[str, Any]) -> None:
        async for _ in await litellm.acompletion(**call(max_tokens=1900), stream=True, **where):
            pass

    with contextlib.ExitStack() as stack:
        where = {}
        if place == "http":
            server = stack.enter_context(LiveServer(noise, ServerSettings(heartbeat_s=0.3)))
            where = {"api_base": f"http://127.0.0.1:{server.port}/v1"}
        with occupied(noise, 4):
            task = asyncio.create_task(read(where))
            await asyncio.to_thread(wait_until, lambda: noise.engine.health().waiting == 1, "it to wait")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(wait_until, lambda: noise.engine.health().waiting == 0, "it to be gone")
            assert noise.engine.health().running == 4
    noise.check_idle()


async def test_leaving_a_stream_frees_its_row(where: dict[str, Any], noise: Noise) -> None:
    stream = await litellm.acompletion(**call(max_tokens=1900), stream=True, **where)
    await anext(stream)
    await stream.aclose()
    await asyncio.to_thread(check_given_up, noise)
    stream = litellm.completion(**call(max_tokens=1900), stream=True, **where)
    next(stream)
    del stream
    gc.collect()
    await asyncio.to_thread(check_given_up, noise)


def check_given_up(noise: Noise) -> None:
    noise.check_idle()
    done = noise.finished.pop()
    assert done.finish_reasons == ("abort",)
    assert done.usage.completion_tokens < 950  # of 1,900


def test_the_sample_config_of_the_proxy_is_one_that_litellm_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy itself needs packages that do not go with ours; this does what it does with the file."""
    import yaml
    from litellm.proxy.types_utils.utils import get_instance_fn

    path = Path(__file__).parents[2] / "examples" / "litellm_proxy.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    [entry] = config["litellm_settings"]["custom_provider_map"]
    found = get_instance_fn(entry["custom_handler"], config_file_path=str(path))
    assert found is handler
    monkeypatch.setattr(
        litellm, "custom_provider_map", [{"provider": entry["provider"], "custom_handler": found}]
    )
    router = litellm.Router(model_list=config["model_list"])
    answer = router.completion(
        model=config["model_list"][0]["model_name"],
        messages=[{"role": "user", "content": "Hi"}],
        max_tokens=2,
    )
    assert answer.usage.completion_tokens >= 1
    for model in (
        str(built_in_folder()),
        "/etc",
        "/nope",
        "../x",
        "~",
    ):  # of strangers, by a route for basemlx/*
        with pytest.raises(litellm.NotFoundError, match="does not exist"):
            litellm.completion(model=f"basemlx/{model}", messages=[{"role": "user", "content": "Hi"}])
