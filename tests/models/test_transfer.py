"""A hub and a network that misbehave: what comes is checked and resumed, and redirects are looked at."""

import ipaddress
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from basemlx.engine.models.hub import remove
from basemlx.engine.models.redirects import RedirectRefused, next_url
from basemlx.engine.models.transfer import PullFailed, PullStopped, Transfer
from tests.models.hub_server import Hub, serving
from tests.models.pulling import NAME, WEIGHTS, fetch, found, partials, weights_of


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
    # A file beside it may have been stopped on its way, too.
    [partial] = [path for path in partials(cache) if path.stat().st_size == 50_000]
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


@pytest.mark.parametrize("target", ["http://127.0.0.1:99999", f"http://{'a' * 80}.example", "javascript:1"])
def test_a_redirect_to_what_is_no_address_is_an_error_that_says_so(
    hub: Hub, cache: Path, target: str
) -> None:
    hub.redirect = target
    with pytest.raises(PullFailed, match=r"no (plain web )?address"):
        fetch(hub, cache)
    with pytest.raises(RedirectRefused, match="no plain web address"):
        next_url(hub.url + "/a", "http://[::1", hub.url)


def test_a_public_hub_cannot_send_a_download_into_this_network() -> None:
    hub = "https://8.8.8.8"
    for location in ("https://127.0.0.1/x", "https://10.0.0.7/x", "https://[::1]/x", "https://localhost/x"):
        with pytest.raises(RedirectRefused, match="this machine or its network"):
            next_url(hub + "/a", location, hub)
    with pytest.raises(RedirectRefused, match="open connection"):
        next_url(hub + "/a", "http://8.8.4.4/x", hub)
    assert next_url(hub + "/a", "/b", hub) == hub + "/b"
    assert next_url(hub + "/a", "https://8.8.4.4/x", hub) == "https://8.8.4.4/x"


@pytest.mark.parametrize("shape", ["[::ffff:{}]", "[64:ff9b::{}]", "[2002:{}::]"])
def test_an_address_within_another_is_judged_by_where_it_leads(shape: str) -> None:
    def wrapped(address: str) -> str:
        packed = ipaddress.IPv4Address(address).packed.hex()
        return f"http://{shape.format(packed[:4] + ':' + packed[4:])}/x"

    own, public = "http://127.0.0.1:8000", "http://8.8.8.8"
    for hub in (own, public):
        with pytest.raises(RedirectRefused, match="link-local"):
            next_url(hub + "/a", wrapped("169.254.169.254"), hub)
        with pytest.raises(RedirectRefused, match="is none"):
            next_url(hub + "/a", wrapped("0.0.0.0"), hub)
    for inside in ("127.0.0.1", "10.0.0.7"):
        with pytest.raises(RedirectRefused, match="this machine or its network"):
            next_url(public + "/a", wrapped(inside), public)
    assert next_url(public + "/a", wrapped("8.8.4.4"), public) == wrapped("8.8.4.4")


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
def test_an_address_that_is_none_is_not_followed(host: str) -> None:
    hub = "http://127.0.0.1:8000"
    with pytest.raises(RedirectRefused, match="is none"):
        next_url(hub + "/a", f"http://{host}/x", hub)


def test_a_file_that_is_shorter_than_listed_does_not_come_again_and_again(hub: Hub, cache: Path) -> None:
    hub.overstated[WEIGHTS] = 1000
    with pytest.raises(PullFailed, match="ended after"):
        fetch(hub, cache)
    assert len(hub.fetched(WEIGHTS)) <= 8
    assert found(cache) is None


@pytest.mark.parametrize("size", [True, -1, None, 1.5, 10**400])
def test_a_size_that_is_none_refuses_the_repository(
    hub: Hub, cache: Path, size: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe = hub.describe

    def lying(name: str) -> dict[str, Any]:
        told = describe(name)
        for sibling in told["siblings"]:
            sibling["size"] = size
            sibling.pop("lfs", None)
        return told

    monkeypatch.setattr(hub, "describe", lying)
    with pytest.raises(PullFailed):
        fetch(hub, cache)
    assert not cache.exists() or not [path for path in cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize("after_bytes", [0, 1000])
def test_a_stall_holds_up_nobody_once_another_file_has_failed(
    hub: Hub, cache: Path, after_bytes: int
) -> None:
    hub.stall[WEIGHTS] = [after_bytes]
    hub.tamper.add("config.json")
    started_s = time.monotonic()
    with pytest.raises(PullFailed, match="wrong hash"):
        fetch(hub, cache, stall_timeout_s=60.0)
    assert time.monotonic() - started_s < 20
