"""What models may use beside their weights: divided among them, kept for running requests, given back when short.

How much memory the machine has is the one thing that is made up here.
"""

from collections.abc import Callable
from typing import Any

import pytest

from basemlx.engine.config import EngineConfig
from basemlx.engine.core.worker import ModelWorker
from basemlx.engine.engine import Engine
from basemlx.engine.memory import memory_use
from basemlx.engine.models import pressure as pressure_module
from basemlx.engine.models import residence as residence_module
from basemlx.engine.models.discovery import Discovery
from basemlx.engine.models.needs import needed_bytes
from basemlx.engine.models.pressure import MemoryPressure
from tests.core.conftest import make_prompt, make_request, take, tokens_of

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
    monkeypatch.setattr(residence_module, "needed_bytes", lambda *_: MIB)  # so that both fit into little
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
        needed = needed_bytes(found.folder, None, engine.config, 256 * MIB)

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


def test_pressure_has_ended_only_when_there_is_clearly_more(left: Callable[[float], None]) -> None:
    seen: list[str] = []
    pressure = MemoryPressure(lambda: seen.append("relieve"), lambda: seen.append("ease"), lambda: 0.0)
    for share in (0.5, 0.03, 0.05, 0.03, 0.05, 0.2, 0.5):
        left(share)
        pressure.look()
    assert seen == ["relieve", "relieve", "ease"]
