"""What models may use beside their weights: divided among them, kept for running requests, given back when short.

How much memory the machine has is the one thing that is made up here.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from basemlx.engine.config import EngineConfig
from basemlx.engine.core.worker import ModelWorker
from basemlx.engine.embeddings import estimate as embedding_estimate
from basemlx.engine.engine import Engine
from basemlx.engine.memory import give_back_freed, memory_use
from basemlx.engine.models import pressure as pressure_module
from basemlx.engine.models import residence as residence_module
from basemlx.engine.models.discovery import Discovery, ModelPlaces
from basemlx.engine.models.estimate import LoadPlan
from basemlx.engine.models.needs import plan_load
from basemlx.engine.models.pressure import MemoryPressure
from basemlx.engine.models.purpose import Purpose
from basemlx.engine.runtime import prepare
from tests.core.conftest import make_prompt, make_request, take, tokens_of
from tests.model_zoo import write_model
from tests.models.conftest import put_in_hub_cache
from tests.serving import wait_until

MIB = 2**20


def engine_with(machine: Discovery, **options: Any) -> Engine:
    return Engine(EngineConfig(max_num_sequences=4, warm_up=False, **options), discovery=machine)


def worker(engine: Engine, name: str) -> ModelWorker:
    return engine._workers[name]


def kv_budget(engine: Engine, name: str) -> int:
    return worker(engine, name).scheduler.kv_budget_bytes


def fill_prefix_cache(engine: Engine, name: str, prompts: int = 4) -> int:
    for row in range(prompts):
        take(engine.submit(make_request(name, make_prompt(row, 100), max_tokens=4)))
    return worker(engine, name).prefix_cache.nbytes


def settle(engine: Engine) -> None:
    """Returns when the engine thread has read what is in its inbox, twice: messages may post messages."""
    for _ in range(2):
        engine._thread.call(lambda: None)


def test_models_share_what_the_weights_leave_and_get_it_back_when_one_goes(machine: Discovery) -> None:
    with engine_with(machine, max_memory_bytes=256 * MIB) as engine:
        engine.load("org/a")
        alone = kv_budget(engine, "org/a")
        weights = worker(engine, "org/a").loaded.weights_bytes
        assert alone == pytest.approx((256 * MIB - weights) / 2, rel=0.01)
        prefixes = worker(engine, "org/a").prefix_cache.budget_bytes
        assert 0 < prefixes <= 0.1 * 256 * MIB
        engine.load("org/b")
        both = [kv_budget(engine, name) for name in ("org/a", "org/b")]
        assert both[0] == both[1] == pytest.approx(alone / 2, rel=0.02)
        engine.unload("org/b")
        assert kv_budget(engine, "org/a") == alone


def test_a_running_request_keeps_the_kv_that_it_was_promised_when_another_model_comes(
    machine: Discovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        residence_module, "plan_load", lambda *_: LoadPlan("dense", MIB)
    )  # so that both fit into little
    with engine_with(machine, max_memory_bytes=8 * MIB) as engine:
        engine.load("org/a")
        promised = worker(engine, "org/a").row_bytes(2000)
        assert promised < kv_budget(engine, "org/a")
        stream = engine.submit(make_request("org/a", make_prompt(1, 20), max_tokens=1980))
        next(stream)
        engine.load("org/b")
        assert kv_budget(engine, "org/b") < promised <= kv_budget(engine, "org/a")
        stream.abort()
        settle(engine)
        engine.unload("org/b")
        engine.check_integrity()


def test_a_load_that_needs_the_memory_of_computed_prefixes_gets_it(
    machine: Discovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    config: dict[str, Any] = {
        "max_context_tokens": 128,
        "prefix_cache_bytes": 2 * MIB,
        "kv_budget_bytes": MIB,
    }
    with engine_with(machine, max_memory_bytes=256 * MIB, **config) as engine:
        engine.load("org/a")
        held = fill_prefix_cache(engine, "org/a", 8)
        found = machine.find("org/b")
        assert found is not None
        needed = plan_load(found.folder, None, engine.config, 256 * MIB).num_bytes

        def available() -> int:
            """Too little for org/b as long as the prefixes are there, and enough without them."""
            spare = int(needed / residence_module.ROOM_SHARE) + 1000 - held - memory_use().cache_bytes
            return spare + held - worker(engine, "org/a").prefix_cache.nbytes

        monkeypatch.setattr(residence_module, "available_memory_bytes", available)
        assert available() < needed
        assert len(tokens_of(take(engine.submit(make_request("org/b", make_prompt(1, 20)))))) == 16
        assert worker(engine, "org/a").prefix_cache.nbytes == 0, "given back, and org/a is still there"


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the share of the machine's memory that is left."""
    shares = [1.0]
    monkeypatch.setattr(pressure_module, "device_memory_bytes", lambda: 1000)
    monkeypatch.setattr(pressure_module, "available_memory_bytes", lambda: int(1000 * shares[0]))
    monkeypatch.setattr(pressure_module, "INTERVAL_S", 0.0)
    return lambda share: shares.__setitem__(0, share)


def test_prefixes_are_given_back_while_the_machine_is_short_of_memory(
    machine: Discovery, left: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    with engine_with(machine, max_memory_bytes=256 * MIB) as engine:
        engine.load("org/a")
        assert fill_prefix_cache(engine, "org/a") > 0
        left(0.01)
        for row in range(2):
            take(engine.submit(make_request("org/a", make_prompt(row, 100), max_tokens=4)))
        settle(engine)
        assert worker(engine, "org/a").prefix_cache.nbytes == 0
        assert [record.message for record in caplog.records if "memory is short" in record.message] == [
            "memory is short left=1.0%: computed prefixes are given back"
        ], "told once"
        left(0.5)
        fill_prefix_cache(engine, "org/a")
        settle(engine)
        assert fill_prefix_cache(engine, "org/a") > 0
        engine.check_integrity()


def test_a_machine_that_runs_short_is_noticed_while_a_long_answer_is_still_being_written(
    machine: Discovery, left: Callable[[float], None]
) -> None:
    with engine_with(machine, max_memory_bytes=256 * MIB) as engine:
        engine.load("org/a")
        assert fill_prefix_cache(engine, "org/a") > 0
        with engine.submit(make_request("org/a", make_prompt(9, 20), max_tokens=1500)) as stream:
            next(stream)
            left(0.01)
            wait_until(lambda: worker(engine, "org/a").prefix_cache.nbytes == 0, "prefixes are given back")
            assert not stream.ended


def test_pressure_has_ended_only_when_there_is_clearly_more(left: Callable[[float], None]) -> None:
    seen: list[str] = []
    pressure = MemoryPressure(lambda: seen.append("relieve"), lambda: seen.append("ease"), lambda: 0.0)
    for share in (0.5, 0.03, 0.05, 0.03, 0.05, 0.2, 0.5):
        left(share)
        pressure.look()
    assert seen == ["relieve", "relieve", "ease"]


@pytest.fixture
def packed(places: ModelPlaces, tmp_path: Path) -> Discovery:
    """Two 4-bit models, one of which embeds: dense they take several times what they take as they are stored."""
    wide = {"hidden_size": 256, "intermediate_size": 1024, "vocab_size": 384}
    put_in_hub_cache(places.hub_cache, "org/talks", write_model(tmp_path / "talks", "qwen3", bits=4, **wide))
    embeds = write_model(tmp_path / "embeds", "qwen3", bits=4, **wide)
    put_in_hub_cache(places.hub_cache, "org/qwen3-embed", embeds)
    return Discovery(places)


@pytest.mark.parametrize(("name", "purpose"), [("org/talks", "generate"), ("org/qwen3-embed", "embed")])
@pytest.mark.skipif(prepare().device != "cpu", reason="other devices take weights as they are stored")
def test_where_dense_weights_have_no_room_a_model_is_counted_and_loaded_packed(
    packed: Discovery, name: str, purpose: Purpose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a limit of the user's, and where the machine has no more: whoever counts and whoever loads agree."""
    monkeypatch.setattr(
        embedding_estimate, "MAX_BATCH_TOKENS", 64
    )  # of small models batches take more than weights
    config = EngineConfig(max_num_sequences=2, max_context_tokens=64, kv_budget_bytes=MIB, warm_up=False)
    found = packed.find(name)
    assert found is not None
    dense = plan_load(found.folder, None, config, 1 << 40, purpose)
    cast = plan_load(found.folder, None, config, dense.num_bytes, purpose)
    assert (dense.precision, cast.precision) == ("dense", "cast")
    assert cast.num_bytes < 0.7 * dense.num_bytes

    def held(**options: Any) -> tuple[int, int]:
        """Bytes of the weights in memory, and what the model is counted with."""
        with Engine(replace(config, **options), discovery=packed) as engine:
            info = engine.load(name)
            loaded = engine._residence.find(info.name)
            assert loaded is not None
            return loaded.weights_bytes, engine.models()[0].memory_bytes

    roomy = held(max_memory_bytes=256 * MIB)
    limited = held(max_memory_bytes=dense.num_bytes)
    assert (roomy[1], limited[1]) == (dense.num_bytes, cast.num_bytes)
    assert limited[0] < 0.5 * roomy[0], "the weights stayed packed"
    give_back_freed()
    monkeypatch.setattr(residence_module, "available_memory_bytes", lambda: int(1.2 * cast.num_bytes))
    assert held(max_memory_bytes=256 * MIB) == limited


def test_whoever_asks_for_a_model_that_has_to_leave_first_waits_for_its_room_again(
    machine: Discovery,
) -> None:
    """It used to be queued with no need of its own, and came back beside the model that it had made room for."""
    config = EngineConfig(max_num_sequences=4, warm_up=False, kv_budget_bytes=MIB, prefix_cache_bytes=0)
    needs = {name: plan_of(machine, name, config).num_bytes for name in ("org/a", "org/b")}
    limit = int(1.2 * max(needs.values()))
    with Engine(replace(config, max_memory_bytes=limit), discovery=machine) as engine:
        with engine.reserve("org/a").result(30):
            waits = engine.reserve("org/b")
            books = engine._keeper._pool
            wait_until(lambda: "org/a" in books._making_room, "org/a to make room")
            again = engine.reserve("org/a")
            assert not again.done(), "org/b was first"
            assert books._wanted == needs
        waits.result(30).release()
        again.result(30).release()


def plan_of(machine: Discovery, name: str, config: EngineConfig) -> LoadPlan:
    found = machine.find(name)
    assert found is not None
    return plan_load(found.folder, None, config, 1 << 40)
