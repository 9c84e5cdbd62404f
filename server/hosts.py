"""Under which names this server may be called: the answer to DNS rebinding (a page's name made to point at 127.0.0.1).

A Host header must be a literal loopback address or `localhost`, at the port that is served, or be configured.
"""

import ipaddress
import re
from dataclasses import dataclass

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?)(?::([0-9]{1,5}))?")
DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class HostRules:
    """`port`: the one served, which loopback names must carry. `entries`: configured `name`, `name:port`, `name:*`;
    a `name` alone may come with the served port or, as through a proxy, with none."""

    port: int
    entries: tuple[str, ...] = ()

    def allows(self, header: bytes, scheme: str = "http") -> bool:
        try:
            match = _HOST.fullmatch(header.decode("ascii").lower())
        except UnicodeDecodeError:
            return False
        if match is None:
            return False
        name, given_port = match[1], match[2]
        port = int(given_port) if given_port is not None else DEFAULT_PORTS.get(scheme, 0)
        if _is_loopback(name) and port == self.port:
            return True
        return any(self._entry_allows(entry.lower(), name, port, given_port) for entry in self.entries)

    def _entry_allows(self, entry: str, name: str, port: int, given_port: str | None) -> bool:
        match = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(\*|[0-9]+))?", entry)
        if match is None or match[1] != name:
            return False
        wanted = match[2]
        if wanted == "*":
            return True
        if wanted is not None:
            return port == int(wanted)
        return given_port is None or port == self.port


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback and (":" in name) == name.startswith("[")
    except ValueError:
        return False
