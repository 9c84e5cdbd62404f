"""A server that speaks OpenAI's API, as a Backend: `basemlx serve` above all.

All requests of the process run on one thread (io_thread), so that threads and event loops share connections. Nothing is
retried. A deadline holds here as well as at the server: one that does not answer cannot hold a caller. Giving a request
up closes its connection, by which the server knows.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from copy import copy
from typing import Any, Self

import httpx

from basemlx.engine.core.channel import Channel, ChannelStream
from basemlx.engine.errors import BaseMLXError, DeadlineExceeded, InvalidRequest, RequestAborted
from basemlx.provider.address import checked_base, without_credentials
from basemlx.provider.backend import Body, Chunk, Response
from basemlx.provider.body import encode_body, streamed, timeout_of
from basemlx.provider.connections import Connections
from basemlx.provider.errors import ServerError, ServerUnreachable, error_of, error_of_event
from basemlx.provider.io_thread import io_thread
from basemlx.provider.sse import EventParser

CONNECT_TIMEOUT_S = 10.0
SILENCE_TIMEOUT_S = 120.0
"""A stream without a byte for so long is dead: the server sends a comment every few seconds."""

END_TIMEOUT_S = 1.0
"""What a server gets to end a stream's body after its last event, by which the connection can be kept."""

DEFAULT_DEADLINE_S = 600.0
GRACE_S = 5.0
"""After a deadline, what the server's own word on it gets to arrive: it knows more."""

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2


class HttpBackend:
    """`api_base` is the address with its /v1. `deadline_s` is for requests that bring no `timeout` of their own.
    `headers` go with every request and win over the key. Make one for each server and keep it: connections are kept
    with it."""

    def __init__(
        self,
        api_base: str,
        *,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        deadline_s: float = DEFAULT_DEADLINE_S,
    ) -> None:
        self.api_base = checked_base(api_base)
        self._deadline_s = deadline_s
        self._shown_base = without_credentials(self.api_base)
        self._headers = httpx.Headers({"content-type": "application/json"})
        if api_key:
            self._headers["authorization"] = f"Bearer {_checked_key(api_key)}"
        self._headers.update(_checked_headers(headers or {}))
        self._connections = Connections(self.api_base)

    def with_headers(self, headers: Mapping[str, str]) -> Self:
        """This backend with further headers, which win over those that it has. Both have the same connections: closing
        one closes the other."""
        other = copy(self)
        other._headers = self._headers.copy()
        other._headers.update(_checked_headers(headers))
        return other

    # whole answers

    def chat(self, body: Body) -> Response:
        return io_thread().run(self._ask("/chat/completions", streamed(body, False)))

    def completion(self, body: Body) -> Response:
        return io_thread().run(self._ask("/completions", streamed(body, False)))

    def embeddings(self, body: Body) -> Response:
        return io_thread().run(self._ask("/embeddings", body))

    def models(self) -> Response:
        return io_thread().run(self._ask("/models", None))

    def tokenize(self, body: Body) -> Response:
        return io_thread().run(self._ask("/../tokenize", _prompt_only(body)))

    async def achat(self, body: Body) -> Response:
        return await io_thread().arun(self._ask("/chat/completions", streamed(body, False)))

    async def acompletion(self, body: Body) -> Response:
        return await io_thread().arun(self._ask("/completions", streamed(body, False)))

    async def aembeddings(self, body: Body) -> Response:
        return await io_thread().arun(self._ask("/embeddings", body))

    async def amodels(self) -> Response:
        return await io_thread().arun(self._ask("/models", None))

    async def atokenize(self, body: Body) -> Response:
        return await io_thread().arun(self._ask("/../tokenize", _prompt_only(body)))

    # streams

    def chat_stream(self, body: Body) -> "HttpStream":
        return self._open("/chat/completions", body).started()

    def completion_stream(self, body: Body) -> "HttpStream":
        return self._open("/completions", body).started()

    async def achat_stream(self, body: Body) -> "HttpStream":
        return await self._open("/chat/completions", body).astarted()

    async def acompletion_stream(self, body: Body) -> "HttpStream":
        return await self._open("/completions", body).astarted()

    def _open(self, path: str, body: Body) -> "HttpStream":
        marked = streamed(body, True)
        content = encode_body(marked)
        incoming = _Incoming()
        task = io_thread().submit(self._pump(path, content, self._deadline_of(marked), incoming))
        return HttpStream(incoming, task.cancel)

    # on the I/O thread

    async def _ask(self, path: str, body: Body | None) -> Response:
        content = None if body is None else encode_body(body)
        deadline_s = self._deadline_of(body or {})
        async with self._answer(path, content, deadline_s, silence_timeout_s=None) as answer:
            text = await answer.aread()
        try:
            response = json.loads(text)
        except (ValueError, RecursionError):
            raise ServerError("The server's answer is not JSON.", status=502) from None
        if not isinstance(response, dict):
            raise ServerError("The server's answer is not a JSON object.", status=502)
        if response.get("error") is not None:
            raise error_of_event(response["error"])
        if path.endswith("/completions") and not (_is_list(response.get("choices")) and response["choices"]):
            raise ServerError("The server's answer has no choices.", status=502)
        return response

    async def _pump(self, path: str, content: bytes, deadline_s: float, incoming: "_Incoming") -> None:
        """Reads a stream to its end into a channel."""
        try:
            await self._read(path, content, deadline_s, incoming)
            incoming.chunks.end()
        except asyncio.CancelledError:
            incoming.end(RequestAborted("The request was given up by its caller."))
            raise
        except BaseException as error:
            incoming.end(error)

    async def _read(self, path: str, content: bytes, deadline_s: float, incoming: "_Incoming") -> None:
        async with self._answer(path, content, deadline_s, silence_timeout_s=SILENCE_TIMEOUT_S) as answer:
            incoming.begin(answer.headers)
            parser = EventParser()
            pieces = answer.aiter_bytes()
            async for piece in pieces:
                for data in parser.push(piece):
                    if data.startswith(b"[DONE]"):
                        await _read_end(pieces)
                        return
                    incoming.chunks.push(_chunk_of(data))
        raise ServerUnreachable("The server's answer broke off before its end.")

    @asynccontextmanager
    async def _answer(
        self, path: str, content: bytes | None, deadline_s: float, *, silence_timeout_s: float | None
    ) -> AsyncIterator[httpx.Response]:
        """An answer with status 200. Everything that httpx raises becomes an error of the tree."""
        client = self._connections.client()
        timeout = httpx.Timeout(silence_timeout_s, connect=CONNECT_TIMEOUT_S, pool=None)
        method = "GET" if content is None else "POST"
        headers = self._headers
        if silence_timeout_s is not None:  # compressing would hold events back
            headers = httpx.Headers({"accept-encoding": "identity"} | dict(headers))
        try:
            async with (
                asyncio.timeout(deadline_s + GRACE_S),
                client.stream(
                    method, self._url(path), content=content, headers=headers, timeout=timeout
                ) as answer,
            ):
                if answer.status_code != 200:
                    text = await answer.aread()
                    raise self._explained(
                        error_of(answer.status_code, text, answer.headers.get("retry-after"))
                    )
                yield answer
        except TimeoutError:
            raise DeadlineExceeded(
                f"The request's deadline of {deadline_s:g} s passed without an answer of the server."
            ) from None
        except httpx.ReadTimeout:
            raise ServerUnreachable(f"The server has been silent for {SILENCE_TIMEOUT_S:g} s.") from None
        except httpx.ConnectError as error:
            raise ServerUnreachable(f"No server answers at {self._shown_base}: {error}.") from None
        except httpx.InvalidURL as error:
            raise InvalidRequest(f"{self._shown_base!r} is not a URL: {error}.", param="api_base") from None
        except httpx.LocalProtocolError:  # whose text quotes what was to be sent, the key perhaps
            raise ServerUnreachable(
                f"The request to {self._shown_base} could not be sent: it is no valid HTTP."
            ) from None
        except httpx.HTTPError as error:
            raise ServerUnreachable(
                f"The connection to {self._shown_base} failed: {str(error) or type(error).__name__}."
            ) from None

    def _explained(self, error: BaseMLXError) -> BaseMLXError:
        if isinstance(error, ServerError) and error.status == 404 and not self.api_base.endswith("/v1"):
            hint = f"{error.message} Does {self._shown_base} lack its /v1?"
            return ServerError(hint, status=404, type=error.type, code=error.code)
        return error

    def _url(self, path: str) -> str:
        if path.startswith("/.."):
            return self.api_base.removesuffix("/v1") + path.removeprefix("/..")
        return self.api_base + path

    def _deadline_of(self, body: Body) -> float:
        return timeout_of(body) or self._deadline_s

    @property
    def closed(self) -> bool:
        """Whether somebody has closed it, or a backend that it shares connections with."""
        return self._connections.closed

    def close(self) -> None:
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Incoming:
    """What has come of a stream: its headers, or what there is instead of them, then its chunks."""

    def __init__(self) -> None:
        self.head: Channel[httpx.Headers] = Channel()
        self.chunks: Channel[Chunk] = Channel()

    def begin(self, headers: httpx.Headers) -> None:
        self.head.push(headers)
        self.head.end()

    def end(self, error: BaseException) -> None:
        self.head.end(error)
        self.chunks.end(error)


class HttpStream(ChannelStream[Chunk]):
    """A stream of a server. See ChunkStream."""

    def __init__(self, incoming: _Incoming, cancel: Callable[[], object]) -> None:
        super().__init__(incoming.chunks)
        self.request_id = ""
        self.ignored: tuple[str, ...] = ()
        self._incoming = incoming
        self._cancel = cancel

    def started(self) -> Self:
        """Waits for the server to accept the request. Raises its refusal."""
        try:
            return self._begun(self._incoming.head.take())
        except BaseException:
            self.abort()
            raise

    async def astarted(self) -> Self:
        """`started` for an event loop."""
        try:
            return self._begun(await self._incoming.head.atake())
        except BaseException:
            self.abort()
            raise

    def _begun(self, headers: httpx.Headers | None) -> Self:
        assert headers is not None
        self.request_id = headers.get("x-request-id", "")
        names = headers.get("x-basemlx-ignored")
        self.ignored = tuple(names.split(", ")) if names else ()
        return self

    def abort(self) -> None:
        if not self._incoming.chunks.ended:
            self._cancel()


async def _read_end(pieces: AsyncIterator[bytes]) -> None:
    """Reads on behind the last event. What goes wrong there is no loss: the connection is not kept then."""
    with suppress(TimeoutError, httpx.HTTPError):
        async with asyncio.timeout(END_TIMEOUT_S):
            async for _ in pieces:
                pass


def _chunk_of(data: bytes) -> Chunk:
    try:
        chunk = json.loads(data)
    except (ValueError, RecursionError):
        raise ServerError("The server sent an event that is not JSON.", status=502) from None
    if not isinstance(chunk, dict):
        raise ServerError("The server sent an event that is not a JSON object.", status=502)
    if chunk.get("error") is not None:
        error: BaseMLXError = error_of_event(chunk["error"])
        raise error
    if not _is_list(chunk.get("choices")):
        raise ServerError("The server sent an event without choices.", status=502)
    return chunk


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _prompt_only(body: Body) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name not in ("stream", "stream_options")}


def _checked_key(api_key: str) -> str:
    """Never quoted: what is wrong with it may be a single character at its end."""
    if not _is_sendable(api_key):
        raise InvalidRequest(
            "api_key (or BASEMLX_API_KEY) has characters that an HTTP header cannot carry. Is there a line break at "
            "its end?",
            param="api_key",
        )
    return api_key


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(str(name)):
            raise InvalidRequest("headers has a name that is none in HTTP.", param="headers")
        if not _is_sendable(value):
            raise InvalidRequest(
                f"The header {name} has characters that an HTTP header cannot carry.", param="headers"
            )
    return dict(headers)


def _is_sendable(value: object) -> bool:
    return isinstance(value, str) and value.isascii() and value.isprintable()
