"""Models in and out of a real engine's memory, while requests run."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from basemlx.engine.config import EngineConfig
from basemlx.engine.engine import Engine
from basemlx.engine.errors import (
    ModelCorrupt,
    ModelInUse,
    ModelNotFound,
    OutOfMemory,
    ShuttingDown,
)
from basemlx.engine.models.discovery import Discovery, ModelPlaces
from basemlx.engine.models.needs import plan_load
from tests.core.conftest import make_prompt, make_request, take, tokens_of
from tests.model_zoo import write_model
from tests.models.conftest import put_in_hub_cache

MIB = 2**20


def small(**options: Any) -> EngineConfig:
    return EngineConfig(max_num_sequences=4, kv_budget_bytes=4 * MIB, prefix_cache_bytes=MIB, **options)


def need(machine: Discovery, name: str, config: EngineConfig) -> int:
    found = machine.find(name)
    assert found is not None
    return plan_load(found.folder, None, config, config.max_memory_bytes or 1 << 30).num_bytes


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of models in the order in which their weights are read."""
    import basemlx.engine.models.residence as module

    names: list[str] = []
    original = module.load_steps

    def counted(prepared: Any, **options: Any) -> Any:
        names.append(prepared.name)
        return original(prepared, **options)

    monkeypatch.setattr(module, "load_steps", counted)
    return names


@pytest.fixture
def engine(machine: Discovery) -> Iterator[Engine]:
    with Engine(small(), discovery=machine) as engine:
        yield engine
        engine.check_integrity()


def answer(engine: Engine, model: str, **sampling: Any) -> list[int]:
    return tokens_of(take(engine.submit(make_request(model, make_prompt(1, 20), **sampling))))


def test_a_progress_callback_that_fails_fails_nobodys_load(
    engine: Engine, loads: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []
    calls: list[str] = []

    def failing(stage: str, fraction: float) -> None:
        calls.append(stage)
        raise RuntimeError("the terminal has gone")

    with ThreadPoolExecutor(3) as callers:
        asked = [
            callers.submit(engine.load, "org/a", progress=progress)
            for progress in (failing, None, lambda stage, fraction: told.append(stage))
        ]
        assert [future.result(60).name for future in asked] == ["org/a"] * 3
    assert loads == ["org/a"]
    assert len(calls) <= 1, "it is not called again"
    with caplog.at_level("ERROR"):
        assert engine.load("org/b", progress=failing).loaded
    assert "a progress callback failed" in caplog.text
    engine.unload("org/a")
    engine.load("org/a", progress=lambda stage, fraction: told.append(stage))
    assert "weights" in told


def test_a_request_loads_the_model_it_names(engine: Engine, loads: list[str]) -> None:
    assert len(answer(engine, "org/a")) == 16
    assert len(answer(engine, "org/a")) == 16
    assert loads == ["org/a"]
    [info, other] = engine.models()
    assert (info.name, info.loaded, info.source, info.users) == ("org/a", True, "huggingface", 0)
    assert (other.name, other.loaded) == ("org/b", False)


async def test_fifty_tasks_that_want_one_model_load_it_once(engine: Engine, loads: list[str]) -> None:
    async def use() -> str:
        lease = await asyncio.wrap_future(engine.reserve("org/a"))
        with lease:
            return engine.loaded("org/a").info.name

    assert set(await asyncio.gather(*(use() for _ in range(50)))) == {"org/a"}
    assert loads == ["org/a"]
    [info, _] = engine.models()
    assert info.users == 0


async def test_one_who_gives_up_waiting_does_not_stop_the_load_for_the_others(
    engine: Engine, loads: list[str]
) -> None:
    first, second = engine.reserve("org/a"), engine.reserve("org/a")
    first.cancel()
    with await asyncio.wrap_future(second) as lease:
        assert lease.name == "org/a"
    assert loads == ["org/a"]
    assert engine.models()[0].users == 0


def test_two_models_in_turns_under_a_ceiling_for_one_both_keep_answering(
    machine: Discovery, loads: list[str]
) -> None:
    config = small(max_memory_bytes=8 * MIB)
    config = small(
        max_memory_bytes=int(1.2 * max(need(machine, name, config) for name in ("org/a", "org/b")))
    )
    with Engine(config, discovery=machine) as engine:
        alone = {name: answer(engine, name) for name in ("org/a", "org/b")}
        for _ in range(3):
            for name in ("org/a", "org/b"):
                assert answer(engine, name) == alone[name], "the model that came back is the same"
        assert loads == ["org/a", "org/b"] * 4
        assert engine.stats().models_loaded == 1
        # Many at once, both models mixed: turns, not a swap a request.
        loads.clear()
        with ThreadPoolExecutor(8) as threads:
            names = ["org/a", "org/b"] * 8
            for name, tokens in zip(names, threads.map(lambda n: answer(engine, n), names), strict=True):
                assert tokens == alone[name]
        assert len(loads) < len(names)
        engine.check_integrity()


def test_two_loaded_models_answer_at_the_same_time(engine: Engine) -> None:
    for name in ("org/a", "org/b"):
        engine.load(name)
    streams = [engine.submit(make_request(n, make_prompt(1, 20), max_tokens=60)) for n in ("org/a", "org/b")]
    firsts = [next(stream) for stream in streams]
    assert all(delta.finish_reason is None for delta in firsts), "neither waits for the other's end"
    for stream in streams:
        take(stream)


def test_a_model_answers_while_another_is_loaded(engine: Engine, tmp_path: Path, places: ModelPlaces) -> None:
    deep = write_model(tmp_path / "deep", "qwen3", num_hidden_layers=32, hidden_size=192)
    put_in_hub_cache(places.hub_cache, "org/deep", deep)
    engine.load("org/a")
    stream = engine.submit(make_request("org/a", make_prompt(1, 20), max_tokens=1000))
    next(stream)
    loading = engine.reserve("org/deep")
    times = [time.monotonic()]
    for _ in stream:
        times.append(time.monotonic())
        if loading.done():
            break
    assert len(times) > 5, "tokens came while the model was loaded"
    assert loading.done(), "the load went on while the other answered"
    loading.result().release()
    stream.abort()


def test_a_model_in_use_is_not_unloaded_and_an_unload_gives_its_memory_back(engine: Engine) -> None:
    engine.load("org/b")
    held = engine.stats().active_bytes
    stream = engine.submit(make_request("org/b", make_prompt(1, 20), max_tokens=1000))
    next(stream)
    with pytest.raises(ModelInUse):
        engine.unload("org/b", timeout_s=0.05)
    assert len(answer(engine, "org/b")) == 16, "it stays, and takes new requests"
    stream.abort()
    assert engine.unload("org/b") is True
    assert engine.unload("org/b") is False
    weights = engine.discovery.find("org/b")
    assert weights is not None
    assert engine.stats().active_bytes <= held - weights.size_bytes
    assert engine.stats().models_loaded == 0


def test_an_unload_waits_for_running_answers(engine: Engine) -> None:
    engine.load("org/a")
    stream = engine.submit(make_request("org/a", make_prompt(1, 20), max_tokens=200))
    next(stream)
    gone = engine.begin_unload("org/a")
    assert sum(len(delta.token_ids) for delta in stream) > 150, "the answer is complete"
    assert gone.result(10.0) is True


def test_an_idle_model_leaves_after_its_time_and_an_explicit_one_stays(machine: Discovery) -> None:
    with Engine(small(idle_ttl_s=0.2), discovery=machine) as engine:
        engine.load("org/b")
        answer(engine, "org/a")
        expires = engine.models()[1].expires_in_s
        assert expires is not None
        assert 0 <= expires <= 0.2
        deadline = time.monotonic() + 10.0
        while engine.stats().models_loaded > 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert [info.name for info in engine.models() if info.loaded] == ["org/b"]


def test_a_pinned_model_is_not_made_to_leave_and_the_other_is_refused_with_figures(
    machine: Discovery,
) -> None:
    config = small(max_memory_bytes=8 * MIB)
    config = small(max_memory_bytes=int(1.2 * need(machine, "org/a", config)))
    with Engine(config, discovery=machine) as engine:
        engine.load("org/a", pinned=True)
        with pytest.raises(OutOfMemory, match=r"org/b needs about .* GiB .* pinned"):
            answer(engine, "org/b")
        assert [info.name for info in engine.models() if info.loaded] == ["org/a"]


def test_a_model_that_cannot_fit_is_refused_before_anything_is_read(
    machine: Discovery, loads: list[str]
) -> None:
    with (
        Engine(small(max_memory_bytes=64 * 1024), discovery=machine) as engine,
        pytest.raises(OutOfMemory, match="--max-memory"),
    ):
        engine.load("org/a")
    assert loads == []


def test_a_load_that_fails_midway_fails_all_who_wait_and_leaves_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, machine: Discovery
) -> None:
    import basemlx.engine.models.loader as loader

    original = loader.materialise
    before = engine.stats().active_bytes

    def failing(model: Any, precision: Any) -> Iterator[float]:
        for index, share in enumerate(original(model, precision)):
            if index == 5:
                raise RuntimeError("weight 5 cannot be read")
            yield share

    monkeypatch.setattr(loader, "materialise", failing)
    futures = [engine.reserve("org/a") for _ in range(3)]
    errors = [future.exception(10.0) for future in futures]
    assert all("weight 5" in str(error) for error in errors)
    monkeypatch.setattr(loader, "materialise", original)
    assert engine.stats().models_loaded == 0
    assert engine.stats().active_bytes - before < 100_000, "its weights are not held by anybody"
    assert len(answer(engine, "org/a")) == 16, "the next try works"


def test_a_model_damaged_after_it_was_found_is_an_error_not_a_crash(
    engine: Engine, machine: Discovery
) -> None:
    found = machine.find("org/a")
    assert found is not None
    weights = (found.folder / "model.safetensors").resolve()
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises((ModelCorrupt, ModelNotFound), match="bytes are missing at its end"):
        answer(engine, "org/a")


def test_without_loading_on_demand_only_loaded_models_answer(machine: Discovery) -> None:
    with Engine(small(load_on_demand=False), discovery=machine) as engine:
        engine.load("org/b")
        with pytest.raises(ModelNotFound, match="not loaded here"):
            answer(engine, "org/a")
        assert len(answer(engine, "org/b")) == 16


def test_a_path_is_never_a_name_in_a_request(engine: Engine, zoo: Callable[..., Path]) -> None:
    folder = zoo("qwen3")
    for name in (str(folder), f"../{folder.name}", "org/../a", "/etc/passwd", "~", "org\0a", "a" * 5000):
        with pytest.raises(ModelNotFound) as caught:
            engine.reserve(name)
        assert len(caught.value.message) < 600
    assert engine.load(str(folder)).name == folder.name


def test_a_model_loaded_from_a_folder_can_come_back_after_it_left(
    engine: Engine, zoo: Callable[..., Path]
) -> None:
    engine.load("mine", folder=zoo("qwen3"))
    before = answer(engine, "mine")
    assert engine.unload("mine")
    assert answer(engine, "mine") == before


def test_closing_the_engine_ends_a_wait_for_a_model(machine: Discovery) -> None:
    engine = Engine(small(), discovery=machine)
    futures = [engine.reserve(name) for name in ("org/a", "org/b", "org/a")]
    engine.close()
    for future in futures:
        error = future.exception(10.0)
        assert error is None or isinstance(error, ShuttingDown)


def test_requests_unloads_and_expiries_that_race_never_take_a_model_from_its_user(machine: Discovery) -> None:
    config = small(max_memory_bytes=8 * MIB)
    config = small(max_memory_bytes=int(1.2 * need(machine, "org/b", config)), idle_ttl_s=0.001)
    with Engine(config, discovery=machine) as engine:
        last_s = time.monotonic() + 60.0
        problems: list[BaseException] = []
        counts = {"org/a": 0, "org/b": 0}

        def ask(name: str, row: int) -> None:
            try:
                while min(counts.values()) < 3 and time.monotonic() < last_s:
                    tokens = tokens_of(
                        take(engine.submit(make_request(name, make_prompt(row, 10), max_tokens=4)))
                    )
                    assert len(tokens) == 4
                    counts[name] += 1
            except BaseException as error:
                problems.append(error)

        def unload() -> None:
            while min(counts.values()) < 3 and time.monotonic() < last_s:
                engine.begin_unload("org/a").result(10.0)
                time.sleep(0.01)

        threads = [threading.Thread(target=ask, args=(name, row)) for row in range(2) for name in counts]
        threads.append(threading.Thread(target=unload))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90.0)
        assert problems == []
        assert min(counts.values()) >= 3, f"somebody starved: {counts}"
        engine.check_integrity()


@pytest.mark.slow
def test_a_hundred_loads_and_unloads_leave_the_process_as_large_as_it_was(machine: Discovery) -> None:
    """Layers are initialised lazily from a random state that used to keep every graph ever built: 50 kB a load."""
    import psutil

    process = psutil.Process()
    with Engine(small(warm_up=False), discovery=machine) as engine:
        sizes = []
        for _ in range(120):
            engine.load("org/a")
            engine.unload("org/a")
            sizes.append(process.memory_info().rss)
        assert sizes[-1] - sizes[19] < 2.5e6
        assert engine.stats().active_bytes < 10_000
