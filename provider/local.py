"""The engine in this process, as a Backend: made when it is first asked, shared by all who ask, closed at exit.

It wraps the same OpenAI layer as the server, so the two cannot answer differently. Models are loaded on demand, by the
server's names; a folder works here too (`./my-model`), as its name does not come from strangers.

A process that was forked after the engine started cannot use it: its threads, and MLX's, stayed with the parent. Such a
process is refused with EngineUnavailable; it can start anew (spawn), or ask a server.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self, TypeVar

from basemlx.engine.config import EngineConfig
from basemlx.engine.errors import EngineUnavailable
from basemlx.engine.openai.json_body import parse_json
from basemlx.engine.openai.turn import Turn
from basemlx.provider.backend import Body, Response
from basemlx.provider.body import encode_body, streamed

if TYPE_CHECKING:
    from basemlx.engine.engine import Engine
    from basemlx.engine.openai.service import OpenAIService

T = TypeVar("T")

NUM_THREADS = 4
"""For what async callers ask: validating, rendering and tokenising take milliseconds, loading a model longer."""


class LocalBackend:
    """`engine` is one to use and not to close; without it one is made, with `config`, for the first request."""

    def __init__(self, *, engine: "Engine | None" = None, config: EngineConfig | None = None) -> None:
        self._given = engine
        self._config = config
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._service: OpenAIService | None = None
        self._folders: dict[str, str] = {}
        self._executor = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="basemlx-local")

    @property
    def engine(self) -> "Engine":
        """The engine, made now if there is none yet."""
        self._started()
        assert self._engine is not None
        return self._engine

    def _started(self) -> "OpenAIService":
        if self._service is not None and self._pid == os.getpid():
            return self._service
        self._refuse_in_child()
        with self._lock:
            if self._service is None:
                from basemlx.engine.engine import Engine
                from basemlx.engine.openai.service import OpenAIService

                self._engine = self._given or Engine(self._config)
                self._service = OpenAIService(self._engine)
            return self._service

    def _refuse_in_child(self) -> None:
        if self._pid == os.getpid():
            return
        if self._engine is None and self._given is None:  # nothing had started: the child may have its own
            self._pid, self._lock = os.getpid(), threading.Lock()
            self._executor = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="basemlx-local")
            return
        raise EngineUnavailable(
            "This process was forked after its parent had started an engine, and cannot use that. Start processes with "
            "multiprocessing's spawn method, or run `basemlx serve` and set BASEMLX_API_BASE."
        )

    # whole answers

    def chat(self, body: Body) -> Response:
        return self._chat_turn(body, False).response()

    def completion(self, body: Body) -> Response:
        return self._completion_turn(body, False).response()

    def embeddings(self, body: Body) -> Response:
        return self._started().embeddings(self._checked(body)).response()

    def models(self) -> Response:
        return self._started().models()

    def tokenize(self, body: Body) -> Response:
        return self._started().tokenize(self._checked(streamed(body, False)))

    async def achat(self, body: Body) -> Response:
        return await (await self._accepted(lambda: self._chat_turn(body, False))).aresponse()

    async def acompletion(self, body: Body) -> Response:
        return await (await self._accepted(lambda: self._completion_turn(body, False))).aresponse()

    async def aembeddings(self, body: Body) -> Response:
        turn = await self._run(lambda: self._started().embeddings(self._checked(body)), lambda it: it.abort())
        return turn.made_of(await turn.aresult())

    async def amodels(self) -> Response:
        return await self._run(self.models)

    async def atokenize(self, body: Body) -> Response:
        return await self._run(lambda: self.tokenize(body))

    # streams: a turn of the engine's OpenAI layer is a ChunkStream as it is

    def chat_stream(self, body: Body) -> Turn:
        return self._chat_turn(body, True)

    def completion_stream(self, body: Body) -> Turn:
        return self._completion_turn(body, True)

    async def achat_stream(self, body: Body) -> Turn:
        return await self._accepted(lambda: self._chat_turn(body, True))

    async def acompletion_stream(self, body: Body) -> Turn:
        return await self._accepted(lambda: self._completion_turn(body, True))

    def _chat_turn(self, body: Body, is_streamed: bool) -> Turn:
        return self._started().chat(self._checked(streamed(body, is_streamed)))

    def _completion_turn(self, body: Body, is_streamed: bool) -> Turn:
        return self._started().completion(self._checked(streamed(body, is_streamed)))

    def _checked(self, body: Body) -> dict[str, Any]:
        """The body as it would have come over HTTP; a folder in place of a model's name is loaded and named."""
        parsed = parse_json(encode_body(body))
        name = parsed.get("model")
        if isinstance(name, str) and name.startswith(("/", "./", "../", "~")):
            if name not in self._folders:
                self._folders[name] = self.engine.load(name).name
            parsed["model"] = self._folders[name]
        return parsed

    # for event loops

    async def _accepted(self, submit: Callable[[], Turn]) -> Turn:
        return await self._run(submit, Turn.abort)

    async def _run(self, work: Callable[[], T], discard: Callable[[T], None] | None = None) -> T:
        """`work()` off the loop. If the caller is cancelled meanwhile, a result goes to `discard`."""
        self._refuse_in_child()
        future = self._executor.submit(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if discard is not None and not future.cancel():
                future.add_done_callback(lambda done: _discard(done, discard))
            raise

    def close(self) -> None:
        """Ends the engine if it is this backend's own. The next request makes another."""
        if self._pid != os.getpid():
            return
        with self._lock:
            engine, self._engine, self._service = self._engine, None, None
            self._folders.clear()
        if engine is not None and engine is not self._given:
            engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
        self._executor.shutdown(wait=False)


def _discard(future: "Future[T]", discard: Callable[[T], None]) -> None:
    if not future.cancelled() and future.exception() is None:
        discard(future.result())
