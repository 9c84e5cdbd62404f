"""Agent stacks that pin other versions of openai than the rest is tested with: `make test-agents` gives them an
environment of their own, and here they are skipped where they are not installed.
"""

from collections.abc import Iterator

import pytest
from pydantic import BaseModel, ConfigDict

from tests.serving import LiveServer, Noise

MODEL = "tiny"


class Weather(BaseModel):
    model_config = ConfigDict(extra="forbid")

    city: str
    rain: bool


@pytest.fixture(scope="module")
def base_url(noise: Noise) -> Iterator[str]:
    with LiveServer(noise) as server:
        yield f"http://127.0.0.1:{server.port}/v1"


@pytest.mark.filterwarnings("ignore::DeprecationWarning:instructor.*")
@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA"])
def test_instructor(mode: str, base_url: str) -> None:
    instructor = pytest.importorskip("instructor", reason="instructor has an environment of its own")
    from openai import OpenAI

    with OpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        structured = instructor.from_openai(client, mode=getattr(instructor.Mode, mode))
        found = structured.chat.completions.create(
            model=MODEL,
            response_model=Weather,
            messages=[{"role": "user", "content": "It rains in Rome."}],
            temperature=0,
            max_tokens=120,
            max_retries=0,
        )
    assert isinstance(found, Weather)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_llamaindex(base_url: str) -> None:
    like = pytest.importorskip(
        "llama_index.llms.openai_like", reason="LlamaIndex has an environment of its own"
    )
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

    def weather(city: str) -> str:
        """The weather in a city."""
        return f"It rains in {city}."

    tool = FunctionTool.from_defaults(fn=weather)
    response = model.chat_with_tools([tool], "What is the weather in Paris?", tool_required=True)
    [call] = model.get_tool_calls_from_response(response)
    assert tool.call(**call.tool_kwargs).content.startswith("It rains in")
    assert isinstance(model.as_structured_llm(Weather).complete("It rains in Rome.").raw, Weather)
