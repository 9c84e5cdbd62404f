"""Models that do not fit together: whoever holds one gets on with it, and whoever waits has a deadline."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from basemlx.engine.config import EngineConfig
from basemlx.engine.engine import Engine
from basemlx.engine.models import residence as residence_module
from basemlx.engine.models.discovery import Discovery, ModelPlaces
from basemlx.engine.models.needs import plan_load
from basemlx.provider.local import LocalBackend
from tests.embeddings.zoo import write_encoder
from tests.model_zoo import write_model
from tests.serving import Answer, LiveServer, Noise, chat_body, exchange, post, wait_until

MIB = 2**20
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", chat_body(model="org/a", max_tokens=4)),
    "completion": ("/v1/completions", {"model": "org/a", "prompt": ["Hi", "Ho"], "max_tokens": 4}),
    "tokenize": ("/tokenize", {"model": "org/a", "prompt": "Hi"}),
    "embeddings": ("/v1/embeddings", {"model": "org/encoder", "input": "Hi"}),
}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Of org/a, org/b and org/encoder, one fits at a time."""
    folder = tmp_path_factory.mktemp("turns")
    write_model(folder / "org" / "a", "qwen3", seed=1)
    write_model(folder / "org" / "b", "qwen3", seed=2)
    write_encoder(folder / "org" / "encoder")
    discovery = Discovery(ModelPlaces(None, folder / "no-cache", folders=(folder,)))
    sizes = {"max_num_sequences": 4, "kv_budget_bytes": 4 * MIB, "prefix_cache_bytes": MIB}
    plans = [plan_load(found.folder, None, EngineConfig(**sizes), 1 << 40) for found in discovery.scan()]
    ceiling = int(1.01 * max(plan.num_bytes for plan in plans))
    with Engine(EngineConfig(max_memory_bytes=ceiling, **sizes), discovery=discovery) as engine:
        with LiveServer(Noise(engine)) as live:
            yield live
        engine.check_integrity()


@pytest.fixture
def gate(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[threading.Event, threading.Event]:
    """(reached, open): where the first request stands that has its model and has not been taken in."""
    reached, opened = threading.Event(), threading.Event()
    name = "embedder" if request.param == "embeddings" else "loaded"
    original = getattr(Engine, name)

    def gated(self: Engine, model: Any) -> Any:
        first = not reached.is_set()
        reached.set()
        assert not first or opened.wait(60)
        return original(self, model)

    monkeypatch.setattr(Engine, name, gated)
    return reached, opened


def ask(live: LiveServer, path: str, body: dict[str, Any]) -> Answer:
    return exchange(live.port, post(live.port, path, body))


@pytest.mark.parametrize(("gate", "kind"), [(kind, kind) for kind in REQUESTS], indirect=["gate"])
def test_who_has_its_model_gets_on_though_another_waits_for_the_room(
    live: LiveServer, gate: tuple[threading.Event, threading.Event], kind: str
) -> None:
    reached, opened = gate
    path, body = REQUESTS[kind]
    pool = live.noise.engine._keeper._pool
    with ThreadPoolExecutor(2) as clients:
        first = clients.submit(ask, live, path, body)
        assert reached.wait(60)
        second = clients.submit(ask, live, "/v1/chat/completions", chat_body(model="org/b", max_tokens=4))
        wait_until(lambda: body["model"] in pool._making_room, "the other to need the room")
        opened.set()
        assert (first.result(60).status, second.result(60).status) == (200, 200)


@pytest.mark.parametrize("gate", ["chat"], indirect=True)
def test_an_unload_waits_for_who_has_the_model_and_nobody_for_the_unload(
    live: LiveServer, gate: tuple[threading.Event, threading.Event]
) -> None:
    reached, opened = gate
    with ThreadPoolExecutor(2) as clients:
        answer = clients.submit(ask, live, *REQUESTS["chat"])
        assert reached.wait(60)
        gone = clients.submit(ask, live, "/v1/models/org/a/unload", {})
        wait_until(lambda: live.noise.engine._keeper._leaving, "the unload to wait")
        opened.set()
        assert (answer.result(20).status, gone.result(20).status) == (200, 200)


def test_many_clients_of_two_models_that_take_turns_are_all_answered(live: LiveServer) -> None:
    """More of them than the server has threads for requests."""
    bodies = [chat_body(model=name, max_tokens=4) for name in ("org/a", "org/b")] * 20
    with ThreadPoolExecutor(10) as clients:
        answers = clients.map(lambda body: ask(live, "/v1/chat/completions", body), bodies, timeout=120)
        assert [answer.status for answer in answers] == [200] * len(bodies)


async def test_tasks_in_this_process_take_turns_as_well(live: LiveServer) -> None:
    bodies = [chat_body(model=name, max_tokens=4) for name in ("org/a", "org/b")] * 20
    with LocalBackend(engine=live.noise.engine) as backend:
        async with asyncio.timeout(120):
            answers = await asyncio.gather(*map(backend.achat, bodies))
    assert [answer["model"] for answer in answers] == [body["model"] for body in bodies]


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_deadline_covers_the_wait_for_a_model(
    live: LiveServer, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_load = threading.Event()
    name = "prepare_embedder" if kind == "embeddings" else "prepare_load"
    original = getattr(residence_module, name)

    def slow(folder: Path, name: str, **options: Any) -> Any:
        assert may_load.wait(60)
        return original(folder, name, **options)

    monkeypatch.setattr(residence_module, name, slow)
    path, body = REQUESTS[kind]
    live.noise.engine.unload(body["model"])
    started_s = time.monotonic()
    answer = ask(live, path, body | {"timeout": 0.3})
    assert time.monotonic() - started_s < 10
    assert (answer.status, answer.json["error"]["code"]) == (504, "deadline_exceeded")
    may_load.set()
    assert ask(live, path, body).status == 200, "the load went on for who comes next"
