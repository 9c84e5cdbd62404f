"""The service over the real engine and a small random model: what it says is noise, that it says it right is not."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from basemlx.engine.config import EngineConfig
from basemlx.engine.engine import Engine
from basemlx.engine.errors import ContextLengthExceeded, DeadlineExceeded, InvalidRequest, ModelNotFound
from basemlx.engine.openai.service import OpenAIService

MESSAGES = [{"role": "user", "content": "What is the weather in Tokyo today?"}]


@pytest.fixture(scope="module")
def engine(zoo: Callable[..., Path]) -> Iterator[Engine]:
    with Engine(EngineConfig(max_num_sequences=8)) as engine:
        engine.load("noise", folder=zoo("qwen3"))
        yield engine


@pytest.fixture
def service(engine: Engine) -> Iterator[OpenAIService]:
    yield OpenAIService(engine)
    engine.check_integrity()


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "noise", "messages": MESSAGES, "max_tokens": 16, "seed": 7, **fields}


def contents(response: dict[str, Any]) -> list[str]:
    return [choice["message"]["content"] for choice in response["choices"]]


def test_a_seed_gives_the_same_text_streamed_or_not_alone_or_as_a_choice(service: OpenAIService) -> None:
    whole = service.chat(body(n=2)).response()
    streamed = ["", ""]
    for chunk in service.chat(body(n=2, stream=True)):
        for part in chunk["choices"]:
            streamed[part["index"]] += part["delta"].get("content", "")
    assert streamed == contents(whole)
    assert contents(service.chat(body()).response()) == contents(whole)[:1]


def test_a_stop_string_ends_the_text_before_it(service: OpenAIService) -> None:
    [text] = contents(service.chat(body()).response())
    stop = text[len(text) // 2 :][:2]
    response = service.chat(body(stop=[stop])).response()
    assert contents(response) == [text[: text.index(stop)]]
    assert response["choices"][0]["finish_reason"] == "stop"


def test_usage_and_finish_reason_are_exact(service: OpenAIService) -> None:
    response = service.chat(body(ignore_eos=True, logprobs=True, top_logprobs=2)).response()
    assert response["choices"][0]["finish_reason"] == "length"
    assert response["usage"]["completion_tokens"] == 16
    assert len(response["choices"][0]["logprobs"]["content"]) == 16


def test_more_prompts_than_could_ever_be_taken_are_refused_for_good(service: OpenAIService) -> None:
    with pytest.raises(InvalidRequest, match=r"146 choices .* at most 72") as refusal:
        service.completion({"model": "noise", "prompt": ["Hello"] * 73, "n": 2, "max_tokens": 1})
    assert refusal.value.param == "prompt"


def test_several_prompts_run_together_and_come_back_in_order(service: OpenAIService) -> None:
    prompts = ["The quick brown", "A small model"]
    common = {"model": "noise", "max_tokens": 8, "temperature": 0, "echo": True}
    together = service.completion({**common, "prompt": prompts}).response()
    alone = [service.completion({**common, "prompt": prompt}).response() for prompt in prompts]
    assert [choice["text"] for choice in together["choices"]] == [one["choices"][0]["text"] for one in alone]
    assert together["usage"]["completion_tokens"] == 16


async def test_an_event_loop_is_served_as_well(service: OpenAIService) -> None:
    expected = contents(service.chat(body()).response())
    assert contents(await service.chat(body()).aresponse()) == expected


def test_the_engines_refusals_come_through(service: OpenAIService) -> None:
    with pytest.raises(ModelNotFound):
        service.chat(body(model="other"))
    with pytest.raises(ContextLengthExceeded):
        service.chat(body(max_tokens=10**6))
    with pytest.raises(DeadlineExceeded):
        service.chat(body(max_tokens=None, ignore_eos=True, timeout=0.05)).response()


def test_leaving_a_turn_frees_its_row(engine: Engine, service: OpenAIService) -> None:
    turn = service.chat(body(max_tokens=1500, ignore_eos=True, stream=True))
    next(turn)
    del turn
    after = service.chat(body()).response()
    assert after["choices"]
    assert engine.health().running == 0
