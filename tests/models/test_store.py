"""The cache on this disk: full or forbidden, left by a pull that was killed, shared with others, and cleared."""

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from basemlx.engine.errors import ModelNotFound
from basemlx.engine.models import hub as hub_module
from basemlx.engine.models.discovery import FoundModel
from basemlx.engine.models.hub import remove
from basemlx.engine.models.transfer import PullFailed
from tests.models.conftest import put_in_hub_cache
from tests.models.hub_server import Hub
from tests.models.pulling import NAME, WEIGHTS, fetch, found, partials, sizes, weights_of


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
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(PullFailed, match="disk is full"):
        fetch(hub, cache)


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

    data = weights_of(hub)
    blobs = cache / "models--org--model" / "blobs"
    blobs.mkdir(parents=True)
    blob = blobs / hashlib.sha256(data).hexdigest()
    blob.write_bytes(data)
    fetch(hub, cache)
    assert hub.fetched(WEIGHTS) == [], "no duplicate download"
    remove(NAME, cache=cache)
    assert [path.name for path in blobs.iterdir()] == [blob.name]


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\0" * 40,
        "[]",
        "{}",
        '{"commits": {"c": {"files": 5}}}',
        '{"commits": 1}',
        '{"commits": {"c": 1}}',
    ],
)
def test_a_damaged_note_keeps_nobody_from_pulling_and_removes_nothing(
    hub: Hub, cache: Path, note: str
) -> None:
    fetch(hub, cache)
    path = cache / "models--org--model" / ".basemlx.json"
    path.write_text(note)
    with pytest.raises(PullFailed, match="damaged") as raised:
        remove(NAME, cache=cache)
    assert str(path) in raised.value.message
    assert found(cache) is not None
    assert fetch(hub, cache).fetched_bytes == 0
    with pytest.raises(ModelNotFound, match="not brought by basemlx pull"):
        remove(NAME, cache=cache)
    assert found(cache) is not None


def test_folders_of_other_programs_stay_even_where_they_are_empty(hub: Hub, cache: Path) -> None:
    theirs = cache / "models--org--model" / "snapshots" / ("ab" * 20)
    theirs.mkdir(parents=True)
    hub.tamper.add(WEIGHTS)
    with pytest.raises(PullFailed, match="wrong hash"):
        fetch(hub, cache)
    assert theirs.is_dir()
    remove(NAME, cache=cache)
    assert [path for path in (cache / "models--org--model").rglob("*") if path != theirs] == [theirs.parent]


def test_what_a_write_left_that_was_killed_is_removed(hub: Hub, cache: Path) -> None:
    fetch(hub, cache)
    folder = cache / "models--org--model"
    for name in ("..basemlx.json.123", "refs/.main.123"):
        (folder / name).write_text("{")
    remove(NAME, cache=cache)
    assert not folder.exists()


@pytest.mark.parametrize("replace", ["a damaged copy", "a whole copy", "a link to another blob"])
def test_a_name_in_a_snapshot_leads_to_the_right_contents_after_a_pull(
    hub: Hub, cache: Path, replace: str
) -> None:
    fetch(hub, cache)
    model = found(cache)
    assert model is not None
    link = model.folder / WEIGHTS
    link.unlink()
    if replace == "a link to another blob":
        (cache / "models--org--model" / "blobs" / "other").write_bytes(weights_of(hub)[:-1] + b"x")
        link.symlink_to("../../blobs/other")
    else:
        link.write_bytes(weights_of(hub)[: None if replace == "a whole copy" else 1000])
    assert fetch(hub, cache).fetched_bytes == 0
    assert link.read_bytes() == weights_of(hub)
    assert link.is_symlink() == (replace != "a whole copy")


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


def test_remove_takes_what_a_pull_left_that_was_killed_before_its_snapshot_appeared(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rename(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            fetch(hub, cache)
    assert found(cache) is None
    left = sum(sizes(list((cache / "models--org--model" / "blobs").iterdir())))
    assert left > len(weights_of(hub))
    assert remove(NAME, cache=cache) == left
    assert not (cache / "models--org--model").exists()


def test_what_another_program_brought_after_a_pull_failed_is_not_removed(hub: Hub, cache: Path) -> None:
    hub.statuses[WEIGHTS] = [403]
    with pytest.raises(PullFailed, match="403"):
        fetch(hub, cache)
    blob = cache / "models--org--model" / "blobs" / hashlib.sha256(weights_of(hub)).hexdigest()
    blob.write_bytes(weights_of(hub))
    remove(NAME, cache=cache)
    assert blob.read_bytes() == weights_of(hub)
    assert list(cache.rglob("*.basemlx*")) == [], "its own is gone"
    with pytest.raises(ModelNotFound, match="not brought by basemlx pull"):
        remove(NAME, cache=cache)
