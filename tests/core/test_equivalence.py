"""The engine's greedy tokens are mlx-lm's own, for every kind of cache, alone and in a batch of rows that come and go.

Near-ties: two logits closer than float rounding may be ordered differently by a batch of another shape. The models
here have no such ties on these prompts, so equality is exact.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from basemlx.engine.config import EngineConfig
from basemlx.engine.core.pacer import PrefillPacer
from basemlx.engine.engine import Engine
from basemlx.engine.runtime import mlx_lm_module, mx
from tests.core.conftest import make_prompt, make_request, take, tokens_of

KINDS = ["qwen3", "llama", "qwen3_moe", "gemma3_text", "qwen3_next", "lfm2", "mamba2"]
LENGTHS = [(5, 30), (40, 12), (1, 25), (90, 40), (17, 7), (64, 33), (33, 20), (130, 15)]


@pytest.fixture(scope="module")
def engine(zoo: Callable[..., Path]) -> Iterator[Engine]:
    with Engine(EngineConfig(max_num_sequences=8, prefill_chunk_tokens=24)) as engine:
        for kind in KINDS:
            engine.load(kind, folder=zoo(kind))
        yield engine
        engine.check_integrity()


def mlx_lm_tokens(folder: Path, prompt: list[int], count: int) -> list[int]:
    model, _ = mlx_lm_module("utils").load_model(folder)
    step = mlx_lm_module("generate").generate_step
    return [int(token) for token, _ in step(mx.array(prompt), model, max_tokens=count)]


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_equal_mlx_lms_alone_and_in_a_batch_of_eight(
    engine: Engine, zoo: Callable[..., Path], kind: str
) -> None:
    prompts = [make_prompt(row, length) for row, (length, _) in enumerate(LENGTHS)]
    counts = [count for _, count in LENGTHS]
    expected = [
        mlx_lm_tokens(zoo(kind), prompt, count) for prompt, count in zip(prompts, counts, strict=True)
    ]
    alone = []
    for prompt, count in zip(prompts, counts, strict=True):
        alone.append(tokens_of(take(engine.submit(make_request(kind, prompt, max_tokens=count)))))
    assert alone == expected
    # Salted, so that prompts are computed again, beside rows that run; rows leave at their own lengths.
    streams = []
    for prompt, count in zip(prompts, counts, strict=True):
        request = make_request(kind, prompt, max_tokens=count)
        streams.append(engine.submit(replace(request, cache_salt="together")))
        next(streams[0]) if len(streams) % 3 == 0 and not streams[0].ended else None
    together = [tokens_of(take(stream)) for stream in streams]
    assert [stream.usage.cached_tokens for stream in streams] == [0] * len(streams)
    assert together[1:] == expected[1:]
    assert expected[0][-len(together[0]) :] == together[0]


def test_two_models_answer_at_the_same_time(engine: Engine) -> None:
    results: dict[str, list[int]] = {}

    def ask(kind: str) -> None:
        results[kind] = tokens_of(take(engine.submit(make_request(kind, make_prompt(1, 20), max_tokens=60))))

    threads = [threading.Thread(target=ask, args=(kind,)) for kind in ("llama", "mamba2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {kind: len(tokens) for kind, tokens in results.items()} == {"llama": 60, "mamba2": 60}


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5])
def test_a_prompt_given_up_amid_its_layers_changes_nothing_for_rows_beside_and_after_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """One layer a step, so that most steps end amid a chunk; its slot is used again at once."""
    stays, gone, after = make_prompt(1, 20), make_prompt(2, 120), make_prompt(3, 70)
    expected = [
        tokens_of(take(engine.submit(make_request("qwen3", p, max_tokens=60)))) for p in (stays, after)
    ]
    monkeypatch.setattr(PrefillPacer, "layers", lambda self, tokens, rows: 1 if rows else self.num_layers)
    first = engine.submit(make_request("qwen3", stays, max_tokens=60))
    got = [next(first)]
    given_up = engine.submit(replace(make_request("qwen3", gone), cache_salt=f"gone {steps}"))
    beside = engine.submit(replace(make_request("qwen3", make_prompt(4, 50)), cache_salt=f"beside {steps}"))
    got += [next(first) for _ in range(steps)]
    given_up.abort()
    second = engine.submit(replace(make_request("qwen3", after, max_tokens=60), cache_salt=f"after {steps}"))
    assert tokens_of(take(second)) == expected[1]
    assert tokens_of(got + take(first)) == expected[0]
    take(beside)
