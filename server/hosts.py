"""Under which names this server may be called: the answer to DNS rebinding (a page's name made to point at 127.0.0.1).

A Host header must be `localhost` or a literal address, of loopback or the one this connection came in by, at the port
that is served; or it must be configured. A rebound name is never a literal address.
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

    def allows(self, header: bytes, scheme: str = "http", *, reached: str = "") -> bool:
        """Whether a Host `header` is right. `reached` is the address of ours that the client connected to."""
        try:
            match = _HOST.fullmatch(header.decode("ascii").lower())
        except UnicodeDecodeError:
            return False
        if match is None:
            return False
        name, given_port = match[1], match[2]
        port = int(given_port) if given_port is not None else DEFAULT_PORTS.get(scheme, 0)
        if port == self.port and (_is_loopback(name) or _is_same_address(name, reached)):
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


def is_address(host: str) -> bool:
    """Whether `host`, as --host has it, is a literal address and no name."""
    return _address(f"[{host}]" if ":" in host else host) is not None


def _is_loopback(name: str) -> bool:
    address = _address(name)
    return name == "localhost" or (address is not None and address.is_loopback)


def _is_same_address(name: str, reached: str) -> bool:
    address = _address(name)
    return address is not None and address == _address(f"[{reached}]" if ":" in reached else reached)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The literal address in a Host header, IPv6 in brackets; None if it is a name."""
    try:
        address = ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None
    if (address.version == 6) != name.startswith("["):
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address  # a socket of both families shows IPv4 clients as ::ffff:1.2.3.4
