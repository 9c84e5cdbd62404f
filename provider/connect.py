"""Which backend a caller gets: the engine of this process, or the server under an address. Both are shared.

The address is `api_base`, else BASEMLX_API_BASE, else there is none and the engine runs here. The key is `api_key`,
else BASEMLX_API_KEY, which goes to the server of BASEMLX_API_BASE and to this machine's own, never to another that a
call names.
"""

import os
import threading
from collections.abc import Mapping

from basemlx.engine.environment import Environment
from basemlx.provider.address import checked_base, is_loopback, trimmed
from basemlx.provider.backend import Backend
from basemlx.provider.http import HttpBackend
from basemlx.provider.local import LocalBackend

MAX_HTTP_BACKENDS = 64

_lock = threading.Lock()
_local = LocalBackend()
_http: dict[tuple[str, str | None], HttpBackend] = {}
_abandoned: list[object] = []


def connect(
    api_base: str | None = None, *, api_key: str | None = None, headers: Mapping[str, str] | None = None
) -> Backend:
    """The shared backend, with `headers` if there are any. Who closes it closes it for all who have it; the next who
    asks gets another. It is closed at exit in any case. An empty `api_key` means none. Raises InvalidRequest for an
    address that is none."""
    environment = Environment.read()
    api_base = api_base or environment.api_base
    if api_base is None:
        return _local
    base = checked_base(api_base)
    if api_key is None and (is_loopback(base) or base == trimmed(environment.api_base or "")):
        api_key = environment.api_key
    backend = _shared(base, api_key or None)
    return backend.with_headers(headers) if headers else backend


def _shared(base: str, api_key: str | None) -> HttpBackend:
    dropped = None  # outlives the lock: losing it may close its connections, which takes a while
    with _lock:
        backend = _http.pop((base, api_key), None)
        if backend is None or backend.closed:
            backend = HttpBackend(base, api_key=api_key)
        _http[base, api_key] = backend  # the newest last
        if len(_http) > MAX_HTTP_BACKENDS:
            dropped = _http.pop(next(iter(_http)))  # closed when nobody uses it any more
    del dropped
    return backend


def use_engine(backend: LocalBackend) -> LocalBackend:
    """Makes `backend` the one of this process (for an engine with settings of one's own) and returns the one before."""
    global _local
    with _lock:
        before, _local = _local, backend
    return before


def _forget() -> None:
    """In a forked child: connections are the parent's, and its lock may have been held."""
    global _lock, _http
    _abandoned.append(_http)
    _lock, _http = threading.Lock(), {}


os.register_at_fork(after_in_child=_forget)
