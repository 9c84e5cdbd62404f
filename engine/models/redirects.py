"""Where a download may be sent on to, and with what: hubs answer with the address of a content server.

A redirect may leave for another host, but never the encryption, and never from a public hub into this machine or its
network; a link-local address (where clouds keep credentials) is never followed. The token goes to the hub alone.
Looks names up, opens no connection.
"""

import ipaddress
import socket
from urllib.parse import urljoin, urlsplit

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class RedirectRefused(ValueError):
    """Says why, as a clause."""


def next_url(url: str, location: str, endpoint: str) -> str:
    """The address that `location` means in an answer from `url`. Raises RedirectRefused."""
    try:
        return _next_url(url, location, endpoint)
    except RedirectRefused:
        raise
    except ValueError:  # brackets, ports and host names that are none
        raise RedirectRefused("to something that is no plain web address") from None


def _next_url(url: str, location: str, endpoint: str) -> str:
    target = urljoin(url, location)
    parts, hub = urlsplit(target), urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise RedirectRefused("to something that is no plain web address")
    if hub.scheme == "https" and parts.scheme != "https":
        raise RedirectRefused("from an encrypted to an open connection")
    if is_same_origin(target, endpoint):
        return target
    addresses = _addresses(parts.hostname)
    if any(address.is_link_local for address in addresses):
        raise RedirectRefused("to a link-local address")
    if any(address.is_unspecified for address in addresses):
        raise RedirectRefused("to an address that is none")
    hub_addresses = _addresses(hub.hostname or "")
    hub_is_public = all(address.is_global for address in hub_addresses)
    if hub_is_public and any(not address.is_global for address in addresses):
        raise RedirectRefused("from a public hub to an address of this machine or its network")
    return target


def is_same_origin(url: str, endpoint: str) -> bool:
    """Whether the hub's token may go there."""
    return _origin(url) == _origin(endpoint)


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return (
        parts.scheme,
        (parts.hostname or "").lower(),
        parts.port or {"https": 443, "http": 80}[parts.scheme],
    )


def _addresses(host: str) -> list[_Address]:
    """All that the name stands for; none where it cannot be looked up here (behind a proxy, which decides then)."""
    try:
        return [_unwrapped(ipaddress.ip_address(host))]
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [_unwrapped(ipaddress.ip_address(str(entry[4][0]).partition("%")[0])) for entry in found]


def _unwrapped(address: _Address) -> _Address:
    """The IPv4 address that an IPv6 address leads to, where it is one of those that carry one."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    inner = address.ipv4_mapped or address.sixtofour
    if inner is None and address in _NAT64:
        inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return inner or address
