"""The connections to one server: opened with the first request, kept between requests, shared by all who ask there,
closed when nobody uses them any more. They live on the I/O thread. A forked child opens its own."""

import os
import threading
import weakref
from collections.abc import Coroutine
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx

from basemlx.provider.address import is_loopback
from basemlx.provider.errors import ServerUnreachable
from basemlx.provider.io_thread import io_thread

MAX_IDLE_CONNECTIONS = 32
CLOSE_TIMEOUT_S = 5.0


class Connections:
    def __init__(self, api_base: str) -> None:
        self._trust_env = not is_loopback(api_base)  # no proxy knows this machine's loopback
        self._closed = False
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._client: httpx.AsyncClient | None = None

    def abandon(self) -> None:
        """In a forked child: the client, its sockets and perhaps a held lock are the parent's. It is left unclosed."""
        if self._client is not None:
            _abandoned.append(self._client)
        self._begin()

    @property
    def closed(self) -> bool:
        return self._closed

    def client(self) -> httpx.AsyncClient:
        with self._lock:
            if self._closed:
                raise ServerUnreachable("The backend was closed.")
            if self._client is None:
                self._client = httpx.AsyncClient(
                    limits=httpx.Limits(max_connections=None, max_keepalive_connections=MAX_IDLE_CONNECTIONS),
                    trust_env=self._trust_env,
                    follow_redirects=False,
                    cookies=_no_cookies(),
                )
                self._finalizer = weakref.finalize(self, _close_client, self._client, self._pid)
            return self._client

    def close(self) -> None:
        with self._lock:
            self._closed = True
            client, self._client = self._client, None
        if client is not None and self._finalizer.detach() is not None:
            _close_client(client, self._pid)


def _no_cookies() -> CookieJar:
    """A jar that keeps none: callers who share the connections are not each other."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


def _close_client(client: httpx.AsyncClient, pid: int) -> None:
    if os.getpid() != pid:  # a forked child: the sockets are its parent's
        return
    closing: Coroutine[Any, Any, None] = client.aclose()
    try:
        done = io_thread().submit(closing)
        if not io_thread().is_current:  # it would wait for itself
            done.result(CLOSE_TIMEOUT_S)
    except (RuntimeError, TimeoutError):  # the I/O thread has ended, and its sockets with it
        closing.close()


_all: "weakref.WeakSet[Connections]" = weakref.WeakSet()
_abandoned: list[httpx.AsyncClient] = []


def _abandon_all() -> None:
    for connections in list(_all):
        connections.abandon()


os.register_at_fork(after_in_child=_abandon_all)
