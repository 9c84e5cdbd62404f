"""Addresses of servers: what is one, which are this machine's own. Knows nothing of who is there."""

import ipaddress
from urllib.parse import urlsplit

import httpx

from basemlx.engine.errors import InvalidRequest


def trimmed(api_base: str) -> str:
    return api_base.strip().rstrip("/")


def checked_base(api_base: str) -> str:
    """The address without what does not matter. Raises InvalidRequest."""
    base = trimmed(api_base)
    if not _is_base(base):
        shown = base.rpartition("@")[2][:200]  # without credentials
        raise InvalidRequest(
            f"api_base must be a URL such as http://127.0.0.1:11435/v1, not {shown!r}.", param="api_base"
        )
    return base


def _is_base(base: str) -> bool:
    try:
        parts = urlsplit(base)
        has_place = bool(parts.hostname) and parts.port != 0  # the port is checked by being asked for
        has_place = has_place and bool(httpx.URL(base).host)  # as is a name of other letters than ASCII's
    except (ValueError, httpx.InvalidURL):
        return False
    is_plain = base.isascii() and base.isprintable() and " " not in base
    return (
        is_plain and has_place and parts.scheme in ("http", "https") and not (parts.query or parts.fragment)
    )


def without_credentials(api_base: str) -> str:
    parts = urlsplit(api_base)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def is_loopback(api_base: str) -> bool:
    """Whether nobody but this machine is asked there. The host is read as it will be by who connects."""
    try:
        host = httpx.URL(api_base).host
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except (ValueError, httpx.InvalidURL):
        return False
