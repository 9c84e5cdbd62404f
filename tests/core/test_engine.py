"""The engine as a caller in Python sees it: a real model, real threads, real tokens."""

import asyncio
import dataclasses
import gc
import logging
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from basemlx.engine.config import EngineConfig
from basemlx.engine.core import thread as engine_thread
from basemlx.engine.core.stream import GenerationStream
from basemlx.engine.engine import Engine
from basemlx.engine.errors import (
    BaseMLXError,
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineDead,
    GenerationFailed,
    InvalidRequest,
    ModelNotFound,
    QueueFull,
    RequestAborted,
    ShuttingDown,
)
from basemlx.engine.memory import memory_use
from basemlx.engine.models.keeper import ModelLease
from tests.core.conftest import make_prompt, make_request, take, text_of, tokens_of

MODEL = "qwen3"


def wait_until_idle(engine: Engine, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while (stats := engine.stats()).running or stats.waiting:
        assert time.monotonic() < deadline, f"still busy: {stats}"
        time.sleep(0.005)


def test_usage_counts_every_token_once_and_repeats_come_from_the_prefix_cache(engine: Engine) -> None:
    prompt = make_prompt(50, 100)
    first = engine.submit(make_request(MODEL, prompt, max_tokens=10))
    tokens = tokens_of(take(first))
    assert (first.usage.prompt_tokens, first.usage.completion_tokens, first.usage.cached_tokens) == (
        100,
        10,
        0,
    )
    again = engine.submit(make_request(MODEL, prompt, max_tokens=10))
    assert tokens_of(take(again)) == tokens
    assert again.usage.cached_tokens == 99  # all but the last, which decodes
    longer = engine.submit(make_request(MODEL, prompt + tokens + [5, 6], max_tokens=10))
    take(longer)
    assert longer.usage.cached_tokens >= 109  # the answer is kept too


def test_callers_with_different_salts_share_no_prefix(engine: Engine) -> None:
    prompt = make_prompt(51, 40)
    for salt in ("a", "b"):
        stream = engine.submit(dataclasses.replace(make_request(MODEL, prompt), cache_salt=salt))
        take(stream)
        assert stream.usage.cached_tokens == 0


def test_a_seeded_row_gives_the_same_tokens_alone_and_in_any_batch(engine: Engine) -> None:
    def seeded() -> Any:
        return make_request(MODEL, make_prompt(2, 30), temperature=1.0, top_p=0.9, seed=7, max_tokens=40)

    alone = tokens_of(take(engine.submit(seeded())))
    noise = [
        engine.submit(
            make_request(MODEL, make_prompt(row, 9 * row), temperature=1.5, top_k=20, max_tokens=25 + row)
        )
        for row in range(3, 7)
    ]
    in_batch = tokens_of(take(engine.submit(seeded())))
    for stream in noise:
        take(stream)
    assert in_batch == alone
    other = make_request(MODEL, make_prompt(2, 30), temperature=1.0, top_p=0.9, seed=8, max_tokens=40)
    assert tokens_of(take(engine.submit(other))) != alone


def test_choices_differ_repeat_with_their_seed_and_share_one_prefill(engine: Engine) -> None:
    def ask() -> list[list[int]]:
        stream = engine.submit(
            make_request(MODEL, make_prompt(60, 50), temperature=1.2, seed=1, n=4, max_tokens=12)
        )
        deltas = take(stream)
        assert stream.usage.prompt_tokens == 50
        assert stream.usage.completion_tokens == 48
        return [tokens_of(deltas, index) for index in range(4)]

    choices = ask()
    assert len({tuple(tokens) for tokens in choices}) == 4
    assert ask() == choices
    single = make_request(MODEL, make_prompt(60, 50), temperature=1.2, seed=1, max_tokens=12)
    assert tokens_of(take(engine.submit(single))) == choices[0]


def test_text_is_the_tokens_decoded_and_a_stop_string_is_cut_wherever_it_falls(engine: Engine) -> None:
    deltas = take(engine.submit(make_request(MODEL, make_prompt(4, 20), max_tokens=60)))
    tokens, text = tokens_of(deltas), text_of(deltas)
    assert text == engine.loaded(MODEL).tokenizer.decode(tokens)
    printable = [i for i in range(5, len(text) - 4) if "\ufffd" not in text[i : i + 3]]
    for start in printable[:: max(1, len(printable) // 6)]:
        stop = text[start : start + 3]
        stopped = take(engine.submit(make_request(MODEL, make_prompt(4, 20), max_tokens=60, stop=(stop,))))
        assert text_of(stopped) == text[: text.index(stop)]
        assert stopped[-1].finish_reason == "stop"
        assert stopped[-1].stop_reason == stop


def test_the_end_is_named_length_stop_token_or_end_of_text(engine: Engine) -> None:
    tokens = tokens_of(take(engine.submit(make_request(MODEL, make_prompt(5, 20), max_tokens=8))))
    cut = take(engine.submit(make_request(MODEL, make_prompt(5, 20), max_tokens=8)))
    assert cut[-1].finish_reason == "length"
    stopped = engine.submit(
        make_request(MODEL, make_prompt(5, 20), max_tokens=8, stop_token_ids=(tokens[4],))
    )
    deltas = take(stopped)
    first = tokens.index(tokens[4])
    assert tokens_of(deltas) == tokens[:first]
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", tokens[4])
    assert stopped.usage.completion_tokens == first + 1
    end = min(engine.loaded(MODEL).eos_token_ids)
    ended = take(
        engine.submit(
            make_request(MODEL, make_prompt(5, 20), max_tokens=8, ignore_eos=False, logit_bias={end: 100.0})
        )
    )
    assert (ended[-1].finish_reason, ended[-1].stop_reason, tokens_of(ended)) == ("stop", None, [])


def test_logprobs_come_for_rows_that_ask_and_only_for_them(engine: Engine) -> None:
    asked = engine.submit(
        make_request(MODEL, make_prompt(6, 20), logprobs=True, top_logprobs=3, max_tokens=6)
    )
    silent = engine.submit(make_request(MODEL, make_prompt(7, 20), max_tokens=6))
    entries = [entry for delta in take(asked) for entry in delta.logprobs]
    assert len(entries) == 6
    for entry in entries:
        assert len(entry.top) == 3
        assert entry.top[0] == (entry.token_id, entry.logprob)  # greedy
        assert entry.logprob <= 0
    assert not any(delta.logprobs for delta in take(silent))


@pytest.mark.parametrize("after_tokens", [0, 1, 5])
def test_an_abort_at_any_stage_ends_the_stream_and_frees_its_rows(engine: Engine, after_tokens: int) -> None:
    stream = engine.submit(make_request(MODEL, make_prompt(8, 300), n=2, max_tokens=500))
    for _ in range(after_tokens):
        next(stream)
    stream.abort()
    stream.abort()
    with pytest.raises(RequestAborted):
        take(stream)
    wait_until_idle(engine)
    engine.abort("nobody")


def test_a_dropped_stream_frees_its_rows(engine: Engine) -> None:
    stream: GenerationStream | None = engine.submit(make_request(MODEL, make_prompt(9, 30), max_tokens=1500))
    assert stream is not None
    next(stream)
    del stream
    gc.collect()
    wait_until_idle(engine)


def test_a_deadline_ends_a_request_that_waits_and_one_that_runs(engine: Engine) -> None:
    with pytest.raises(DeadlineExceeded):
        take(engine.submit(make_request(MODEL, make_prompt(10, 20), max_tokens=1900, timeout_s=0.05)))
    wait_until_idle(engine)


def test_a_full_queue_refuses_by_count_and_says_when_to_come_back(engine: Engine) -> None:
    capacity = engine.config.max_num_sequences + engine.config.max_waiting
    streams = [
        engine.submit(make_request(MODEL, make_prompt(row, 20), max_tokens=1000)) for row in range(capacity)
    ]
    for _ in range(5):
        with pytest.raises(QueueFull) as refusal:
            engine.submit(make_request(MODEL, make_prompt(0, 20)))
        assert refusal.value.retry_after_s is not None
        assert refusal.value.retry_after_s >= 1
    for stream in streams:
        stream.abort()
    wait_until_idle(engine)


@pytest.mark.parametrize(
    ("change", "error", "param"),
    [
        ({"prompt": []}, InvalidRequest, "prompt"),
        ({"prompt": [-1]}, InvalidRequest, "prompt"),
        ({"prompt": [384]}, InvalidRequest, "prompt"),
        ({"prompt": [3] * 2048}, ContextLengthExceeded, "prompt"),
        ({"prompt": [3] * 2000, "max_tokens": 100}, ContextLengthExceeded, "max_tokens"),
        ({"logit_bias": {384: 1.0}}, InvalidRequest, "logit_bias"),
        ({"stop_token_ids": (-1,)}, InvalidRequest, "stop_token_ids"),
        ({"model": "nobody"}, ModelNotFound, "model"),
        ({"timeout_s": -1.0}, InvalidRequest, "timeout"),
        ({"temperature": float("nan")}, InvalidRequest, "temperature"),
        ({"n": 9}, InvalidRequest, "n"),
    ],
)
def test_a_bad_request_is_refused_by_name_before_it_is_queued(
    engine: Engine, change: dict[str, Any], error: type[BaseMLXError], param: str
) -> None:
    options: dict[str, Any] = {"model": MODEL, "prompt": [3, 4, 5]} | change
    with pytest.raises(error) as refusal:
        engine.submit(make_request(options.pop("model"), options.pop("prompt"), **options))
    assert refusal.value.param == param


def test_many_event_loops_and_threads_share_one_engine(engine: Engine) -> None:
    expected = tokens_of(take(engine.submit(make_request(MODEL, make_prompt(11, 25), max_tokens=20))))
    results: list[list[int]] = []

    async def ask() -> list[int]:
        stream = engine.submit(make_request(MODEL, make_prompt(11, 25), max_tokens=20))
        return tokens_of([delta async for delta in stream])

    async def ask_three() -> None:
        results.extend(await asyncio.gather(ask(), ask(), ask()))

    threads = [threading.Thread(target=lambda: asyncio.run(ask_three())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [expected] * 12


def test_a_finished_request_logs_one_line_without_its_text(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="basemlx.engine"):
        take(engine.submit(make_request(MODEL, make_prompt(12, 25), max_tokens=3)))
        wait_until_idle(engine)
    (line,) = [record.getMessage() for record in caplog.records if "gen done" in record.getMessage()]
    names = [part.split("=")[0] for part in line.removeprefix("gen done ").split()]
    assert " ".join(names) == (
        "id model prompt_tokens cached_tokens completion_tokens ttft_ms elapsed_ms tok_s finish "
        "active_mb cache_mb peak_mb"
    )


def test_random_use_leaves_the_engine_whole(engine: Engine) -> None:
    """Requests of all sizes, some given up at random, from several threads."""

    def use(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(12):
            request = make_request(
                MODEL,
                make_prompt(rng.randrange(3), rng.randrange(1, 120)),
                temperature=rng.choice([0.0, 1.0]),
                max_tokens=rng.randrange(1, 40),
                n=rng.randrange(1, 4),
                presence_penalty=rng.choice([0.0, 0.5]),
                logprobs=rng.random() < 0.3,
            )
            try:
                with engine.submit(request) as stream:
                    for count, _ in enumerate(stream):
                        if rng.random() < 0.02 * count:
                            break
            except QueueFull:
                time.sleep(0.01)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    wait_until_idle(engine)


def test_preempted_rows_give_the_same_tokens(zoo: Callable[..., Path]) -> None:
    """A budget for little more than two rows: rows give way, wait and go on as if nothing had been."""
    config = EngineConfig(max_num_sequences=4, kv_budget_bytes=2 * 512 * 1536, prefix_cache_bytes=0)
    with Engine(EngineConfig(max_num_sequences=4)) as roomy, Engine(config) as tight:
        for engine in (roomy, tight):
            engine.load(MODEL, folder=zoo("qwen3"))

        def ask(engine: Engine) -> list[list[int]]:
            streams = [
                engine.submit(
                    make_request(
                        MODEL,
                        make_prompt(row, 200),
                        max_tokens=120,
                        temperature=1.0,
                        seed=row,
                        frequency_penalty=0.3,
                    )
                )
                for row in range(4)
            ]
            return [tokens_of(take(stream)) for stream in streams]

        assert ask(tight) == ask(roomy)
        tight.check_integrity()


class BrokenModel:
    """A model whose forward raises while `broken` is set; for a fault that cannot be had otherwise."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.broken = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.broken:
            self.broken -= 1
            raise RuntimeError("planted")
        return self._model(*args, **kwargs)


@pytest.fixture
def breakable(zoo: Callable[..., Path]) -> Any:
    with Engine(EngineConfig(stall_timeout_s=0.2)) as engine:
        engine.load(MODEL, folder=zoo("qwen3"))
        worker = engine._workers[MODEL]
        broken = BrokenModel(worker.loaded.model)
        worker._runner._model = broken
        yield engine, broken


def test_a_failed_forward_fails_its_requests_and_the_engine_goes_on(breakable: Any) -> None:
    engine, model = breakable
    streams = [engine.submit(make_request(MODEL, make_prompt(row, 20), max_tokens=400)) for row in range(3)]
    for stream in streams:
        next(stream)
    model.broken = 1
    for stream in streams:
        with pytest.raises(GenerationFailed):
            take(stream)
    assert engine.health().ok
    assert len(tokens_of(take(engine.submit(make_request(MODEL, make_prompt(1, 20)))))) == 16
    engine.check_integrity()


def test_rows_that_cannot_be_opened_leave_no_lease_of_the_prefixes_they_were_to_start_from(
    breakable: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _ = breakable
    prompt = make_prompt(1, 20)
    take(engine.submit(make_request(MODEL, prompt)))
    rows, may_go_on, broken = engine._workers[MODEL]._rows, threading.Event(), [True]
    open_row = rows.open

    def open_or_fail(*args: Any) -> None:
        if broken and broken.pop():
            raise RuntimeError("planted")
        open_row(*args)

    monkeypatch.setattr(rows, "open", open_or_fail)
    engine._thread.post(lambda: may_go_on.wait(30))  # so that one step admits all three
    streams = [engine.submit(make_request(MODEL, prompt)) for _ in range(3)]
    may_go_on.set()
    for stream in streams:
        with pytest.raises(GenerationFailed):
            take(stream)
    engine.check_integrity()
    assert engine.stats().prefix_cache_bytes == 0
    assert tokens_of(take(engine.submit(make_request(MODEL, prompt))))
    engine.check_integrity()


def test_an_engine_that_does_not_recover_says_so_to_everyone(breakable: Any) -> None:
    engine, model = breakable
    stream = engine.submit(make_request(MODEL, make_prompt(1, 20), max_tokens=400))
    next(stream)
    model.broken = 10**9
    with pytest.raises(BaseMLXError):
        take(stream)
    deadline = time.monotonic() + 5
    while engine.health().ok and time.monotonic() < deadline:
        time.sleep(0.01)
    assert engine.health().reason == "the engine thread has ended"
    with pytest.raises(EngineDead):
        engine.submit(make_request(MODEL, [3, 4]))


def test_a_closed_engine_says_that_it_was_closed(zoo: Callable[..., Path]) -> None:
    with Engine() as engine:
        engine.load(MODEL, folder=zoo("qwen3"))
        names = [info.name for info in engine.models()]
    asks: list[Callable[[], object]] = [
        lambda: engine.submit(make_request(MODEL, [3, 4])),
        lambda: engine.load(MODEL),
        lambda: engine.begin_load(MODEL),
        lambda: engine.reserve(MODEL),
        lambda: engine.loaded(MODEL),
        lambda: engine.embed(MODEL, "x"),
    ]
    for ask in asks:
        with pytest.raises(ShuttingDown, match="was closed"):
            ask()
    health = engine.health()
    assert (health.ok, health.reason, health.stuck) == (False, "the engine was closed", False)
    assert engine.unload(MODEL) is False
    assert MODEL in names
    assert engine.stats().running == 0
    engine.abort("unknown")
    engine.check_integrity()


def test_what_slips_in_while_an_engine_closes_is_ended(
    zoo: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine()
    engine.load(MODEL, folder=zoo("qwen3"))
    worker, call = engine._residence.worker(MODEL), engine._thread.call
    late = []

    def slip_in(function: Callable[[], object]) -> object:
        result = call(function)
        lease = ModelLease(MODEL, lambda name: None, lambda name: None)
        late.append(engine._desk.submit(make_request(MODEL, [3, 4], max_tokens=1500), worker, lease))
        return result

    monkeypatch.setattr(engine._thread, "call", slip_in)
    monkeypatch.setattr(engine._desk, "_refuse", lambda: None)
    engine.close()
    assert late[0].ended
    with pytest.raises(ShuttingDown, match="was closed"):
        take(GenerationStream("late", late[0], lambda request_id: None))


def test_a_stuck_step_is_visible(breakable: Any) -> None:
    engine, _ = breakable
    release = threading.Event()
    engine._thread.post(lambda: release.wait(10))
    deadline = time.monotonic() + 5
    while engine.health().ok and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "stuck" in (engine.health().reason or "")
    release.set()
    while not engine.health().ok and time.monotonic() < deadline:
        time.sleep(0.02)
    assert engine.health().ok


def test_draining_finishes_what_runs_and_refuses_what_is_new(zoo: Callable[..., Path]) -> None:
    engine = Engine()
    engine.load(MODEL, folder=zoo("qwen3"))
    running = engine.submit(make_request(MODEL, make_prompt(1, 20), max_tokens=30))
    drained = threading.Thread(target=engine.drain, args=(10.0,))
    drained.start()
    assert len(tokens_of(take(running))) == 30
    drained.join(10)
    with pytest.raises(ShuttingDown):
        engine.submit(make_request(MODEL, [3, 4]))
    engine.close()
    engine.close()


def test_closing_ends_open_streams_with_an_error(zoo: Callable[..., Path]) -> None:
    engine = Engine()
    engine.load(MODEL, folder=zoo("qwen3"))
    stream = engine.submit(make_request(MODEL, make_prompt(1, 20), max_tokens=2000))
    next(stream)
    engine.close()
    with pytest.raises(ShuttingDown):
        take(stream)
    assert not engine.health().ok


def test_an_idle_engine_gives_back_what_mlx_keeps_for_reuse(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_thread, "IDLE_AFTER_S", 0.05)
    tokens = tokens_of(take(engine.submit(make_request(MODEL, make_prompt(60, 40), max_tokens=8))))
    deadline_s = time.monotonic() + 10
    while memory_use().cache_bytes and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert memory_use().cache_bytes == 0
    assert tokens_of(take(engine.submit(make_request(MODEL, make_prompt(60, 40), max_tokens=8)))) == tokens
