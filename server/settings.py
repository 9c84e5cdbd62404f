"""The server's settings: frozen, built at the edge, checked once.

Keys come from --api-key-file and from BASEMLX_API_KEY, never from the command line, where every user of the machine can
read them. It knows limits and names, not how they are enforced.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from basemlx.engine.environment import API_KEY_VARIABLE, Environment

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 11435
MIN_KEY_CHARACTERS = 8

MIB = 1024 * 1024
HELD_BODIES = 8
"""How many of the largest bodies may be held at once."""


class SettingsError(ValueError):
    """A setting that cannot be used. `option` is its command-line name; the message says what to do."""

    def __init__(self, message: str, *, option: str | None = None) -> None:
        super().__init__(message)
        self.option = option


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Who may come in and how much may be asked of a connection. Sizes in bytes, times in seconds.

    `allowed_hosts`: names beyond the loopback ones that a Host header may carry (`name`, `name:port` or `name:*`).
    `allowed_origins`: web pages that may call (`https://ui.example`). `max_held_body_bytes`: all requests together.
    `header_timeout_s`: from a request's first byte to the end of its head; a new connection's first byte included.
    `write_timeout_s`: how long a reader may leave the socket full. `heartbeat_s`: silence after which a stream gets
    a comment line. `drain_timeout_s`: how long running requests may go on after SIGTERM. `grammar_threads`: requests
    whose grammar may be compiled at the same time, or waits for that; they have no share in `worker_threads`.
    """

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    insecure_no_auth: bool = False
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    max_body_bytes: int = 32 * MIB
    max_held_body_bytes: int = HELD_BODIES * 32 * MIB
    max_header_bytes: int = 64 * 1024
    max_connections: int = 512
    header_timeout_s: float = 30.0
    body_timeout_s: float = 30.0
    write_timeout_s: float = 30.0
    keep_alive_s: float = 30.0
    heartbeat_s: float = 10.0
    drain_timeout_s: float = 30.0
    worker_threads: int = 4
    grammar_threads: int = 16

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"--port must be between 0 and 65535, not {self.port}.", option="--port")
        for name in ("max_body_bytes", "max_held_body_bytes", "max_header_bytes", "max_connections"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{_option(name)} must be at least 1.", option=_option(name))
        for name in ("worker_threads", "grammar_threads"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{_option(name)} must be at least 1.", option=_option(name))
        for name in ("header_timeout_s", "body_timeout_s", "write_timeout_s", "keep_alive_s", "heartbeat_s"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{_option(name)} must be above 0 seconds.", option=_option(name))
        if not self.drain_timeout_s >= 0:
            raise SettingsError("--drain-timeout must not be negative.", option="--drain-timeout")
        for key in self.api_keys:
            _check_key(key)
        for origin in self.allowed_origins:
            _check_origin(origin)
        if not self.is_loopback and not self.api_keys and not self.insecure_no_auth:
            raise SettingsError(
                f"--host {self.host} can be reached from other machines, so an API key is needed: "
                f"--api-key-file FILE or {API_KEY_VARIABLE}. (--insecure-no-auth serves without one.)",
                option="--host",
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach `host`. A name other than localhost counts as reachable."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def needs_key(self) -> bool:
        return bool(self.api_keys)


def read_api_keys(file: Path | None, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Keys of `file` (one a line, `#` starts a comment) and of the environment. Raises SettingsError."""
    keys: list[str] = []
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise SettingsError(
                f"--api-key-file: cannot read {file}: {reason}.", option="--api-key-file"
            ) from None
        keys += [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if not keys:
            raise SettingsError(f"--api-key-file: {file} holds no key.", option="--api-key-file")
    own = Environment.read(environ).api_key
    if own is not None:
        keys.append(own)
    return tuple(dict.fromkeys(keys))


def check_environment(environ: Mapping[str, str] | None = None) -> None:
    """Raises SettingsError for a BASEMLX_ variable that nothing reads: a misspelt one must not be ignored."""
    unknown = Environment.read(environ).unknown_names
    if unknown:
        raise SettingsError(
            f"Unknown environment variable {', '.join(unknown)}. Unset it or correct its name."
        )


def _option(name: str) -> str:
    return "--" + name.removesuffix("_s").removesuffix("_bytes").replace("_", "-")


def _check_key(key: str) -> None:
    if len(key) < MIN_KEY_CHARACTERS or not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError(
            f"An API key must have {MIN_KEY_CHARACTERS} or more printable ASCII characters and no space.",
            option="--api-key-file",
        )


def _check_origin(origin: str) -> None:
    parts = urlsplit(origin)
    if (
        not origin.isascii()
        or parts.scheme not in ("http", "https")
        or not parts.netloc
        or origin != f"{parts.scheme}://{parts.netloc}"
    ):
        raise SettingsError(
            f"--allowed-origin {origin!r} must look like https://name or http://name:port.",
            option="--allowed-origin",
        )
