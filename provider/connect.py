"""Which backend a caller gets: the engine of this process, or the server under an address. Both are shared.

The address is `api_base`, else BASEMLX_API_BASE, else there is none and the engine runs here.
"""

import os
import threading
from collections.abc import Mapping

from basemlx.engine.environment import Environment
from basemlx.provider.backend import Backend
from basemlx.provider.http import HttpBackend
from basemlx.provider.local import LocalBackend

MAX_HTTP_BACKENDS = 64

_lock = threading.Lock()
_local = LocalBackend()
_http: dict[tuple[object, ...], HttpBackend] = {}
_abandoned: list[object] = []


def connect(
    api_base: str | None = None, *, api_key: str | None = None, headers: Mapping[str, str] | None = None
) -> Backend:
    """The shared backend. Who closes it closes it for all; it is closed at exit in any case. Raises InvalidRequest for
    an address that is none."""
    api_base = api_base or Environment.read().api_base
    if api_base is None:
        return _local
    key = (api_base, api_key, tuple(sorted((headers or {}).items())))
    with _lock:
        backend = _http.pop(key, None) or HttpBackend(api_base, api_key=api_key, headers=headers)
        _http[key] = backend  # the newest last
        if len(_http) > MAX_HTTP_BACKENDS:
            del _http[next(iter(_http))]  # closed when nobody uses it any more
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
