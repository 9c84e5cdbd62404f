"""Agent stacks that pin other versions than the rest is tested with: `make test-agents` gives them an environment of
their own, and here they are skipped where they are not installed.
"""

import json
from typing import Any

import pytest
from pydantic import BaseModel, Field

from tests.contract.weather import MODEL, QUESTION, Weather, weather

OWN_ENVIRONMENT = "has an environment of its own: make test-agents"


class Forecast(BaseModel):
    """The weather in a city."""

    city: str = Field(max_length=40)


class Told(Weather):
    """Bounded: a small model that has lost its way would fill a text up to the limit of tokens."""

    city: str = Field(max_length=40)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:instructor.*")
@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA"])
def test_instructor(mode: str, base_url: str) -> None:
    instructor = pytest.importorskip("instructor", reason=f"instructor {OWN_ENVIRONMENT}")
    from openai import OpenAI

    common = {"model": MODEL, "temperature": 0, "max_tokens": 120, "max_retries": 0}
    with OpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        structured = instructor.from_openai(client, mode=getattr(instructor.Mode, mode))
        messages: list[Any] = [{"role": "user", "content": QUESTION}]
        asked, completion = structured.chat.completions.create_with_completion(
            response_model=Forecast, messages=messages, **common
        )
        answer = completion.choices[0].message
        messages.append({"content": answer.content, **answer.model_dump(exclude_none=True)})
        if mode == "TOOLS":
            [call] = answer.tool_calls
            assert json.loads(call.function.arguments) == {"city": asked.city}
            messages.append({"role": "tool", "tool_call_id": call.id, "content": weather(asked.city)})
        else:
            messages.append({"role": "user", "content": weather(asked.city)})
        found = structured.chat.completions.create(response_model=Told, messages=messages, **common)
    assert isinstance(found, Told)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_llamaindex(base_url: str) -> None:
    like = pytest.importorskip("llama_index.llms.openai_like", reason=f"LlamaIndex {OWN_ENVIRONMENT}")
    from llama_index.core.agent.workflow import FunctionAgent
    from llama_index.core.tools import FunctionTool

    model = like.OpenAILike(
        model=MODEL,
        api_base=base_url,
        api_key="none",
        is_chat_model=True,
        is_function_calling_model=True,
        context_window=2048,
        temperature=0,
        max_tokens=120,
        max_retries=0,
    )
    called: list[str] = []

    def noted(city: str) -> str:
        called.append(city)
        return weather(city)

    tool = FunctionTool.from_defaults(fn=noted, name="weather", description="The weather in a city.")
    response = model.chat_with_tools([tool], QUESTION, tool_required=True)
    [call] = model.get_tool_calls_from_response(response)
    assert tool.call(**call.tool_kwargs).content.startswith("It rains in")
    agent = FunctionAgent(tools=[tool], llm=model, initial_tool_choice="weather")
    result = await agent.run(QUESTION, max_iterations=4)
    assert len(called) >= 2
    assert str(result)
    assert isinstance(model.as_structured_llm(Weather).complete("It rains in Rome.").raw, Weather)
