"""Pulling from a real local hub that misbehaves, and removing what was pulled."""

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from basemlx.engine.errors import ModelLoadFailed, ModelNotFound
from basemlx.engine.models import hub as hub_module
from basemlx.engine.models.discovery import Discovery, FoundModel, ModelPlaces
from basemlx.engine.models.hub import pull, remove
from basemlx.engine.models.redirects import RedirectRefused, next_url
from basemlx.engine.models.transfer import PARTIAL_SUFFIX, PullFailed, PullStopped, Transfer
from tests.model_zoo import write_model
from tests.models.conftest import put_in_hub_cache
from tests.models.hub_server import Hub, serving

NAME = "org/model"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_model(tmp_path_factory.mktemp("hub") / "model", "qwen3", seed=5)
    (folder / "README.md").write_text("a model card")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04 a pickle")
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    (folder / "consolidated.safetensors").write_bytes(b"another program's copy")
    return folder


@pytest.fixture
def hub(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    hub = Hub()
    hub.add(NAME, model)
    with serving(hub):
        yield hub


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def fetch(hub: Hub, cache: Path, name: str = NAME, **options: Any) -> Any:
    options = {"stall_timeout_s": 10.0, "pause_s": 0.01} | options
    return pull(name, cache=cache, endpoint=hub.url, **options)


def found(cache: Path, name: str = NAME) -> FoundModel | None:
    return Discovery(ModelPlaces(None, cache)).find(name)


def weights_of(hub: Hub) -> bytes:
    return hub.repositories[NAME][WEIGHTS]


def partials(cache: Path) -> list[Path]:
    return list(cache.rglob("*" + PARTIAL_SUFFIX))


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


def test_a_connection_that_breaks_off_is_resumed_where_it_stopped(hub: Hub, cache: Path) -> None:
    hub.truncate[WEIGHTS] = [50_000, 60_000, 70_000]
    fetch(hub, cache)
    ranges = [seen.headers.get("range") for seen in hub.fetched(WEIGHTS)]
    assert ranges == [None, "bytes=50000-", "bytes=110000-", "bytes=180000-"]
    assert found(cache) is not None


def test_a_stall_is_noticed_and_resumed_even_before_the_first_byte(hub: Hub, cache: Path) -> None:
    hub.stall[WEIGHTS] = [0, 40_000]
    fetch(hub, cache, stall_timeout_s=1.0)
    assert [seen.headers.get("range") for seen in hub.fetched(WEIGHTS)] == [None, None, "bytes=40000-"]


def test_a_server_that_ignores_ranges_is_read_from_the_start(hub: Hub, cache: Path) -> None:
    hub.truncate[WEIGHTS] = [50_000]
    hub.ignore_range = True
    seen: list[int] = []
    fetch(hub, cache, progress=lambda done, _total: seen.append(done))
    model = found(cache)
    assert model is not None
    assert (model.folder / WEIGHTS).read_bytes() == weights_of(hub)
    assert max(seen) == seen[-1], "progress never claims more than there is"


def test_a_server_that_keeps_breaking_off_is_given_up_and_the_rest_comes_later(hub: Hub, cache: Path) -> None:
    hub.truncate[WEIGHTS] = [50_000, 0, 0, 0, 0, 0]
    with pytest.raises(PullFailed, match="run the same command again"):
        fetch(hub, cache)
    assert found(cache) is None, "half a model is no model"
    # A file beside it may have been stopped on its way, too.
    assert 50_000 in [path.stat().st_size for path in partials(cache)]
    hub.truncate.clear()
    hub.seen.clear()
    fetch(hub, cache)
    assert [seen.headers.get("range") for seen in hub.fetched(WEIGHTS)] == ["bytes=50000-"]
    assert found(cache) is not None


def test_busy_answers_are_tried_again(hub: Hub, cache: Path) -> None:
    hub.statuses[WEIGHTS] = [503, 429, 500]
    fetch(hub, cache)
    assert found(cache) is not None


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_bytes_that_are_not_the_files_are_never_kept(hub: Hub, cache: Path, name: str) -> None:
    hub.tamper = {name}
    with pytest.raises(PullFailed, match="wrong hash"):
        fetch(hub, cache)
    assert found(cache) is None
    data = hub.repositories[NAME][name]
    assert not [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size == len(data)]


def test_a_part_that_was_damaged_here_is_fetched_anew(hub: Hub, cache: Path) -> None:
    hub.truncate[WEIGHTS] = [50_000, 0, 0, 0, 0, 0]
    with pytest.raises(PullFailed):
        fetch(hub, cache)
    [partial] = partials(cache)
    partial.write_bytes(b"x" * 50_000)
    hub.truncate.clear()
    fetch(hub, cache)
    assert found(cache) is not None


def test_a_redirect_is_followed_without_the_token(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    content = Hub(repositories=hub.repositories)
    with serving(content):
        hub.redirect = content.url
        fetch(hub, cache)
    assert all("authorization" not in seen.headers for seen in content.seen)
    assert all(seen.headers.get("authorization") == "Bearer hf_secret" for seen in hub.seen)
    assert found(cache) is not None


@pytest.mark.parametrize(
    ("target", "reason"),
    [("http://169.254.169.254", "link-local"), ("file://", "no plain web address"), ("", "in circles")],
)
def test_a_redirect_to_where_nothing_good_is_fails(hub: Hub, cache: Path, target: str, reason: str) -> None:
    hub.redirect = target or hub.url
    with pytest.raises(PullFailed, match=reason):
        fetch(hub, cache)
    assert found(cache) is None


def test_a_public_hub_cannot_send_a_download_into_this_network() -> None:
    hub = "https://8.8.8.8"
    for location in ("https://127.0.0.1/x", "https://10.0.0.7/x", "https://[::1]/x", "https://localhost/x"):
        with pytest.raises(RedirectRefused, match="this machine or its network"):
            next_url(hub + "/a", location, hub)
    with pytest.raises(RedirectRefused, match="open connection"):
        next_url(hub + "/a", "http://8.8.4.4/x", hub)
    assert next_url(hub + "/a", "/b", hub) == hub + "/b"
    assert next_url(hub + "/a", "https://8.8.4.4/x", hub) == "https://8.8.4.4/x"


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


def test_a_disk_without_room_is_noticed_before_anything_is_fetched(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = hub_module.shutil.disk_usage
    monkeypatch.setattr(hub_module.shutil, "disk_usage", lambda path: usage(path)._replace(free=1000))
    with pytest.raises(PullFailed, match=r"GB are free.*HF_HUB_CACHE"):
        fetch(hub, cache)
    assert hub.fetched(WEIGHTS) == []


@pytest.mark.parametrize("pieces", ["large", "small"])
def test_a_disk_that_fills_up_meanwhile_is_an_error_and_the_rest_comes_later(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch, pieces: str
) -> None:
    """Small pieces used to be left in a file's buffer, whose closing then failed in its own way."""
    hub.slow_chunk_s = 0.0005 if pieces == "small" else 0.0
    disk = cache.parent / "small"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True
    )
    if mount.returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        monkeypatch.setattr(hub_module, "FREE_MARGIN_BYTES", -(10**9))  # another program takes the room later
        with pytest.raises(PullFailed, match="disk is full"):
            fetch(hub, disk / "cache")
        assert found(disk / "cache") is None
        subprocess.run(["mount", "-o", "remount,size=3m", str(disk)], check=True)
        hub.seen.clear()
        fetch(hub, disk / "cache")
        assert hub.fetched(WEIGHTS)[0].headers.get("range"), "it went on where it was"
        assert found(disk / "cache") is not None
    finally:
        subprocess.run(["umount", str(disk)], check=True)


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


PULL = (
    "import sys; from pathlib import Path; from basemlx.engine.models.hub import pull;"
    f"pull({NAME!r}, cache=Path(sys.argv[1]), endpoint=sys.argv[2], pause_s=0.01)"
)


def killed(hub: Hub, cache: Path, is_time: Callable[[], bool]) -> FoundModel | None:
    """What is to be seen after a pull in another process that is killed when it `is_time`, if it has not ended yet."""
    process = subprocess.Popen([sys.executable, "-c", PULL, str(cache), hub.url])
    while not is_time() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    model = found(cache)
    assert model is None or model.problem is None, "half a model was visible"
    return model


def test_a_pull_that_is_killed_leaves_nothing_visible_and_goes_on_where_it_was(hub: Hub, cache: Path) -> None:
    hub.stall[WEIGHTS] = [40_000, 60_000]
    for held in (40_000, 100_000):
        assert killed(hub, cache, lambda held=held: held in sizes(partials(cache))) is None  # type: ignore[misc]
    fetch(hub, cache)
    ranges = [seen.headers.get("range") for seen in hub.fetched(WEIGHTS)]
    assert ranges == [None, "bytes=40000-", "bytes=100000-"]
    model = found(cache)
    assert model is not None
    assert (model.folder / WEIGHTS).read_bytes() == weights_of(hub)


def sizes(files: list[Path]) -> list[int]:
    return [file.stat().st_size for file in files if file.exists()]


@pytest.mark.slow
def test_a_pull_that_is_killed_at_any_moment_is_whole_in_the_end(hub: Hub, tmp_path: Path) -> None:
    hub.slow_chunk_s = 0.002
    rng = random.Random(3)
    for number in range(12):
        cache = tmp_path / str(number)
        for _ in range(4):
            begun, delay_s = len(hub.fetched(WEIGHTS)), rng.uniform(0, 0.25)
            began_s: list[float] = []

            def is_time(begun: int = begun, began_s: list[float] = began_s, delay_s: float = delay_s) -> bool:
                """Some time after it began with the weights."""
                if len(hub.fetched(WEIGHTS)) > begun and not began_s:
                    began_s.append(time.monotonic())
                return bool(began_s) and time.monotonic() - began_s[0] > delay_s

            killed(hub, cache, is_time)
        fetch(hub, cache)
        model = found(cache)
        assert model is not None
        assert (model.folder / WEIGHTS).read_bytes() == weights_of(hub)
        assert partials(cache) == []


def test_remove_takes_what_pull_brought_and_nothing_else(hub: Hub, cache: Path) -> None:
    fetch(hub, cache)
    other = cache / "models--org--other" / "blobs"
    other.mkdir(parents=True)
    (other / "kept").write_text("of another model")
    assert remove(NAME, cache=cache) > 0
    assert found(cache) is None
    assert not (cache / "models--org--model").exists()
    assert (other / "kept").exists()
    with pytest.raises(ModelNotFound, match="not brought by basemlx pull"):
        remove(NAME, cache=cache)


def test_remove_leaves_what_another_program_put_beside_it(
    hub: Hub, cache: Path, zoo: Callable[..., Path]
) -> None:
    fetch(hub, cache)
    snapshot = put_in_hub_cache(cache, NAME, zoo("llama"), commit="abad1dea" * 5)
    extra = cache / "models--org--model" / "snapshots" / hub.commit / "README.md"
    (cache / "models--org--model" / "blobs" / "card").write_text("somebody else's")
    extra.symlink_to("../../blobs/card")
    remove(NAME, cache=cache)
    assert extra.read_text() == "somebody else's"
    assert {file.name for file in snapshot.iterdir() if file.exists()} == {
        file.name for file in zoo("llama").iterdir()
    }
    model = found(cache)
    assert model is not None
    assert model.folder == snapshot
    with pytest.raises(ModelNotFound):
        remove(NAME, cache=cache)
    for name in ("../../etc", "/", "org/..", os.sep):
        with pytest.raises(ModelNotFound):
            remove(name, cache=cache)


def test_a_repository_that_another_program_brought_is_completed_and_only_that_is_removed(
    hub: Hub, cache: Path
) -> None:
    import hashlib

    data = weights_of(hub)
    blobs = cache / "models--org--model" / "blobs"
    blobs.mkdir(parents=True)
    blob = blobs / hashlib.sha256(data).hexdigest()
    blob.write_bytes(data)
    fetch(hub, cache)
    assert hub.fetched(WEIGHTS) == [], "no duplicate download"
    remove(NAME, cache=cache)
    assert [path.name for path in blobs.iterdir()] == [blob.name]


@pytest.fixture
def sharded(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hub's model in two shards; their names. Files come one after another, in the order of their names."""
    hub.add(NAME, write_model(tmp_path / "sharded", "qwen3", shards=2))
    hub.repositories[NAME] = dict(sorted(hub.repositories[NAME].items()))
    monkeypatch.setattr(hub_module, "_THREADS", 1)
    return sorted(file for file in hub.repositories[NAME] if file.startswith("model-"))


def test_remove_takes_all_that_several_pulls_brought_together(
    hub: Hub, cache: Path, sharded: list[str]
) -> None:
    hub.tamper = {sharded[1]}
    with pytest.raises(PullFailed, match="wrong hash"):
        fetch(hub, cache)
    assert len(hub.fetched(sharded[0])) == 1
    hub.tamper = set()
    fetch(hub, cache)
    assert len(hub.fetched(sharded[0])) == 1, "the first pull's shard was kept"
    assert found(cache) is not None
    remove(NAME, cache=cache)
    assert not (cache / "models--org--model").exists()


def test_remove_takes_what_a_pull_left_that_never_ended(hub: Hub, cache: Path, sharded: list[str]) -> None:
    hub.truncate[sharded[1]] = [5_000, 0, 0, 0, 0, 0]
    with pytest.raises(PullFailed):
        fetch(hub, cache)
    assert 5_000 in sizes(partials(cache))
    left = sum(sizes(list((cache / "models--org--model" / "blobs").iterdir())))
    assert left > 5_000
    assert remove(NAME, cache=cache) == left
    assert not (cache / "models--org--model").exists()


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


def test_a_busy_hub_is_left_alone_for_as_long_as_it_asks(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(Transfer, "_pause", lambda self, seconds: pauses.append(seconds))
    hub.statuses[WEIGHTS] = [429, 503]
    hub.retry_after = "7"
    fetch(hub, cache)
    assert pauses == [7.0, 7.0]
    assert found(cache) is not None
    remove(NAME, cache=cache)
    hub.statuses[WEIGHTS] = [429]
    hub.retry_after = formatdate(time.time() + 3600, usegmt=True)
    with pytest.raises(PullFailed, match=r"again in 3\d\d\d s"):
        fetch(hub, cache)


def test_a_pause_ends_when_the_pull_is_stopped(hub: Hub, cache: Path) -> None:
    hub.statuses[WEIGHTS] = [429]
    hub.retry_after = "60"
    began_s = time.monotonic()
    with pytest.raises(PullStopped):
        fetch(hub, cache, stop=lambda: bool(hub.fetched(WEIGHTS)))
    assert time.monotonic() - began_s < 10


@pytest.mark.parametrize("target", ["http://127.0.0.1:99999", f"http://{'a' * 80}.example"])
def test_a_redirect_to_what_is_no_address_is_an_error_that_says_so(
    hub: Hub, cache: Path, target: str
) -> None:
    hub.redirect = target
    with pytest.raises(PullFailed, match="no plain web address"):
        fetch(hub, cache)
    with pytest.raises(RedirectRefused, match="no plain web address"):
        next_url(hub.url + "/a", "http://[::1", hub.url)


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


def test_a_disk_that_cannot_be_written_to_is_an_error_that_names_it(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir()
    (cache / ".locks").write_text("a file in the way")
    with pytest.raises(PullFailed, match=r"\.locks.* cannot be written"):
        fetch(hub, cache)
    (cache / ".locks").unlink()
    fetch(hub, cache)

    def unlink(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(self))

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(PullFailed, match="Operation not permitted"):
        remove(NAME, cache=cache)


def test_a_disk_that_fills_up_before_the_first_byte_is_an_error(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_text(self: Path, *args: Any, **options: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", write_text)
    with pytest.raises(PullFailed, match="disk is full"):
        fetch(hub, cache)
