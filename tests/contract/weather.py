"""What agent stacks are asked: a tool to call, and an answer to give in a form."""

from typing import Any

from pydantic import BaseModel, ConfigDict

MODEL = "tiny"
QUESTION = "What is the weather in Paris?"


class Weather(BaseModel):
    model_config = ConfigDict(extra="forbid")

    city: str
    rain: bool


def weather(city: str) -> str:
    """The weather in a city."""
    return f"It rains in {city}."


WIRE_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
