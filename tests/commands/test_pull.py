"""pull and rm beside other programs, beside a server that uses the model, and when the machine itself refuses."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from basemlx.engine.config import EngineConfig
from basemlx.engine.engine import Engine
from basemlx.engine.models.discovery import Discovery, ModelPlaces
from basemlx.server.routes import models as model_routes
from basemlx.server.settings import ServerSettings
from tests.commands.conftest import KEY, NAME, SHORT, Machine, machine_at
from tests.models.conftest import COMMIT, put_in_hub_cache
from tests.serving import LiveServer, Noise

ENTRY = "models--mlx-community--Qwen3-0.6B-4bit"


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Machine]:
    """Nothing is on it."""
    with machine_at(tmp_path) as machine:
        yield machine


def row(machine: Machine) -> list[str]:
    """The model's line of `basemlx list`, empty if it has none."""
    rows = [line.split() for line in machine("list")[1].splitlines() if line.startswith(NAME)]
    return rows[0] if rows else []


def test_a_revision_is_fetched_beside_another_programs_and_rm_gives_that_back(
    fresh: Machine, zoo: Callable[..., Path]
) -> None:
    cache = fresh.home / "hf" / "hub"
    theirs = put_in_hub_cache(cache, NAME, zoo("llama"))
    files = {file.name: file.resolve() for file in theirs.iterdir()}
    before = row(fresh)
    for arguments in (("pull", SHORT, "--revision", "v1"), ("pull", SHORT)):
        status, out, err = fresh(*arguments)
        assert (status, out.startswith(f"{NAME} is here")) == (0, True), err
    assert row(fresh) != before, "what was pulled last is what counts"
    assert (cache / ENTRY / "refs" / "main").read_text() == fresh.hub.commit
    status, out, err = fresh("rm", SHORT, "--yes")
    assert (status, out.startswith(f"{NAME} is removed")) == (0, True), err
    assert "another program" in err
    assert row(fresh) == before
    assert (cache / ENTRY / "refs" / "main").read_text() == COMMIT, "the other program finds its own again"
    assert {file.name: file.resolve(strict=True) for file in theirs.iterdir()} == files
    assert not (cache / ENTRY / "refs" / "v1").exists()
    assert not list(cache.rglob("*basemlx*.json"))


def test_what_lm_studio_has_is_fetched_again_only_as_a_revision(
    fresh: Machine, zoo: Callable[..., Path]
) -> None:
    shutil.copytree(zoo("llama"), fresh.home / ".lmstudio" / "models" / NAME)
    status, out, _ = fresh("pull", SHORT)
    assert (status, "(lmstudio); nothing was downloaded" in out) == (0, True)
    assert fresh.hub.seen == []
    assert fresh("pull", SHORT, "--revision", "v1")[0] == 0
    assert row(fresh)[-2] == "huggingface"
    assert fresh("rm", SHORT, "--yes")[0] == 0
    assert row(fresh)[-2] == "lmstudio"
    status, out, err = fresh("rm", SHORT, "--yes")
    assert (status, out) == (1, "")
    assert "not brought by basemlx pull" in err


def test_a_pull_that_found_everything_there_brought_nothing_to_remove(fresh: Machine) -> None:
    assert fresh("pull", SHORT)[0] == 0
    note = next((fresh.home / "hf" / "hub" / ENTRY).glob(".basemlx.json"))
    note.unlink()  # as if another program had brought all of it
    status, out, _ = fresh("pull", SHORT)
    assert (status, out.startswith(f"{NAME} is here already")) == (0, True)
    status, out, err = fresh("rm", SHORT, "--yes")
    assert (status, out) == (1, "")
    assert "not brought by basemlx pull" in err
    assert row(fresh)


@contextmanager
def served_here(machine: Machine) -> Iterator[LiveServer]:
    """A server of this process, whose engine can be kept busy, over the machine's models."""
    places = ModelPlaces(None, machine.home / "hf" / "hub")
    config = EngineConfig(kv_budget_bytes=2**22)
    with (
        Engine(config, discovery=Discovery(places)) as engine,
        LiveServer(Noise(engine), ServerSettings(api_keys=(KEY,))) as live,
    ):
        machine.port = str(live.port)
        yield live


def test_rm_leaves_what_a_busy_server_does_not_let_go(
    fresh: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fresh("pull", SHORT)[0] == 0
    with served_here(fresh) as live:
        with monkeypatch.context() as impatient, live.noise.engine.reserve(NAME).result(60):
            impatient.setattr(model_routes, "UNLOAD_TIMEOUT_S", 0.2)
            status, out, err = fresh("unload", SHORT)
            assert (status, out) == (1, "")
            assert "in use and stays" in err
            status, out, err = fresh("rm", SHORT, "--yes")
            assert (status, out) == (1, "")
            assert f"basemlx unload {SHORT}" in err
            assert row(fresh)[-1] == "yes"
        assert fresh("unload", SHORT)[0] == 0
        assert fresh("rm", SHORT, "--yes")[0] == 0
        assert not row(fresh)


def test_rm_removes_nothing_if_a_server_does_not_take_its_key(fresh: Machine) -> None:
    assert fresh("pull", SHORT)[0] == 0
    with served_here(fresh):
        for key in ("another-key-than-this", ""):
            fresh.environment["BASEMLX_API_KEY"] = key
            status, out, err = fresh("rm", SHORT, "--yes")
            assert (status, out) == (1, "")
            assert "nothing was removed" in err
            assert "BASEMLX_API_KEY" in err
            assert row(fresh)
            assert fresh("unload", SHORT)[0] == 1


def test_the_built_in_model_is_said_to_be_built_in_before_anything_is_asked(fresh: Machine) -> None:
    for arguments in (("rm", "tiny"), ("rm", "Tiny"), ("rm", "tiny", "--yes")):
        status, out, err = fresh(*arguments)
        assert (status, out) == (1, "")
        assert "built in" in err
        assert "--yes" not in err
    for arguments in (("pull", "tiny"), ("pull", "TINY"), ("pull", "tiny", "--revision", "v1")):
        status, out, _ = fresh(*arguments)
        assert (status, "built in" in out) == (0, True)
    assert fresh.hub.seen == []


def test_a_name_that_is_cut_off_removes_nothing_unasked(fresh: Machine) -> None:
    assert fresh("pull", SHORT)[0] == 0
    status, _, err = fresh("rm", SHORT[:-1], "--yes")
    assert (status, "taken for" in err) == (1, False)
    assert row(fresh)
    assert fresh("rm", SHORT.upper().replace("-", "_"), "--yes")[0] == 0
    assert not row(fresh)
