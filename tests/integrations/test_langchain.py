"""What LangChain's own suites do not look at: reasoning, log-probabilities, tokens, errors, streams that are left."""

import asyncio
import json
from typing import Any

import pytest

pytest.importorskip("langchain_core", reason="the extra langchain is not installed")

from langchain_core.load import dumpd, load
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from pydantic import SecretStr

from basemlx.engine.errors import AuthenticationFailed, DeadlineExceeded, InvalidRequest, ModelNotFound
from basemlx.integrations.langchain import BaseMLXEmbeddings, ChatBaseMLX
from basemlx.integrations.langchain.messages import to_chunk, to_message, to_openai
from basemlx.provider.local import LocalBackend
from basemlx.server.settings import ServerSettings
from tests.serving import API_KEY, NOISE, LiveServer, Noise


@pytest.fixture(params=["local", "http"])
def chat(request: pytest.FixtureRequest) -> ChatBaseMLX:
    """Four tokens of noise, by an engine here or at a server (found by its address)."""
    common: dict[str, Any] = {
        "model": NOISE,
        "seed": 1,
        "max_tokens": 4,
        "model_kwargs": {"ignore_eos": True},
    }
    if request.param == "local":
        return ChatBaseMLX(backend=request.getfixturevalue("local"), **common)
    return ChatBaseMLX(base_url=request.getfixturevalue("api_base"), **common)


async def test_every_way_gives_the_same_answer(chat: ChatBaseMLX) -> None:
    answer = chat.invoke("Hi")
    streamed = [chunk.content for chunk in chat.stream("Hi")]
    astreamed = [chunk.content async for chunk in chat.astream("Hi")]
    assert "".join(streamed) == "".join(astreamed) == answer.content == (await chat.ainvoke("Hi")).content
    assert [one.content for one in chat.batch(["Hi", "Hi"])] == [answer.content] * 2
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 4
    assert answer.response_metadata["finish_reason"] == "length"


def test_logprobs_come_whole_and_streamed(chat: ChatBaseMLX) -> None:
    whole = chat.bind(logprobs=True, top_logprobs=2).invoke("Hi").response_metadata["logprobs"]["content"]
    found: list[Any] = []
    for chunk in chat.bind(logprobs=True, top_logprobs=2).stream("Hi"):
        found += chunk.response_metadata.get("logprobs", {}).get("content", [])
    assert len(whole) == 4
    assert found == whole


def test_tokens_are_the_models_own(chat: ChatBaseMLX) -> None:
    answer = chat.invoke("The quick brown fox")
    assert answer.usage_metadata is not None
    assert (
        chat.get_num_tokens_from_messages([HumanMessage("The quick brown fox")])
        == (answer.usage_metadata["input_tokens"])
    )
    assert chat.get_num_tokens("The quick brown fox") == len(chat.get_token_ids("The quick brown fox")) > 0


def test_the_settings_that_change_a_prompt_count(chat: ChatBaseMLX) -> None:
    """The built-in model's template puts an empty thought into the prompt where thinking is off."""
    question = [HumanMessage("What is 2 + 3?")]
    counts = []
    for settings in (
        {"model_kwargs": {"chat_template_kwargs": {"enable_thinking": True}}},
        {"model_kwargs": {"chat_template_kwargs": {"enable_thinking": False}}},
        {"reasoning_effort": "none"},
        {"reasoning_effort": "low"},
    ):
        told = chat.model_copy(update={"model": "tiny", "model_kwargs": {}} | settings)
        used = told.invoke(question).usage_metadata
        assert used is not None
        assert told.get_num_tokens_from_messages(question) == used["input_tokens"]
        counts.append(used["input_tokens"])
    assert counts[0] == counts[3] != counts[1] == counts[2]
    thinking = {"chat_template_kwargs": {"enable_thinking": True}}
    assert chat.get_num_tokens_from_messages(question, model="tiny", **thinking) == counts[0]
    tools = [{"title": "get", "description": "Gets.", "type": "object", "properties": {}}]
    with_tools = chat.model_copy(update={"model": "tiny"})
    used = with_tools.bind_tools(tools).invoke(question).usage_metadata
    assert with_tools.get_num_tokens_from_messages(question, tools=tools) == used["input_tokens"]


@pytest.mark.parametrize("kind", ["image", "audio", "file", "image_url"])
def test_what_is_no_text_is_refused_by_name(kind: str, chat: ChatBaseMLX) -> None:
    parts: dict[str, dict[str, Any]] = {
        "image": {"type": "image", "base64": "AAAA", "mime_type": "image/png"},
        "audio": {"type": "audio", "base64": "AAAA", "mime_type": "audio/wav"},
        "file": {"type": "file", "base64": "AAAA", "mime_type": "application/pdf", "filename": "a.pdf"},
        "image_url": {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    }
    with pytest.raises(InvalidRequest) as info:
        chat.invoke([HumanMessage([{"type": "text", "text": "Look."}, parts[kind]])])
    assert info.value.param is not None
    assert info.value.param.startswith("messages[0].content[1]")


def test_errors_are_the_engines(chat: ChatBaseMLX) -> None:
    with pytest.raises(ModelNotFound):
        chat.bind(model="nobody/nothing").invoke("Hi")
    with pytest.raises(InvalidRequest, match="min_p"):
        chat.bind(min_p=7).invoke("Hi")
    with pytest.raises(DeadlineExceeded):
        chat.bind(max_tokens=1500, timeout=0.05).invoke("Hi")
    with pytest.raises(ValueError, match="n above 1"):
        list(chat.bind(n=2).stream("Hi"))


async def test_leaving_a_stream_frees_its_row(chat: ChatBaseMLX, noise: Noise) -> None:
    for chunk in chat.bind(max_tokens=1900).stream("Hi"):
        assert chunk is not None
        break
    await asyncio.to_thread(noise.check_idle)
    stream = chat.bind(max_tokens=1900).astream("Hi")
    async for _ in stream:
        break
    await stream.aclose()  # type: ignore[attr-defined]
    await asyncio.to_thread(noise.check_idle)


@pytest.mark.filterwarnings("ignore:The function `load` is in beta")
def test_a_model_can_be_dumped_and_loaded(local: LocalBackend) -> None:
    model = ChatBaseMLX(model="tiny", temperature=0.5, backend=local)
    loaded = load(dumpd(model), valid_namespaces=["basemlx"], allowed_objects=[ChatBaseMLX])
    assert isinstance(loaded, ChatBaseMLX)
    assert (loaded.model, loaded.temperature, loaded.backend) == ("tiny", 0.5, None)


def test_the_environments_key_goes_where_the_provider_sends_it(
    monkeypatch: pytest.MonkeyPatch, noise: Noise
) -> None:
    """To the server of BASEMLX_API_BASE, not to one that is named; what was dumped brings no key of its own."""
    monkeypatch.setenv("BASEMLX_API_KEY", API_KEY)
    with LiveServer(noise, ServerSettings(api_keys=(API_KEY,), allowed_hosts=("0.0.0.0:*",))) as server:
        elsewhere = f"http://0.0.0.0:{server.port}/v1"
        settings: dict[str, Any] = {"model": NOISE, "max_tokens": 2}
        named = ChatBaseMLX(base_url=elsewhere, **settings)
        with pytest.raises(AuthenticationFailed):
            named.invoke("Hi")
        local = ChatBaseMLX(base_url=f"http://127.0.0.1:{server.port}/v1", **settings)
        monkeypatch.setenv("BASEMLX_API_BASE", elsewhere.replace("0.0.0.0", "127.0.0.1"))
        for model in (local, ChatBaseMLX(**settings)):
            assert model.invoke("Hi").usage_metadata
            told = repr(model) + json.dumps(dumpd(model))
            assert API_KEY not in told
            with_key = model.model_copy(update={"api_key": SecretStr("sk-wrong-key")})
            with pytest.raises(AuthenticationFailed):
                with_key.invoke("Hi")


async def test_reasoning_comes_whole_and_streamed(chat: ChatBaseMLX) -> None:
    thinking = chat.bind(
        model="tiny",
        chat_template_kwargs={"enable_thinking": True},
        max_tokens=80,
        ignore_eos=False,
        temperature=0,
    )
    whole = thinking.invoke("What is 2 + 3?")
    chunks = [chunk async for chunk in thinking.astream("What is 2 + 3?")]
    reasoning = "".join(chunk.additional_kwargs.get("reasoning_content", "") for chunk in chunks)
    assert reasoning == whole.additional_kwargs["reasoning_content"] != ""
    assert "".join(str(chunk.content) for chunk in chunks) == whole.content != ""
    assert whole.usage_metadata["output_token_details"]["reasoning"] > 0


async def test_embeddings_are_the_same_in_both_transports(
    local: LocalBackend, api_base: str, vectors: str
) -> None:
    here = BaseMLXEmbeddings(model=vectors, backend=local)
    there = BaseMLXEmbeddings(model=vectors, base_url=api_base)
    texts = ["a fox", "the weather in tokyo"]
    expected = here.embed_documents(texts)
    assert expected == there.embed_documents(texts) == await there.aembed_documents(texts)
    assert expected[0] == pytest.approx(there.embed_query("a fox"), abs=1e-6)
    assert len(BaseMLXEmbeddings(model=vectors, base_url=api_base, dimensions=8).embed_query("a fox")) == 8


# messages


def test_reasoning_goes_both_ways() -> None:
    response = {
        "id": "x",
        "model": "m",
        "usage": None,
        "choices": [
            {"message": {"content": "4", "reasoning_content": "2+2"}, "finish_reason": "stop", "index": 0}
        ],
    }
    message = to_message(response["choices"][0], response)
    assert message.additional_kwargs == {"reasoning_content": "2+2"}
    assert to_openai([message])[0]["reasoning_content"] == "2+2"
    delta = {"choices": [{"index": 0, "delta": {"reasoning_content": "2+"}}], "id": "x", "model": "m"}
    chunk = to_chunk(delta)
    assert chunk is not None
    assert chunk.additional_kwargs == {"reasoning_content": "2+"}


def test_tool_calls_and_results_become_openais() -> None:
    call = {"name": "get", "args": {"a": 1}, "id": "call_1", "type": "tool_call"}
    wire = to_openai([AIMessage("", tool_calls=[call]), ToolMessage("Rain", tool_call_id="call_1")])
    assert wire[0]["tool_calls"][0]["function"] == {"name": "get", "arguments": '{"a": 1}'}
    assert wire[1] == {"role": "tool", "tool_call_id": "call_1", "content": "Rain"}


RESULTS = HumanMessage(
    [
        {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "Rain"}]},
        {"type": "tool_result", "tool_use_id": "call_2", "content": "Sun", "is_error": True},
        {"type": "text", "text": "And now?"},
    ]
)
"""Two results and a question in one message, as Anthropic's API has them."""


def test_a_message_with_results_of_tools_becomes_several_the_results_first() -> None:
    assert to_openai([RESULTS]) == [
        {"role": "tool", "tool_call_id": "call_1", "content": "Rain"},
        {"role": "tool", "tool_call_id": "call_2", "content": "Sun"},
        {"role": "user", "content": "And now?"},
    ]


def test_a_message_of_thoughts_only_has_no_content() -> None:
    assert to_openai([AIMessage([{"type": "thinking", "thinking": "hm"}])])[0]["content"] == ""


def test_results_of_tools_in_anthropics_form_can_be_answered(chat: ChatBaseMLX) -> None:
    calls = [
        {"name": "get", "args": {"city": city}, "id": f"call_{number}", "type": "tool_call"}
        for number, city in ((1, "Paris"), (2, "Rome"))
    ]
    used = [{"type": "tool_use", "id": c["id"], "name": "get", "input": c["args"]} for c in calls]
    messages = [HumanMessage("Weather?"), AIMessage(used, tool_calls=calls), RESULTS]
    answer = chat.bind(model="tiny").invoke(messages)
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 4


def test_a_call_that_was_cut_off_is_an_invalid_one() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get", "arguments": '{"a": '}}
    choice = {"message": {"content": None, "tool_calls": [call]}, "finish_reason": "length"}
    message = to_message(choice, {"id": "x", "model": "m", "usage": None})
    assert message.tool_calls == []
    assert message.invalid_tool_calls[0]["args"] == '{"a": '


def test_embeddings_of_a_model_that_has_none_say_so(local: LocalBackend, api_base: str) -> None:
    for embeddings in (
        BaseMLXEmbeddings(model=NOISE, backend=local),
        BaseMLXEmbeddings(model=NOISE, base_url=api_base),
    ):
        with pytest.raises(InvalidRequest):
            embeddings.embed_query("x")
