"""Engines over small random-weight models, and the baseline every test must leave behind."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from basemlx.engine.config import EngineConfig
from basemlx.engine.core.stream import GenerationStream
from basemlx.engine.engine import Engine
from basemlx.engine.types import GenerationRequest, OutputDelta, SamplingParams

_numbers = itertools.count(1)


def make_request(
    model: str, prompt: list[int], *, timeout_s: float | None = None, **sampling: Any
) -> GenerationRequest:
    """Greedy and blind to end tokens unless told otherwise: random weights end anywhere."""
    options: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True, "max_tokens": 16} | sampling
    return GenerationRequest(
        f"t{next(_numbers)}", model, tuple(prompt), SamplingParams(**options), timeout_s=timeout_s
    )


def make_prompt(row: int, length: int) -> list[int]:
    return [3 + (7 * i + 11 * row + i * i % 5) % 250 for i in range(length)]


def tokens_of(deltas: list[OutputDelta], index: int = 0) -> list[int]:
    return [token for delta in deltas if delta.index == index for token in delta.token_ids]


def text_of(deltas: list[OutputDelta], index: int = 0) -> str:
    return "".join(delta.text for delta in deltas if delta.index == index)


def take(stream: GenerationStream) -> list[OutputDelta]:
    return list(stream)


@pytest.fixture(scope="session")
def shared_engine(zoo: Callable[..., Path]) -> Iterator[Engine]:
    with Engine(EngineConfig(max_num_sequences=8, max_waiting=8)) as engine:
        engine.load("qwen3", folder=zoo("qwen3"))
        yield engine


@pytest.fixture
def engine(shared_engine: Engine) -> Iterator[Engine]:
    """The shared engine, idle and whole before and after."""
    yield shared_engine
    shared_engine.check_integrity()
    stats = shared_engine.stats()
    assert (stats.running, stats.waiting, stats.kv_bytes) == (0, 0, 0)
