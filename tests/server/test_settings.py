"""Settings that cannot be used are refused at the start, by the name of their option."""

from pathlib import Path
from typing import Any

import pytest

from basemlx.server.settings import ServerSettings, SettingsError, check_environment, read_api_keys


@pytest.mark.parametrize(
    ("values", "option"),
    [
        ({"host": "0.0.0.0"}, "--host"),
        ({"host": "::"}, "--host"),
        ({"host": "192.168.1.5"}, "--host"),
        ({"host": "mybox.local"}, "--host"),
        ({"port": 65536}, "--port"),
        ({"max_body_bytes": 0}, "--max-body"),
        ({"max_connections": 0}, "--max-connections"),
        ({"header_timeout_s": 0.0}, "--header-timeout"),
        ({"write_timeout_s": float("nan")}, "--write-timeout"),
        ({"drain_timeout_s": -1.0}, "--drain-timeout"),
        ({"api_keys": ("short",)}, "--api-key-file"),
        ({"api_keys": ("with a space",)}, "--api-key-file"),
        ({"api_keys": ("schlüssel-1",)}, "--api-key-file"),
        ({"allowed_origins": ("ui.example",)}, "--allowed-origin"),
        ({"allowed_origins": ("https://ui.example/",)}, "--allowed-origin"),
        ({"allowed_origins": ("https://bücher.example",)}, "--allowed-origin"),
        ({"allowed_origins": ("*",)}, "--allowed-origin"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_by_its_option(values: dict[str, Any], option: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        ServerSettings(**values)
    assert refusal.value.option == option
    assert option in str(refusal.value) or "key" in str(refusal.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    assert ServerSettings(host=host).is_loopback


def test_beyond_loopback_a_key_is_needed_or_a_word_that_none_is_wanted() -> None:
    assert ServerSettings(host="0.0.0.0", api_keys=("long-enough",)).needs_key
    assert not ServerSettings(host="0.0.0.0", insecure_no_auth=True).needs_key


def test_keys_come_from_a_file_and_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# for the team\nfirst-key-1\n\n  second-key-2  \nfirst-key-1\n")
    assert read_api_keys(file, {"BASEMLX_API_KEY": "third-key-3"}) == (
        "first-key-1",
        "second-key-2",
        "third-key-3",
    )
    assert read_api_keys(None, {"BASEMLX_API_KEY": ""}) == ()


@pytest.mark.parametrize("content", [b"", b"# nothing\n\n", b"\xff\xfe"])
def test_a_key_file_without_keys_is_no_open_door(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match="--api-key-file"):
        read_api_keys(file, {})


def test_a_misspelt_variable_is_an_error() -> None:
    check_environment({"BASEMLX_API_KEY": "x", "HOME": "/"})
    with pytest.raises(SettingsError, match="BASEMLX_APIKEY"):
        check_environment({"BASEMLX_APIKEY": "x"})
