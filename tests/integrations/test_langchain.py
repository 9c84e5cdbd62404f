"""What LangChain's own suites do not look at: reasoning, log-probabilities, tokens, errors, streams that are left."""

import asyncio
import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Literal

import pytest

pytest.importorskip("langchain_core", reason="the extra langchain is not installed")

from langchain_core.exceptions import OutputParserException
from langchain_core.load import dumpd, load
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.messages.ai import add_ai_message_chunks
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError
from typing_extensions import TypedDict

from basemlx.engine.errors import (
    AuthenticationFailed,
    DeadlineExceeded,
    EngineDead,
    InvalidRequest,
    ModelNotFound,
    QueueFull,
)
from basemlx.integrations.langchain import BaseMLXEmbeddings, ChatBaseMLX, retry, schemas
from basemlx.integrations.langchain.messages import to_chunk, to_message, to_openai
from basemlx.provider.errors import ServerUnreachable
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


async def test_what_was_checked_after_generation_is_told_whole_and_streamed(chat: ChatBaseMLX) -> None:
    schema = {"type": "array", "items": {"type": "string"}, "uniqueItems": True, "minItems": 2, "maxItems": 2}
    loose = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    fields: dict[str, Any] = {"max_tokens": 60, "ignore_eos": False, "response_format": loose}
    asked = chat.bind(model="tiny", temperature=0, **fields)
    whole = (await asked.ainvoke("Two names.")).response_metadata["basemlx"]
    [outcome] = whole["validation"]
    assert outcome["not_enforced"] == [{"keyword": "uniqueItems", "pointer": "/uniqueItems"}]
    assert isinstance(outcome["valid"], bool)
    streamed = add_ai_message_chunks(*asked.stream("Two names."))
    assert streamed.response_metadata["basemlx"] == whole
    pair = chat.generate([[HumanMessage("Two names.")]], model="tiny", n=2, **fields).generations[0]
    told = [generation.message.response_metadata["basemlx"]["validation"] for generation in pair]
    assert [[outcome["index"] for outcome in outcomes] for outcomes in told] == [[0], [1]]


def test_tokens_are_the_models_own(chat: ChatBaseMLX) -> None:
    answer = chat.invoke("The quick brown fox")
    assert answer.usage_metadata is not None
    assert (
        chat.get_num_tokens_from_messages([HumanMessage("The quick brown fox")])
        == (answer.usage_metadata["input_tokens"])
    )
    assert chat.get_num_tokens("The quick brown fox") == len(chat.get_token_ids("The quick brown fox")) > 0


def test_nothing_has_no_tokens(chat: ChatBaseMLX) -> None:
    assert chat.get_num_tokens("") == chat.get_num_tokens_from_messages([]) == 0


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
    with pytest.raises(InvalidRequest, match="n above 1"):
        list(chat.bind(n=2).stream("Hi"))


# arguments


class Recorder:
    """A backend that keeps what it is asked and answers with `errors` as long as there are some."""

    def __init__(self, *errors: Exception) -> None:
        self.bodies: list[Any] = []
        self.errors = list(errors)

    def _asked(self, body: Any) -> None:
        self.bodies.append(body)
        if self.errors:
            raise self.errors.pop(0)

    def chat(self, body: Any) -> Any:
        self._asked(body)
        choice = {"index": 0, "message": {"content": "Yes"}, "finish_reason": "stop"}
        return {"id": "x", "model": body["model"], "usage": None, "choices": [choice]}

    async def achat(self, body: Any) -> Any:
        return self.chat(body)

    @contextmanager
    def chat_stream(self, body: Any) -> Iterator[Any]:
        self._asked(body)
        delta = {"index": 0, "delta": {"content": "Yes"}, "finish_reason": "stop"}
        yield iter([{"id": "x", "model": body["model"], "choices": [delta]}])

    def embeddings(self, body: Any) -> Any:
        self._asked(body)
        texts = body["input"]
        return {"data": [{"index": i, "embedding": [float(len(text))]} for i, text in enumerate(texts)]}

    async def aembeddings(self, body: Any) -> Any:
        return self.embeddings(body)


def test_fields_that_the_engine_knows_are_arguments_and_it_judges_them(local: LocalBackend) -> None:
    model = ChatBaseMLX(model=NOISE, min_p=7, backend=local)  # type: ignore[call-arg]
    assert model.model_kwargs == {"min_p": 7}
    with pytest.raises(InvalidRequest, match="min_p must be between"):
        model.invoke("Hi")
    recorder = Recorder()
    given: dict[str, Any] = {"top_k": 5, "model_kwargs": {"min_p": 0.1}, "chat_template_kwargs": {"a": 1}}
    ChatBaseMLX(model=NOISE, backend=recorder, **given).invoke("Hi", top_k=6)
    [body] = recorder.bodies
    assert (body["top_k"], body["min_p"], body["chat_template_kwargs"]) == (6, 0.1, {"a": 1})


@pytest.mark.parametrize("name", ["temprature", "dimension", "messages", "stream", "extra_body"])
def test_arguments_that_nobody_knows_are_refused_by_name(name: str) -> None:
    recorder = Recorder()
    for make in (ChatBaseMLX, BaseMLXEmbeddings):
        with pytest.raises(ValidationError, match=name):
            make(model=NOISE, backend=recorder, **{name: 1})  # type: ignore[arg-type]
    chat = ChatBaseMLX(model=NOISE, backend=recorder)
    if name not in ("messages", "stream"):  # `invoke` has them itself
        for ask in (
            chat.invoke,
            chat.bind(**{name: 1}).invoke,
            lambda text: list(chat.stream(text, **{name: 1})),
        ):
            with pytest.raises(InvalidRequest, match=name):
                ask("Hi", **({name: 1} if ask == chat.invoke else {}))
    assert recorder.bodies == []
    ChatBaseMLX(model=NOISE, backend=recorder, model_kwargs={name: 1}).invoke("Hi")  # of another server


def test_the_names_of_other_clients_mean_the_same() -> None:
    recorder = Recorder()
    given: dict[str, Any] = {"model_name": NOISE, "max_completion_tokens": 2, "stop_sequences": ["x"]}
    chat = ChatBaseMLX(backend=recorder, request_timeout=5, **given)
    chat.invoke("Hi")
    chat.bind(max_completion_tokens=3, stop_sequences="y").invoke("Hi")
    sent = [(b["model"], b["max_tokens"], b["stop"], b["timeout"]) for b in recorder.bodies]
    assert sent == [(NOISE, 2, ["x"], 5), (NOISE, 3, "y", 5)]
    assert all("max_completion_tokens" not in body for body in recorder.bodies)
    with pytest.raises(ValidationError, match="one and the same"):
        ChatBaseMLX(max_tokens=1, **given)
    with pytest.raises(ValidationError, match="twice"):
        ChatBaseMLX(model=NOISE, min_p=0.1, model_kwargs={"min_p": 0.2})  # type: ignore[call-arg]


def test_streaming_is_langchains() -> None:
    recorder = Recorder()
    for model in (
        ChatBaseMLX(model=NOISE, backend=recorder, streaming=True),
        ChatBaseMLX(model=NOISE, backend=recorder).bind(stream=True),
        ChatBaseMLX(model=NOISE, backend=recorder),
    ):
        assert model.invoke("Hi").content == "Yes"
    assert ["stream_options" in body for body in recorder.bodies] == [True, True, False]


async def test_what_may_pass_is_asked_again_as_often_as_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def wait(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(retry, "asyncio", SimpleNamespace(sleep=wait))
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=waited.append))

    def passing() -> Recorder:
        nobody = ServerUnreachable("Nobody.")
        return Recorder(QueueFull("Full.", retry_after_s=7), nobody, nobody)

    for ask in (
        lambda backend: ChatBaseMLX(model=NOISE, backend=backend, max_retries=3).invoke("Hi").content,
        lambda backend: BaseMLXEmbeddings(model=NOISE, backend=backend, max_retries=3).embed_query("Hi"),
    ):
        assert ask(passing())
    assert (await ChatBaseMLX(model=NOISE, backend=passing(), max_retries=3).ainvoke("Hi")).content
    assert await BaseMLXEmbeddings(model=NOISE, backend=passing(), max_retries=3).aembed_query("Hi")
    expected = [7.0, 1.0, 2.0] * 4
    assert all(least <= seconds <= 2 * least for least, seconds in zip(expected, waited, strict=True))
    assert len(set(waited)) > len(set(expected)), "not all of them come back at once"
    for error in (EngineDead("Dead."), InvalidRequest("No."), DeadlineExceeded("Late.")):
        with pytest.raises(type(error)):
            ChatBaseMLX(model=NOISE, backend=Recorder(error), max_retries=3).invoke("Hi")
    for max_retries, num_asked in ((2, 3), (0, 1)):
        recorder = passing()
        with pytest.raises((QueueFull, ServerUnreachable)):
            ChatBaseMLX(model=NOISE, backend=recorder, max_retries=max_retries).invoke("Hi")
        assert len(recorder.bodies) == num_asked
    assert len(waited) == 14


async def test_leaving_a_stream_frees_its_row(chat: ChatBaseMLX, noise: Noise) -> None:
    def check_given_up() -> None:
        noise.check_idle()
        done = noise.finished.pop()
        assert done.finish_reasons == ("abort",)
        assert done.usage.completion_tokens < 950  # of 1,900

    for chunk in chat.bind(max_tokens=1900).stream("Hi"):
        assert chunk is not None
        break
    await asyncio.to_thread(check_given_up)
    stream = chat.bind(max_tokens=1900).astream("Hi")
    async for _ in stream:
        break
    await stream.aclose()  # type: ignore[attr-defined]
    await asyncio.to_thread(check_given_up)


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


async def test_embeddings_are_asked_for_in_parts_and_with_their_prompts() -> None:
    recorder = Recorder()
    embeddings = BaseMLXEmbeddings(
        model=NOISE, backend=recorder, query_prompt_name="query", document_prompt_name="document"
    )
    texts = ["x" * (number % 7 + 1) for number in range(1100)]
    expected = [[float(len(text))] for text in texts]
    assert embeddings.embed_documents(texts) == await embeddings.aembed_documents(texts) == expected
    assert [len(body["input"]) for body in recorder.bodies] == [512, 512, 76] * 2
    assert {body["prompt_name"] for body in recorder.bodies} == {"document"}
    assert embeddings.embed_query("abc") == await embeddings.aembed_query("abc") == [3.0]
    assert [body["prompt_name"] for body in recorder.bodies[6:]] == ["query", "query"]
    assert embeddings.embed_documents([]) == []
    BaseMLXEmbeddings(model=NOISE, backend=recorder).embed_query("abc")
    assert "prompt_name" not in recorder.bodies[-1]


# tools and structure


class Person(BaseModel):
    """A person."""

    name: str
    age: int


class PersonDict(TypedDict):
    """A person."""

    name: str
    age: int


class Tree(BaseModel):
    label: Literal["a"]
    parts: list["Tree"]


CLOSED_TREE = {
    "$defs": {
        "Tree": {
            "properties": {
                "label": {"const": "a", "title": "Label", "type": "string"},
                "parts": {"items": {"$ref": "#/$defs/Tree"}, "title": "Parts", "type": "array"},
            },
            "required": ["label", "parts"],
            "title": "Tree",
            "type": "object",
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/Tree",
}


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: str


ADA = "Ada is 36 years old. Give name and age as JSON."
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
OPENAIS: dict[str, Any] = {"name": "a_person", "schema": PERSON, "strict": True}


@pytest.fixture
def tiny(chat: ChatBaseMLX) -> ChatBaseMLX:
    return chat.model_copy(
        update={"model": "tiny", "model_kwargs": {}, "temperature": 0.0, "max_tokens": 100}
    )


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize(
    "schema",
    [
        Person,
        PersonDict,
        PERSON,
        PERSON | {"title": "A person!"},
        OPENAIS,
        {"type": "json_schema", "json_schema": OPENAIS},
        {"name": "person", "parameters": PERSON},
        {"type": "function", "function": {"name": "person", "parameters": PERSON}},
        {"name": "person", "input_schema": PERSON},
        PERSON | {"name": "person"},
    ],
    ids=str,
)
def test_structure_by_every_form_of_a_schema(tiny: ChatBaseMLX, schema: Any, method: Any) -> None:
    answer = tiny.with_structured_output(schema, method=method).invoke(ADA)
    if schema is Person:
        assert isinstance(answer, Person)
        answer = answer.model_dump()
    assert list(answer) == ["name", "age"]
    assert isinstance(answer["age"], int)


def test_schemas_reach_the_engine_whole() -> None:
    array = {"type": "array", "items": {"type": "string"}}
    cases: list[tuple[Any, str, Any, bool]] = [
        (array, "answer", array, True),
        (array | {"title": "Some names"}, "Some_names", array | {"title": "Some names"}, True),
        (OPENAIS | {"strict": False}, "a_person", PERSON, False),
        (Tree, "Tree", CLOSED_TREE, True),
        (Open, "Open", Open.model_json_schema(), True),
    ]
    for given, name, schema, strict in cases:
        sent = schemas.response_format(given, None)["json_schema"]
        assert sent == {"name": name, "schema": schema, "strict": strict}
        assert schemas.response_format(given, False)["json_schema"]["strict"] is False
    assert schemas.tool_of(array, None)["function"] == {"name": "answer", "parameters": array}
    nothing = schemas.tool_of({"name": "ping", "description": "Pings."}, None)["function"]
    assert nothing == {"name": "ping", "description": "Pings."}
    with pytest.raises(ValueError, match="has no function"):
        schemas.tool_of({"type": "function"}, None)


def test_classes_are_closed_and_whole_as_tools_too(tiny: ChatBaseMLX) -> None:
    wire = schemas.wire_tool(Tree, True)["function"]
    assert (wire["parameters"], wire["strict"]) == (schemas._closed(CLOSED_TREE, has_titles=False), True)
    assert schemas.wire_tool(PersonDict)["function"]["parameters"]["additionalProperties"] is False
    assert schemas.tool_of(Person, None) == schemas.wire_tool(Person)
    called = tiny.with_structured_output(Person, method="function_calling").invoke(ADA)
    assert called == Person(name="Ada", age=36)


DELETE = {
    "name": "delete",
    "description": "Deletes a folder.",
    "parameters": {"type": "object", "properties": {"path": {"type": "string"}}},
}


def test_a_call_that_was_cut_off_is_no_call_whole_or_streamed(tiny: ChatBaseMLX) -> None:
    bound = tiny.bind_tools([DELETE], tool_choice="delete")
    question = "Delete the folder /home/ada/old-pictures."
    kinds = set()
    for max_tokens in (8, 12, 14, 18, 40):
        answer = bound.invoke(question, max_tokens=max_tokens)
        folded = functools.reduce(
            lambda one, other: one + other, bound.stream(question, max_tokens=max_tokens)
        )
        is_cut = answer.response_metadata["finish_reason"] == "length"
        for message in (answer, folded):
            assert is_cut or message.tool_calls
            for one in message.tool_calls:  # its markup may be cut off, its arguments are not
                assert one["args"] == {"path": "/home/ada/old-pictures"}
        assert bool(folded.invalid_tool_calls) == bool(answer.invalid_tool_calls)
        kinds.add((is_cut, bool(answer.invalid_tool_calls)))
    assert kinds >= {(True, True), (False, False)}


@pytest.mark.parametrize("schema", [Person, PERSON], ids=["class", "dict"])
def test_a_structured_answer_that_was_cut_off_is_an_error(tiny: ChatBaseMLX, schema: Any) -> None:
    short = tiny.model_copy(update={"max_tokens": 8})
    for method in ("function_calling", "json_schema", "json_mode"):
        with pytest.raises(OutputParserException, match="cut off"):
            short.with_structured_output(schema, method=method).invoke(ADA)
        told = short.with_structured_output(schema, method=method, include_raw=True).invoke(ADA)
        assert told["parsed"] is None
        assert isinstance(told["parsing_error"], OutputParserException)


def test_what_langchain_has_other_forms_for_may_be_given_with_any_call(tiny: ChatBaseMLX) -> None:
    def get_weather(city: str) -> str:
        """The weather in a city."""
        return city

    question = "What is the weather in Tokyo?"
    answer = tiny.invoke(question, tools=[get_weather], tool_choice="get_weather")
    assert answer.tool_calls[0]["name"] == "get_weather"
    assert Person.model_validate_json(str(tiny.invoke(ADA, response_format=Person).content)).age == 36


def test_one_field_by_two_names_is_refused(tiny: ChatBaseMLX) -> None:
    for fields in (
        {"max_completion_tokens": 5, "max_tokens": 2},
        {"stop": ["a"], "stop_sequences": ["b"]},
    ):
        with pytest.raises(InvalidRequest, match="one and the same"):
            tiny.invoke("Hi", **fields)


def test_the_number_of_choices_is_judged_by_the_engine(tiny: ChatBaseMLX) -> None:
    for n, message in ((2, "cannot be streamed"), (0, "between 1 and 8"), ("2", "whole number")):
        with pytest.raises(InvalidRequest, match=message):
            next(tiny.stream("Hi", n=n))


def test_usage_of_several_prompts_is_their_sum(tiny: ChatBaseMLX) -> None:
    result = tiny.generate([[HumanMessage("Hi")], [HumanMessage("What are you?")]])
    each = [output.llm_output["token_usage"] for output in result.flatten()]
    total = result.llm_output["token_usage"]
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert total[name] >= sum(one.get(name, 0) for one in each) > 0


def test_one_text_in_place_of_several_is_refused(local: LocalBackend) -> None:
    with pytest.raises(InvalidRequest, match="embed_query"):
        BaseMLXEmbeddings(model=NOISE, backend=local).embed_documents("abc")


def test_blocks_of_a_stream_are_those_of_the_whole_answer(tiny: ChatBaseMLX) -> None:
    weather = {"name": "get_weather", "description": "The weather in a city.", "parameters": CITY}
    thinking = {"chat_template_kwargs": {"enable_thinking": True}}
    in_blocks = tiny.model_copy(update={"output_version": "v1"}).bind_tools([weather], **thinking)
    question = "What is the weather in Tokyo and in Paris?"
    whole = in_blocks.invoke(question)
    chunks = list(in_blocks.stream(question))
    folded = functools.reduce(lambda one, other: one + other, chunks)
    kinds = [block["type"] for block in whole.content_blocks]
    assert kinds[0] == "reasoning"
    assert "tool_call" in kinds
    assert [block["type"] for block in folded.content_blocks] == kinds
    for one, other in zip(folded.content_blocks, whole.content_blocks, strict=True):
        for name in ("text", "reasoning", "name", "args"):
            assert one.get(name) == other.get(name)


def test_the_raw_answer_can_come_along_and_what_was_wrong_with_it(tiny: ChatBaseMLX) -> None:
    for method in ("json_schema", "function_calling"):
        asked = tiny.with_structured_output(Person, method=method, include_raw=True)
        whole: Any = asked.invoke(ADA)
        assert whole["parsed"] == Person(name="Ada", age=36)
        assert whole["parsing_error"] is None
        assert whole["raw"].response_metadata["finish_reason"] in ("stop", "tool_calls")
    short = tiny.model_copy(update={"max_tokens": 6})
    cut: Any = short.with_structured_output(Person, include_raw=True).invoke(ADA)
    assert cut["parsed"] is None
    assert cut["parsing_error"] is not None
    assert cut["raw"].response_metadata["finish_reason"] == "length"


@pytest.mark.parametrize("tool", [{"type": "web_search_preview"}, {"type": "function"}])
def test_tools_that_are_no_functions_are_refused_by_the_engine(tiny: ChatBaseMLX, tool: Any) -> None:
    for choice in (None, "any", "search"):
        with pytest.raises(InvalidRequest) as info:
            tiny.bind_tools([tool], tool_choice=choice).invoke("Hi")
        assert str(info.value.param).startswith("tools[0]")


def test_a_broken_call_is_sent_back_with_what_was_answered_to_it(tiny: ChatBaseMLX) -> None:
    broken = {"name": "get", "args": '{"a": ', "id": "call_1", "error": "cut", "type": "invalid_tool_call"}
    fine = {"name": "get", "args": {"a": 1}, "id": "call_0", "type": "tool_call"}
    answer = AIMessage("", tool_calls=[fine], invalid_tool_calls=[broken])
    results = [ToolMessage("Rain", tool_call_id="call_0"), ToolMessage("No JSON.", tool_call_id="call_1")]
    history = [HumanMessage("Weather?"), answer, *results]
    wire = to_openai(history)
    assert [(call["id"], call["function"]["arguments"]) for call in wire[1]["tool_calls"]] == [
        ("call_0", '{"a": 1}'),
        ("call_1", '{"a": '),
    ]
    assert wire[3] == {"role": "tool", "tool_call_id": "call_1", "content": "No JSON."}
    assert tiny.invoke(history).usage_metadata
    assert len(to_openai([AIMessage("", invalid_tool_calls=[broken])])[0]["tool_calls"]) == 1


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
