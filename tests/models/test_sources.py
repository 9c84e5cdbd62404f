"""What a model's name stands for when folders and adapters are named by hand: one thing at a time, or an error."""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from basemlx.engine.config import EngineConfig
from basemlx.engine.engine import Engine
from basemlx.engine.errors import InvalidRequest, ModelLoadFailed, ModelNotFound, OutOfMemory
from basemlx.engine.models import residence as residence_module
from basemlx.engine.models.discovery import Discovery
from basemlx.provider.local import LocalBackend
from tests.models.test_files import write_adapter
from tests.serving import chat_body, wait_until

MIB = 2**20
Zoo = Callable[..., Path]


@pytest.fixture
def engine(machine: Discovery) -> Iterator[Engine]:
    config = EngineConfig(
        max_num_sequences=4, kv_budget_bytes=4 * MIB, prefix_cache_bytes=MIB, warm_up=False, idle_ttl_s=300
    )
    with Engine(config, discovery=machine) as engine:
        yield engine


@pytest.fixture
def namesakes(zoo: Zoo, tmp_path: Path) -> tuple[Path, Path]:
    """Two models in folders of one name."""
    one, two = tmp_path / "one" / "mine", tmp_path / "two" / "mine"
    shutil.copytree(zoo("qwen3", seed=1), one)
    shutil.copytree(zoo("llama", seed=2), two)
    return one, two


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Loads wait until it is set."""
    opened = threading.Event()
    original = residence_module.prepare_load

    def slow(*args: Any, **options: Any) -> Any:
        assert opened.wait(60)
        return original(*args, **options)

    monkeypatch.setattr(residence_module, "prepare_load", slow)
    return opened


def test_a_folder_is_never_answered_by_another_folder_of_its_name(
    engine: Engine, namesakes: tuple[Path, Path]
) -> None:
    one, two = namesakes
    assert engine.load(str(one)).model_type == "qwen3"
    for ask in (lambda: engine.load(str(two)), lambda: engine.load("mine", folder=two)):
        with pytest.raises(InvalidRequest, match="from another folder"):
            ask()
    assert engine.load(str(one)).model_type == "qwen3"
    engine.unload("mine")
    assert engine.load(str(two)).model_type == "llama"


def test_nor_in_place_of_a_name_in_a_request(engine: Engine, namesakes: tuple[Path, Path]) -> None:
    one, two = (chat_body(model=str(folder), max_tokens=2) for folder in namesakes)
    with LocalBackend(engine=engine) as backend:
        print_of_one = backend.chat(one)["system_fingerprint"]
        with pytest.raises(InvalidRequest, match="from another folder"):
            backend.chat(two)
        engine.unload("mine")
        assert backend.chat(two)["system_fingerprint"] != print_of_one
        engine.unload("mine")
        assert backend.chat(one)["system_fingerprint"] == print_of_one


def test_a_folder_does_not_take_the_name_of_a_model_that_is_here(
    engine: Engine, zoo: Zoo, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir(exist_ok=True)
    shutil.copytree(zoo("qwen3", seed=1), tmp_path / "mine" / "small")  # found as `small`
    shutil.copytree(zoo("llama", seed=2), tmp_path / "elsewhere" / "small")
    with pytest.raises(InvalidRequest, match="another model on this machine"):
        engine.load(str(tmp_path / "elsewhere" / "small"))
    assert engine.load(str(tmp_path / "mine" / "small")).model_type == "qwen3"


def test_a_load_under_way_is_not_joined_by_one_of_other_files(
    engine: Engine, namesakes: tuple[Path, Path], gate: threading.Event
) -> None:
    one, two = namesakes
    loaded: list[str] = []
    thread = threading.Thread(target=lambda: loaded.append(engine.load("m", folder=one).model_type))
    thread.start()
    wait_until(lambda: engine._keeper.knows("m"), "the load to begin")
    with pytest.raises(InvalidRequest, match="on its way"):
        engine.load("m", folder=two)
    gate.set()
    thread.join()
    assert loaded == ["qwen3"]


def test_what_a_name_stands_for_is_settled_before_the_next_load_of_it_is_looked_at(
    engine: Engine, zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir(exist_ok=True)
    shutil.copytree(zoo("qwen3", seed=1), tmp_path / "mine" / "small")  # found as `small`
    planning, go_on = threading.Event(), threading.Event()
    plan = residence_module.plan_load

    def slowly(*args: Any) -> Any:
        planned = plan(*args)
        planning.set()
        assert go_on.wait(60)
        return planned

    monkeypatch.setattr(residence_module, "plan_load", slowly)
    outcomes: list[Any] = []

    def load_another() -> None:
        try:
            outcomes.append(engine.load("small", folder=zoo("llama", seed=2)).model_type)
        except InvalidRequest as error:
            outcomes.append(error.message)

    asking = threading.Thread(target=lambda: outcomes.append(engine.loaded("small").info.model_type))
    asking.start()
    assert planning.wait(60)
    loading = threading.Thread(target=load_another)
    loading.start()
    loading.join(0.2)
    go_on.set()
    asking.join()
    loading.join()
    assert "qwen3" in outcomes
    assert any("from another folder" in outcome for outcome in outcomes)


def test_a_load_that_fails_leaves_the_name_as_it_was(
    engine: Engine, zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelLoadFailed, match="adapter"):
        engine.load("org/a", adapter=tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ModelLoadFailed):
        engine.load("other", folder=empty)
    with monkeypatch.context() as patched:
        patched.setattr(residence_module, "prepare_load", lambda *args, **options: 1 / 0)
        with pytest.raises(ModelLoadFailed):
            engine.load("third", folder=zoo("qwen3"))
    with monkeypatch.context() as patched:
        patched.setattr(engine._residence, "_max_memory_bytes", MIB // 8)
        with pytest.raises(OutOfMemory):
            engine.load("org/b", folder=zoo("qwen3"))
    assert {"other", "third"}.isdisjoint(info.name for info in engine.models())
    assert engine.load("org/a").loaded
    assert engine.load("org/b").model_type == "llama"


def test_a_load_that_was_given_up_in_the_queue_leaves_the_name_as_it_was(
    engine: Engine, zoo: Zoo, gate: threading.Event
) -> None:
    first = engine.begin_load("org/a")
    wait_until(lambda: engine._keeper._pool.find("org/a") is not None, "the first load to begin")
    with engine._bound(engine._sources.named("org/b", zoo("qwen3", seed=1)), None) as name:
        waiting = engine._request(name)
    waiting.cancel()
    gate.set()
    first.result(60).release()
    assert engine.load("org/b").model_type == "llama"


def test_an_adapter_stays_with_its_name(engine: Engine, zoo: Zoo, tmp_path: Path) -> None:
    folder = zoo("qwen3", seed=1)
    adapter = write_adapter(tmp_path / "adapter", folder)
    engine.load("taught", folder=folder, adapter=adapter)
    engine.unload("taught")
    engine.load("taught", folder=folder)
    assert engine._sources.of("taught").adapter == adapter


def test_a_pin_is_taken_away_by_who_says_so_only(engine: Engine) -> None:
    def pinned() -> bool | None:
        return engine.models()[0].pinned

    engine.load("org/a", pinned=True)
    engine.load("org/a")
    assert pinned()
    engine.load("org/a", pinned=False)
    assert not pinned()


def test_who_gave_up_waiting_has_no_say_in_how_long_a_model_stays(
    engine: Engine, gate: threading.Event
) -> None:
    given_up, other = engine.begin_load("org/a", pinned=True), engine.reserve("org/a")
    given_up.cancel()
    gate.set()
    other.result(60).release()
    [info] = [info for info in engine.models() if info.loaded]
    assert not info.pinned
    assert info.expires_in_s is not None


def test_who_gives_a_folder_up_takes_it_from_nobody_else(
    engine: Engine, zoo: Zoo, tmp_path: Path, gate: threading.Event
) -> None:
    folder = tmp_path / "named"
    shutil.copytree(zoo("qwen3", seed=1), folder)
    busy = threading.Thread(target=lambda: engine.load("other", folder=zoo("llama", seed=2)))
    busy.start()
    wait_until(lambda: engine._keeper.knows("other"), "the load to begin")
    found = engine.in_folder(folder)
    first, second = engine.reserve_folder(found), engine.reserve_folder(found)
    assert first.cancel()
    gate.set()
    with second.result(60) as lease:
        assert lease.name == "named"
    busy.join()


def test_only_loaded_holds_for_a_model_that_is_leaving(zoo: Zoo) -> None:
    config = EngineConfig(max_num_sequences=4, kv_budget_bytes=4 * MIB, warm_up=False, load_on_demand=False)
    with Engine(config) as engine:
        engine.load("a", folder=zoo("qwen3", seed=1))
        held = engine.reserve("a").result(60)
        leaving = engine.begin_unload("a")
        with pytest.raises(ModelNotFound, match="not loaded here"):
            engine.reserve("a")
        held.release()
        assert leaving.result(60)
        assert not any(model.loaded for model in engine.models())
