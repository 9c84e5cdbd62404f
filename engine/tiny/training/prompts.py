"""The prompts that the built-in model must answer sensibly, each with what sensible means, as far as code can say it.

Each is asked plainly, with thinking off and on. Knows no model.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from basemlx.engine.tiny.training.judging import Answer, same_json

Json = dict[str, Any]

GET_WEATHER: Json = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather for a location",
        "parameters": {
            "type": "object",
            "properties": {"location": {"type": "string", "description": "City name"}},
            "required": ["location"],
        },
    },
}


@dataclass(frozen=True, slots=True)
class Prompt:
    text: str
    sensible: Callable[[Answer], bool]
    tools: tuple[Json, ...] = ()


def _says(*words: str) -> Callable[[Answer], bool]:
    return lambda answer: not answer.calls and all(word.lower() in answer.text.lower() for word in words)


def sentences(text: str) -> int:
    return len(re.findall(r"[.!?](?=\s|$)", text))


def _explains_mlx(answer: Answer) -> bool:
    return sentences(answer.text) == 2 and "array framework" in answer.text and "Apple silicon" in answer.text


def _is_haiku(answer: Answer) -> bool:
    lines = answer.text.split("\n")
    return len(lines) == 3 and all(2 <= len(line.split()) <= 8 for line in lines)


def _lists_primes(answer: Answer) -> bool:
    return re.findall(r"\d+", answer.text) == ["2", "3", "5"]


def _asks_for_tokyo(answer: Answer) -> bool:
    if answer.text or len(answer.calls) != 1:
        return False
    return same_json(json.loads(answer.calls[0]), {"name": "get_weather", "arguments": {"location": "Tokyo"}})


def _is_story(answer: Answer) -> bool:
    return 120 <= len(answer.text.split()) <= 260 and answer.text.endswith((".", "!", "?", '"'))


PROMPTS = (
    Prompt("Explain MLX in two sentences.", _explains_mlx),
    Prompt("Write a haiku about latency.", _is_haiku),
    Prompt("List three primes.", _lists_primes),
    Prompt("What is the weather in Tokyo?", _asks_for_tokyo, (GET_WEATHER,)),
    Prompt("Write a 200-word story.", _is_story),
    Prompt("Hello!", _says("hello", "help")),
    Prompt("How are you?", _says("fine")),
    Prompt("Who are you?", _says("tiny", "basemlx")),
    Prompt("What is 7 + 5?", _says("12")),
    Prompt("What is 9 times 8?", _says("72")),
    Prompt("What is the capital of France?", _says("Paris")),
    Prompt("Hello!", _says("hello", "help"), (GET_WEATHER,)),
)
