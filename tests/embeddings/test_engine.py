"""Embedding through the engine: what is asked is what comes, beside generation, and every way to end early."""

import asyncio
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from basemlx.engine.config import EngineConfig
from basemlx.engine.core.worker import ModelWorker
from basemlx.engine.embeddings.loader import LoadedEmbedder
from basemlx.engine.embeddings.types import EmbeddingRequest
from basemlx.engine.embeddings.worker import MAX_BATCH_TOKENS, MIN_BATCH_TOKENS, BatchSize
from basemlx.engine.engine import Engine
from basemlx.engine.errors import (
    BaseMLXError,
    ContextLengthExceeded,
    DeadlineExceeded,
    GenerationFailed,
    InvalidRequest,
    QueueFull,
    ShuttingDown,
)
from basemlx.engine.types import GenerationRequest, SamplingParams
from tests.embeddings.zoo import BERT, CORPUS, HIDDEN, Weights, hidden_states, unit

WORDS = " ".join(CORPUS).split()
TEXTS = [" ".join(WORDS[i % 20 : i % 20 + 1 + i * 7 % 11]) for i in range(40)]


def begun(engine: Engine, texts: list[str], **options: Any) -> "Future[Any]":
    request = engine.embedder("bert").prepare(texts, request_id="r", **options)
    return engine.submit_embeddings(request)


@contextmanager
def gate(monkeypatch: pytest.MonkeyPatch, after: int = 0) -> Iterator[tuple[threading.Event, list[int]]]:
    """Batches from the `after`-th on wait until the block is left; the event says that one does. Yields their sizes."""
    reached, free, sizes = threading.Event(), threading.Event(), list[int]()
    compute = LoadedEmbedder.vectors

    def gated(self: LoadedEmbedder, rows: Any) -> Any:
        sizes.append(len(rows))
        if len(sizes) > after:
            reached.set()
            assert free.wait(30)
        return compute(self, rows)

    monkeypatch.setattr(LoadedEmbedder, "vectors", gated)
    try:
        yield reached, sizes
    finally:
        free.set()


def test_vectors_come_in_the_order_of_the_inputs(engine: Engine, bert_folder: tuple[Path, Weights]) -> None:
    loaded, weights = engine.embedder("bert"), bert_folder[1]
    result = engine.embed("bert", TEXTS)
    rows = [list(row) for row in loaded.prepare(TEXTS, request_id="r").token_ids]
    wanted = np.stack([unit(hidden_states(weights, BERT, row).mean(0)) for row in rows])
    assert result.vectors.dtype == np.float32
    np.testing.assert_allclose(result.vectors, wanted, atol=2e-5)
    assert result.prompt_tokens == sum(map(len, rows))


def test_a_text_and_its_token_ids_give_the_same_vector_alone_and_among_others(engine: Engine) -> None:
    [row] = engine.embedder("bert").prepare(TEXTS[3], request_id="r").token_ids
    one = engine.embed("bert", TEXTS[3]).vectors[0]
    for inputs, index in ((list(row), 0), ([list(row), TEXTS[5]], 0), ([TEXTS[5], TEXTS[3]], 1)):
        np.testing.assert_allclose(engine.embed("bert", inputs).vectors[index], one, atol=1e-5)


async def test_async_callers_share_the_engine(engine: Engine) -> None:
    results = await asyncio.gather(*(engine.aembed("bert", TEXTS[i : i + 8]) for i in range(0, 40, 8)))
    whole = engine.embed("bert", TEXTS).vectors
    np.testing.assert_allclose(np.concatenate([result.vectors for result in results]), whole, atol=1e-5)


def test_dimensions_are_the_first_ones_made_a_unit_vector_again(engine: Engine) -> None:
    whole = engine.embed("matryoshka", TEXTS).vectors
    short = engine.embed("matryoshka", TEXTS, dimensions=8).vectors
    assert short.shape == (40, 8)
    np.testing.assert_allclose(short, np.stack([unit(vector[:8]) for vector in whole]), atol=1e-6)
    assert engine.embed("matryoshka", "a", dimensions=HIDDEN).vectors.shape == (1, HIDDEN)


@pytest.mark.parametrize(
    ("model", "dimensions"), [("bert", 8), ("bert", 33), ("matryoshka", 33), ("matryoshka", 0)]
)
def test_dimensions_that_cannot_be_had_are_refused_by_name(
    engine: Engine, model: str, dimensions: int
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        engine.embed(model, "a", dimensions=dimensions)
    assert caught.value.param == "dimensions"


def test_a_prompt_of_the_models_own_goes_before_each_text(engine: Engine) -> None:
    prompted = engine.embed("matryoshka", ["weather in tokyo", "fox"], prompt_name="query").vectors
    written = engine.embed("matryoshka", ["what is the weather in tokyo", "what is the fox"]).vectors
    np.testing.assert_array_equal(prompted, written)
    with pytest.raises(InvalidRequest, match="'query', 'document'") as caught:
        engine.embed("matryoshka", "a", prompt_name="question")
    assert caught.value.param == "prompt_name"
    with pytest.raises(InvalidRequest, match="token ids"):
        engine.embed("matryoshka", [5, 6], prompt_name="query")


def test_inputs_over_the_limit_are_refused_by_index_and_nothing_is_computed(engine: Engine) -> None:
    steps = engine.stats().steps
    inputs: list[Any] = ["a", "fox " * 60, [5] * 48, [5] * 49, "the fox " * 100_000]
    with pytest.raises(ContextLengthExceeded) as caught:
        engine.embed("bert", inputs)
    message = caught.value.message
    assert caught.value.param == "input[1]"
    assert "may have 48 tokens" in message
    assert all(f"input[{index}] has" in message for index in (1, 3, 4))
    assert "input[2]" not in message
    assert engine.stats().steps == steps


@pytest.mark.parametrize(
    ("inputs", "param"),
    [
        ("", "input"),
        ([], "input"),
        (["a", ""], "input[1]"),
        ([[5], []], "input[1]"),
        ([[5], [5, 200]], "input[1]"),
        ([[5.7, 6.9]], "input[0]"),
        ([[5], [True, False]], "input[1]"),
        (["a", 5], "input[1]"),
        ([5, "a"], "input[0]"),
        ([None], "input[0]"),
        (None, "input"),
        (b"abc", "input"),
        ({"a"}, "input"),
        (np.array([5, 6]), "input"),
    ],
)
def test_empty_inputs_and_tokens_that_do_not_exist_are_refused_by_index(
    engine: Engine, inputs: Any, param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        engine.embed("bert", inputs)
    assert caught.value.param == param


def test_models_that_generate_do_not_embed_and_the_other_way_round(engine: Engine) -> None:
    with pytest.raises(InvalidRequest, match="not trained to embed") as caught:
        engine.embed("qwen3", "a")
    assert caught.value.param == "model"
    for ask in (
        lambda: engine.submit(GenerationRequest("g", "bert", (1,))),
        lambda: engine.loaded("bert"),
        lambda: engine.submit_embeddings(EmbeddingRequest("r", "qwen3", ((1,),))),
    ):
        with pytest.raises(InvalidRequest):
            ask()
    infos = {info.name: info for info in engine.models()}
    assert infos["bert"].capabilities == infos["decoder"].capabilities == ("embedding",)


def test_generation_goes_on_between_batches(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a request of many batches, the generating model beside it gets a turn after each."""
    turns: list[str] = []
    compute, step = LoadedEmbedder.vectors, ModelWorker.step

    def noted(self: LoadedEmbedder, rows: Any) -> Any:
        turns.append("embed")
        return compute(self, rows)

    def noted_step(self: ModelWorker) -> None:
        turns.append("generate")
        step(self)

    monkeypatch.setattr(LoadedEmbedder, "vectors", noted)
    monkeypatch.setattr(ModelWorker, "step", noted_step)
    monkeypatch.setattr("basemlx.engine.embeddings.worker.TURN_S", 0.0)  # batches of the least size
    engine.embed("bert", "a")  # of which the worker learns that
    turns.clear()
    request = engine.embedder("bert").prepare(TEXTS * 10, request_id="r")
    sampling = SamplingParams(max_tokens=400, temperature=0.0, ignore_eos=True)
    stream = engine.submit(GenerationRequest("g", "qwen3", (5, 6, 7), sampling))
    future = engine.submit_embeddings(request)
    assert sum(len(delta.token_ids) for delta in stream) == 400
    future.result(30)
    both = turns[turns.index("embed") : len(turns) - turns[::-1].index("generate")]
    assert both.count("embed") > 10
    in_a_row = [kind for kind, other in itertools.pairwise(both) if kind == other]
    assert "embed" not in in_a_row


def test_inputs_of_several_requests_share_a_batch(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.embed("bert", TEXTS)  # so that batches have grown
    with gate(monkeypatch) as (reached, sizes):
        futures = [begun(engine, TEXTS[:1])]
        assert reached.wait(30)
        futures += [begun(engine, [text]) for text in TEXTS[1:5]]
    whole = np.concatenate([future.result(30).vectors for future in futures])
    assert sizes == [1, 4]
    np.testing.assert_allclose(whole, engine.embed("bert", TEXTS[:5]).vectors, atol=1e-5)


def test_a_batch_is_bounded_whatever_the_number_of_inputs(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    padded: list[int] = []
    compute = LoadedEmbedder.vectors

    def measured(self: LoadedEmbedder, rows: Any) -> Any:
        padded.append(len(rows) * max(map(len, rows)))
        return compute(self, rows)

    monkeypatch.setattr(LoadedEmbedder, "vectors", measured)
    monkeypatch.setattr("basemlx.engine.embeddings.worker.MAX_BATCH_TOKENS", 100)
    engine.embed("bert", "a")  # of which the worker learns that
    padded.clear()
    real = engine.embed("bert", TEXTS * 5).prompt_tokens
    assert max(padded) <= 100
    assert sum(padded) < 1.3 * real, "inputs of about the same length go together"


def test_batches_grow_to_what_a_turn_may_take() -> None:
    size = BatchSize()
    assert size.tokens == MIN_BATCH_TOKENS
    for _ in range(20):
        size.observe(size.tokens, size.tokens / 4000)  # 4,000 tokens a second
    assert size.tokens == 400
    size.observe(400, 4.0)
    assert size.tokens == MIN_BATCH_TOKENS
    for _ in range(20):
        size.observe(size.tokens, 1e-9)
    assert size.tokens == MAX_BATCH_TOKENS


def test_a_request_given_up_ends_before_its_next_batch(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gate(monkeypatch, after=1) as (reached, sizes):
        future = begun(engine, TEXTS * 50)
        assert reached.wait(30)
        assert future.cancel()
    engine.embed("bert", "a")
    assert sizes[2:] in ([], [1]), "no batch of it came after"
    with pytest.raises(CancelledError):
        future.result()


async def test_a_cancelled_task_gives_its_request_up(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with gate(monkeypatch) as (reached, sizes):
        task = asyncio.create_task(engine.aembed("bert", TEXTS * 50))
        assert await asyncio.to_thread(reached.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await engine.aembed("bert", "a")
    assert sizes[1:] == [1]


def test_a_deadline_ends_a_request(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with gate(monkeypatch) as (reached, _):
        future = begun(engine, TEXTS * 50, timeout_s=1e-4)
        assert not reached.wait(0.3)  # too late before it began
        with pytest.raises(DeadlineExceeded):
            future.result(30)


def test_a_failing_batch_ends_its_models_requests_and_no_others(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = LoadedEmbedder.vectors
    faults = ["the device failed"]

    def failing(self: LoadedEmbedder, rows: Any) -> Any:
        if faults and self.info.name == "bert":
            raise RuntimeError(faults.pop())
        return compute(self, rows)

    monkeypatch.setattr(LoadedEmbedder, "vectors", failing)
    sampling = SamplingParams(max_tokens=30, temperature=0.0, ignore_eos=True)
    stream = engine.submit(GenerationRequest("g", "qwen3", (5, 6, 7), sampling))
    with pytest.raises(GenerationFailed):
        engine.embed("bert", TEXTS)
    assert len(engine.embed("bert", TEXTS).vectors) == 40
    assert sum(len(delta.token_ids) for delta in stream) == 30


def test_vectors_that_are_not_finite_are_an_error(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        LoadedEmbedder, "vectors", lambda self, rows: np.full((len(rows), HIDDEN), np.nan, np.float32)
    )
    with pytest.raises(GenerationFailed, match="finite"):
        engine.embed("bert", "a")


def test_a_full_queue_refuses(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with gate(monkeypatch):
        futures = [begun(engine, ["a"]) for _ in range(8)]
        with pytest.raises(QueueFull):
            begun(engine, ["a"])
    assert all(future.result(30).vectors.shape == (1, HIDDEN) for future in futures)


@pytest.fixture
def own_engine(bert_folder: tuple[Path, Weights]) -> Iterator[Engine]:
    with Engine(EngineConfig(load_on_demand=False)) as engine:
        engine.load("bert", folder=bert_folder[0])
        yield engine


def test_an_unloaded_model_gives_its_memory_back_and_can_come_again(
    own_engine: Engine, bert_folder: tuple[Path, Weights]
) -> None:
    own_engine.embed("bert", TEXTS)
    held = own_engine.stats()
    assert own_engine.unload("bert")
    after = own_engine.stats()
    assert (held.models_loaded, after.models_loaded) == (1, 0)
    assert held.active_bytes - after.active_bytes > 30_000
    with pytest.raises(BaseMLXError):
        own_engine.embed("bert", "a")
    own_engine.load("bert", folder=bert_folder[0])
    assert own_engine.embed("bert", "a").vectors.shape == (1, HIDDEN)


def test_a_model_in_use_is_not_unloaded(own_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with gate(monkeypatch) as (reached, _):
        future = begun(own_engine, TEXTS)
        assert reached.wait(30)
        unloading = own_engine.begin_unload("bert")
        with pytest.raises(TimeoutError):
            unloading.result(0.2)
    assert len(future.result(30).vectors) == 40
    assert unloading.result(30)


def test_draining_waits_for_what_is_open_and_closing_ends_it(
    own_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gate(monkeypatch) as (reached, _):
        future = begun(own_engine, TEXTS)
        assert reached.wait(30)
        assert not own_engine.drain(0.05)
        with pytest.raises(ShuttingDown):
            own_engine.submit_embeddings(EmbeddingRequest("r", "bert", ((5,),)))
    assert own_engine.drain(30)
    assert len(future.result(0).vectors) == 40


def test_closing_answers_whatever_is_open(own_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with gate(monkeypatch) as (reached, _):
        future = begun(own_engine, TEXTS * 50)
        assert reached.wait(30)
        closing = threading.Thread(target=own_engine.close)
        closing.start()
    closing.join(30)
    with pytest.raises(ShuttingDown):
        future.result(0)


def test_the_log_tells_figures_and_no_text(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "basemlx.engine")
    engine.embed("bert", ["fox and dog"])
    [line] = [record.getMessage() for record in caplog.records if "embed done" in record.getMessage()]
    assert "model=bert inputs=1 prompt_tokens=" in line
    assert "fox" not in line
