"""Agent stacks against a real server on the built-in model: each makes a tool loop and a structured answer.

What a stack asks is enforced by the server, so the tests look at what happened (the tool was called with arguments of
its schema, the answer fits), never at what a small model says. Stacks with pins of their own: test_agents_pinned.py.
"""

import contextlib
import json
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
async def test_pydantic_ai(base_url: str) -> None:
    pydantic_ai = pytest.importorskip("pydantic_ai")
    from openai import AsyncOpenAI
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    called: list[str] = []
    async with AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        model = OpenAIChatModel(MODEL, provider=OpenAIProvider(openai_client=client))
        agent = pydantic_ai.Agent(
            model, output_type=Weather, model_settings={"temperature": 0, "max_tokens": 120}
        )

        @agent.tool_plain
        def weather(city: str) -> str:
            """The weather in a city."""
            called.append(city)
            return f"It rains in {city}."

        # Its output is a tool as well, and one of them is required: the model chooses which.
        limits = pydantic_ai.UsageLimits(request_limit=4)
        with contextlib.suppress(pydantic_ai.exceptions.UsageLimitExceeded):
            result = await agent.run(QUESTION, usage_limits=limits)
            assert isinstance(result.output, Weather)
            return
        assert called


@pytest.mark.slow
def test_smolagents(base_url: str) -> None:
    smolagents = pytest.importorskip("smolagents")
    from smolagents.models import ChatMessage, MessageRole

    class WeatherTool(smolagents.Tool):  # type: ignore[misc]
        name = "weather"
        description = "The weather in a city."
        inputs = {"city": {"type": "string", "description": "Its name."}}  # noqa: RUF012
        output_type = "string"

        def forward(self, city: str) -> str:
            return f"It rains in {city}."

    model = smolagents.OpenAIServerModel(
        MODEL, api_base=base_url, api_key="none", temperature=0, max_tokens=120
    )
    try:
        message = model.generate(
            [ChatMessage(role=MessageRole.USER, content=[{"type": "text", "text": QUESTION}])],
            tools_to_call_from=[WeatherTool()],
            stop_sequences=["Observation:"],
        )
        [call] = message.tool_calls
        assert call.function.name == "weather"
        agent = smolagents.ToolCallingAgent(
            tools=[WeatherTool()], model=model, max_steps=1, verbosity_level=0
        )
        agent.run(QUESTION)
        assert any(getattr(step, "tool_calls", None) for step in agent.memory.steps)
        answer = model.generate(
            [ChatMessage(role=MessageRole.USER, content="It rains in Rome.")],
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "weather", "schema": Weather.model_json_schema(), "strict": False},
            },
        )
        assert Weather.model_validate_json(answer.content)
    finally:
        model.client.close()
