"""Pulling from a real local hub: what comes, what is refused, where the model then is."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from basemlx.engine.errors import ModelLoadFailed, ModelNotFound
from basemlx.engine.models.hub import pull
from basemlx.engine.models.transfer import PullFailed
from tests.models.hub_server import Hub
from tests.models.pulling import NAME, WEIGHTS, fetch, found, partials, weights_of


def test_a_pulled_model_is_whole_found_and_brings_only_what_is_safe(hub: Hub, cache: Path) -> None:
    seen: list[tuple[int, int]] = []
    pulled = fetch(hub, cache, progress=lambda done, total: seen.append((done, total)))
    model = found(cache)
    assert model is not None
    assert model.problem is None
    assert {file.name for file in model.folder.iterdir()} == {
        "config.json",
        "generation_config.json",
        WEIGHTS,
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert (model.folder / WEIGHTS).read_bytes() == weights_of(hub)
    assert seen[0] == (0, pulled.size_bytes)
    assert seen[-1] == (pulled.size_bytes, pulled.size_bytes)
    assert (cache / "models--org--model" / "refs" / "main").read_text() == hub.commit
    assert not partials(cache)


def test_a_progress_callback_that_fails_does_not_fail_the_pull(hub: Hub, cache: Path) -> None:
    calls: list[int] = []

    def failing(done: int, total: int) -> None:
        calls.append(done)
        raise RuntimeError("the terminal has gone")

    fetch(hub, cache, progress=failing)
    assert found(cache) is not None
    assert len(calls) == 1


def test_huggingface_hub_itself_takes_the_result_for_its_own(hub: Hub, cache: Path) -> None:
    from huggingface_hub import scan_cache_dir, try_to_load_from_cache

    fetch(hub, cache)
    path = try_to_load_from_cache(NAME, WEIGHTS, cache_dir=cache)
    assert isinstance(path, str)
    assert Path(path).read_bytes() == weights_of(hub)
    report = scan_cache_dir(cache)
    assert [repo.repo_id for repo in report.repos] == [NAME]


def test_pulling_again_fetches_nothing(hub: Hub, cache: Path) -> None:
    fetch(hub, cache)
    hub.seen.clear()
    assert fetch(hub, cache).fetched_bytes == 0
    assert hub.fetched(WEIGHTS) == []


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_pulling_again_brings_what_was_damaged_here(hub: Hub, cache: Path, name: str) -> None:
    fetch(hub, cache)
    model = found(cache)
    assert model is not None
    whole = (model.folder / name).read_bytes()
    damaged = bytearray(whole)
    damaged[-5] ^= 1
    (model.folder / name).resolve().write_bytes(damaged)
    hub.seen.clear()
    seen: list[int] = []
    pulled = fetch(hub, cache, progress=lambda done, _total: seen.append(done))
    assert pulled.fetched_bytes == len(whole)
    assert (model.folder / name).read_bytes() == whole
    assert max(seen) == seen[-1] == pulled.size_bytes
    assert [request.path for request in hub.seen if "/resolve/" in request.path] == [
        request.path for request in hub.fetched(name)
    ]


def test_gated_missing_and_foreign_repositories_say_what_to_do(hub: Hub, cache: Path) -> None:
    with pytest.raises(ModelNotFound, match="does not exist"):
        fetch(hub, cache, "org/nothing")
    with pytest.raises(PullFailed, match="no revision 'v9'"):
        fetch(hub, cache, revision="v9")
    hub.repositories["org/gguf"] = {"model.gguf": b"GGUF", "config.json": b"{}"}
    with pytest.raises(ModelLoadFailed, match=r"GGUF.*MLX version"):
        fetch(hub, cache, "org/gguf")
    hub.gated = True
    with pytest.raises(PullFailed, match=r"gated.*HF_TOKEN"):
        fetch(hub, cache)
    with pytest.raises(ModelNotFound, match="Did you mean qwen3-4b"):
        fetch(hub, cache, "qwen3-4")
    with pytest.raises(PullFailed, match="cannot be reached"):
        pull(NAME, cache=cache, endpoint="http://127.0.0.1:9")
    for path in cache.rglob("*"):
        assert path.is_dir() or path.suffix == ".lock"


def test_a_token_opens_a_gated_repository(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated = True
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch(hub, cache)
    assert found(cache) is not None


def test_names_that_a_hub_should_not_give_are_not_written(hub: Hub, cache: Path) -> None:
    for name in ("../../evil.json", "/etc/evil.json", "a/b/c.json", "..", ".hidden.json", "sub/evil.json"):
        hub.repositories[NAME][name] = b"{}"
    fetch(hub, cache)
    assert not [path for path in cache.parent.rglob("*") if "evil" in path.name or "hidden" in path.name]


def test_a_repository_that_could_not_be_loaded_is_refused_before_anything_is_fetched(
    hub: Hub, cache: Path, sharded: list[str]
) -> None:
    whole = hub.repositories[NAME]
    for problem, files in (
        (r"no tokenizer\.json", {name: data for name, data in whole.items() if name != "tokenizer.json"}),
        (
            f"missing on the hub, {sharded[1]}",
            {name: data for name, data in whole.items() if name != sharded[1]},
        ),
        (
            r"not called model\*",
            {
                name.replace("model-", "weights-"): data
                for name, data in whole.items()
                if not name.endswith(".index.json")
            },
        ),
    ):
        hub.repositories[NAME] = files
        with pytest.raises(ModelLoadFailed, match=rf"nothing was downloaded.*{problem}"):
            fetch(hub, cache)
    assert not [seen for seen in hub.seen if "/resolve/" in seen.path]
    assert not (cache / "models--org--model").exists()


def test_a_revision_can_be_pinned_and_is_what_counts_from_then_on(hub: Hub, cache: Path) -> None:
    fetch(hub, cache)
    first = found(cache)
    hub.commit = "beef" * 10
    fetch(hub, cache, revision=hub.commit)
    second = found(cache)
    assert first is not None
    assert second is not None
    assert (first.folder.name, second.folder.name) == ("c0ffee" + "0" * 34, "beef" * 10)
    assert (cache / "models--org--model" / "refs" / "main").read_text() == first.folder.name


def test_offline_means_offline(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PullFailed, match="HF_HUB_OFFLINE"):
        fetch(hub, cache)
    assert hub.seen == []


def test_two_who_pull_the_same_fetch_it_once(hub: Hub, cache: Path) -> None:
    hub.slow_chunk_s = 0.002
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(fetch(hub, cache))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(bool(result.fetched_bytes) for result in results) == [False, True]
    assert len(hub.fetched(WEIGHTS)) == 1


def test_who_waits_for_another_pull_is_told(hub: Hub, cache: Path) -> None:
    hub.slow_chunk_s = 0.002
    first = threading.Thread(target=lambda: fetch(hub, cache))
    first.start()
    while not hub.fetched(WEIGHTS):
        time.sleep(0.001)
    waits: list[bool] = []
    assert fetch(hub, cache, on_wait=lambda: waits.append(first.is_alive())).fetched_bytes == 0
    first.join()
    assert waits == [True]


def test_a_name_in_another_case_is_the_same_model(hub: Hub, cache: Path) -> None:
    fetch(hub, cache)
    hub.repositories["Org/MODEL"] = hub.repositories[NAME]
    hub.spelt = NAME
    again = fetch(hub, cache, name="Org/MODEL")
    assert (again.name, again.fetched_bytes) == (NAME, 0)
    assert [path.name for path in cache.glob("models--*")] == ["models--org--model"]


def test_a_password_in_the_hubs_address_is_not_told(cache: Path) -> None:
    with pytest.raises(PullFailed) as raised:
        pull(NAME, cache=cache, endpoint="http://user:s3cret@127.0.0.1:9")
    assert "s3cret" not in raised.value.message
    assert "127.0.0.1:9" in raised.value.message
