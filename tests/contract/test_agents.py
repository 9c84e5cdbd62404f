"""Agent stacks against a real server on the built-in model: each makes a tool loop and a structured answer.

What a stack asks is enforced by the server, so the tests look at what happened (the tool was called with arguments of
its schema, its result was read, the answer fits), never at what a small model says. Stacks with pins of their own:
test_agents_pinned.py.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.contract.weather import MODEL, QUESTION, WIRE_TOOL, Weather, weather


def test_openais_client(base_url: str) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        messages: list[Any] = [{"role": "user", "content": QUESTION}]
        common = {"model": MODEL, "temperature": 0, "max_completion_tokens": 120}
        first = client.chat.completions.create(
            messages=messages, tools=[WIRE_TOOL], tool_choice="required", **common
        )
        [call] = first.choices[0].message.tool_calls
        assert first.choices[0].finish_reason == "tool_calls"
        result = weather(**json.loads(call.function.arguments))
        messages += [
            first.choices[0].message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": result},
        ]
        last = client.chat.completions.create(messages=messages, tools=[WIRE_TOOL], **common)
        assert last.choices[0].message.content or last.choices[0].message.tool_calls
        parsed = client.chat.completions.parse(
            messages=[{"role": "user", "content": "It rains in Rome."}], response_format=Weather, **common
        )
        assert isinstance(parsed.choices[0].message.parsed, Weather)


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
@pytest.mark.filterwarnings("ignore:Items? .* using the `ReadOnly` qualifier:UserWarning")
@pytest.mark.parametrize("kind", ["ChatOpenAI", pytest.param("ChatLiteLLM", marks=pytest.mark.slow)])
def test_langchain_through_others(kind: str, base_url: str) -> None:
    if kind == "ChatOpenAI":
        module = pytest.importorskip("langchain_openai")
        model = module.ChatOpenAI(
            model=MODEL, base_url=base_url, api_key="none", temperature=0, max_tokens=120
        )
    else:
        module = pytest.importorskip("langchain_litellm")
        pytest.importorskip("litellm")
        import basemlx

        basemlx.register()
        model = module.ChatLiteLLM(model=f"basemlx/{MODEL}", api_base=base_url, temperature=0, max_tokens=120)
    from langchain_core.messages import HumanMessage, ToolMessage

    question = HumanMessage(QUESTION)
    answer = model.bind_tools([WIRE_TOOL], tool_choice="required").invoke([question])
    [call] = answer.tool_calls
    result = ToolMessage(weather(**call["args"]), tool_call_id=call["id"])
    last = model.bind_tools([WIRE_TOOL]).invoke([question, answer, result])
    assert last.content or last.tool_calls
    found = model.with_structured_output(Weather, method="json_schema").invoke("It rains in Rome.")
    assert isinstance(found, Weather)


@pytest.mark.slow
async def test_openai_agents(base_url: str) -> None:
    agents = pytest.importorskip("agents")
    from openai import AsyncOpenAI

    agents.set_tracing_disabled(True)
    called: list[str] = []

    @agents.function_tool
    def weather(city: str) -> str:
        """The weather in a city."""
        called.append(city)
        return f"It rains in {city}."

    async with AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        model = agents.OpenAIChatCompletionsModel(model=MODEL, openai_client=client)
        # One of the tools is required in the first turn; the stack takes that back once one was called.
        settings = agents.ModelSettings(temperature=0, max_tokens=120, tool_choice="required")
        agent = agents.Agent(name="Forecaster", model=model, tools=[weather], model_settings=settings)
        result = await agents.Runner.run(agent, QUESTION, max_turns=4)
        assert called
        assert result.final_output
        typed = agents.Agent(
            name="Reader",
            model=model,
            output_type=Weather,
            model_settings=agents.ModelSettings(temperature=0, max_tokens=120),
        )
        answer = await agents.Runner.run(typed, "It rains in Rome.", max_turns=1)
        assert isinstance(answer.final_output, Weather)


@pytest.mark.slow
async def test_pydantic_ai_loops_over_a_tool(base_url: str) -> None:
    pydantic_ai = pytest.importorskip("pydantic_ai")
    called: list[str] = []

    def settings(context: Any) -> dict[str, Any]:
        """The tool has to be called once, then the agent has to answer: whatever the model would rather do."""
        return {"temperature": 0, "max_tokens": 120, "tool_choice": "none" if called else ["weather"]}

    async with pydantic_ai_model(base_url) as model:
        agent = pydantic_ai.Agent(model, model_settings=settings)

        @agent.tool_plain
        def weather(city: str) -> str:
            """The weather in a city."""
            called.append(city)
            return f"It rains in {city}."

        result = await agent.run(QUESTION, usage_limits=pydantic_ai.UsageLimits(request_limit=2))
    parts = [part for message in result.all_messages() for part in message.parts]
    assert [part.part_kind for part in parts] == ["user-prompt", "tool-call", "tool-return", "text"]
    [city] = called
    assert parts[1].args_as_dict() == {"city": city}
    assert parts[2].content == f"It rains in {city}."
    assert result.output
    assert result.output == parts[3].content


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ToolOutput", "NativeOutput"])
async def test_pydantic_ai_answers_in_a_form(way: str, base_url: str) -> None:
    """By a tool that has to be called, or by a schema: of one request, so that nothing was tried again."""
    pydantic_ai = pytest.importorskip("pydantic_ai")
    async with pydantic_ai_model(base_url) as model:
        agent = pydantic_ai.Agent(
            model,
            output_type=getattr(pydantic_ai, way)(Weather),
            model_settings={"temperature": 0, "max_tokens": 120},
        )
        result = await agent.run("It rains in Rome.", usage_limits=pydantic_ai.UsageLimits(request_limit=1))
    assert isinstance(result.output, Weather)


@contextlib.asynccontextmanager
async def pydantic_ai_model(base_url: str) -> AsyncIterator[Any]:
    from openai import AsyncOpenAI
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    async with AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        yield OpenAIChatModel(MODEL, provider=OpenAIProvider(openai_client=client))


@pytest.mark.slow
def test_smolagents_loops_over_a_tool(base_url: str) -> None:
    """One of the tools has to be called in every step: of `weather` and its own `final_answer` the model takes the
    first here, and that is what the test is about; what the agent says in the end is the model's."""
    smolagents = pytest.importorskip("smolagents")

    class WeatherTool(smolagents.Tool):  # type: ignore[misc]
        name = "weather"
        description = "The weather in a city."
        inputs = {"city": {"type": "string", "description": "Its name."}}  # noqa: RUF012
        output_type = "string"

        def forward(self, city: str) -> str:
            return weather(city)

    with smolagents_model(smolagents, base_url) as model:
        agent = smolagents.ToolCallingAgent(
            tools=[WeatherTool()], model=model, max_steps=2, verbosity_level=0
        )
        agent.run(QUESTION)
    steps = [step for step in agent.memory.steps if getattr(step, "tool_calls", None)]
    assert len(steps) == 2
    [call] = steps[0].tool_calls
    assert call.name == "weather"
    assert set(call.arguments) == {"city"}
    assert steps[0].observations == weather(**call.arguments)
    assert steps[0].error is None
    assert (
        steps[1].token_usage.input_tokens > steps[0].token_usage.input_tokens
    )  # it has read the observation


@pytest.mark.slow
def test_smolagents_answers_in_a_form_and_stops_where_it_is_told(base_url: str) -> None:
    smolagents = pytest.importorskip("smolagents")
    from smolagents.models import ChatMessage, MessageRole

    form = {"name": "weather", "schema": Weather.model_json_schema(), "strict": True}
    asked = [ChatMessage(role=MessageRole.USER, content=[{"type": "text", "text": "It rains in Rome."}])]
    with smolagents_model(smolagents, base_url) as model:
        answer = model.generate(asked, response_format={"type": "json_schema", "json_schema": form})
        assert Weather.model_validate_json(answer.content)
        told = model.generate(asked).content
        assert model.generate(asked, stop_sequences=[told[3:6]]).content == told[: told.index(told[3:6])]


@contextlib.contextmanager
def smolagents_model(smolagents: Any, base_url: str) -> Iterator[Any]:
    model = smolagents.OpenAIServerModel(
        MODEL, api_base=base_url, api_key="none", temperature=0, max_tokens=120
    )
    try:
        yield model
    finally:
        model.client.close()
