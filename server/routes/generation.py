"""/v1/chat/completions and /v1/completions: a body in, a turn of the service out, streamed or folded.

Reading, validating, rendering and tokenising run in the work pool. A body is checked as far as that goes without its
model before the model is loaded. Requests that bring a grammar have a pool of their own, since some grammars take
seconds to be refused. Whatever ends the answer, its turn is given up.
"""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from basemlx.engine.models.keeper import ModelLease
from basemlx.engine.openai.chat_request import ChatRequest
from basemlx.engine.openai.completion_request import CompletionRequest
from basemlx.engine.openai.json_body import parse_json
from basemlx.engine.work_pool import WorkPool
from basemlx.server.body import read_body
from basemlx.server.context import record_of
from basemlx.server.disconnect import Watch
from basemlx.server.lifecycle import Lifecycle
from basemlx.server.residence import Waiting
from basemlx.server.responses import Headers, send_json
from basemlx.server.routes.endpoint import Handler, route
from basemlx.server.service import ModelAdmin, Service, Turn
from basemlx.server.settings import ServerSettings
from basemlx.server.sse import EventStream

Asked = TypeVar("Asked", ChatRequest, CompletionRequest)
AskedIn = TypeVar("AskedIn", ChatRequest, CompletionRequest, contravariant=True)


class Submit(Protocol[AskedIn]):
    """`chat` or `completion` of a service."""

    def __call__(
        self,
        asked: AskedIn,
        *,
        request_id: str,
        cancelled: threading.Event,
        held: ModelLease | None,
    ) -> Turn: ...


def generation_routes(
    service: Service,
    settings: ServerSettings,
    lifecycle: Lifecycle,
    pool: WorkPool,
    grammar_pool: WorkPool,
    admin: ModelAdmin | None = None,
) -> list[Route]:
    """With `admin`, a request waits here for its model; without, the service waits for it."""

    chats = _handler(service.read_chat, service.chat, settings, lifecycle, pool, grammar_pool, admin)
    completions = _handler(
        service.read_completion, service.completion, settings, lifecycle, pool, grammar_pool, admin
    )
    return [
        route("/v1/chat/completions", ["POST"], chats),
        route("/v1/completions", ["POST"], completions),
    ]


def _handler(
    read: Callable[[Mapping[str, Any]], Asked],
    submit: Submit[Asked],
    settings: ServerSettings,
    lifecycle: Lifecycle,
    pool: WorkPool,
    grammar_pool: WorkPool,
    admin: ModelAdmin | None,
) -> Handler:
    async def accepted(body: list[bytes], request_id: str) -> Turn:
        """The turn of the one body, which is taken out: nothing keeps it, or what was read of it, while an answer is
        made, which may take minutes."""
        cancelled = threading.Event()

        def check() -> Waiting[Asked]:
            asked = read(parse_json(body.pop()))
            return Waiting.of(asked, None if admin is None else admin.reserve(asked.model, "generate"))

        waiting = await pool.run(check, discard=Waiting.give_up)
        async with waiting.held() as lease:
            accepting = grammar_pool if waiting.asked.brings_grammar else pool
            return await accepting.run(
                lambda: submit(waiting.due(), request_id=request_id, cancelled=cancelled, held=lease),
                discard=_abort,
                cancelled=cancelled,
            )

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        request_id = record_of(scope).request_id
        body = [await read_body(receive)]
        async with Watch(receive, lifecycle.watches) as watch:
            with watch.guard():
                turn = await accepted(body, request_id)
            try:
                headers = ignored_header(turn.ignored)
                if turn.stream:
                    stream = EventStream(send, settings.heartbeat_s)
                    await stream.run(aiter(turn), watch, headers, request_id)
                else:
                    with watch.guard():
                        response = await turn.aresponse()
                    await send_json(send, 200, response, headers)
            finally:
                turn.abort()

    return handle


def _abort(turn: Turn) -> None:
    turn.abort()


def ignored_header(names: Sequence[str]) -> Headers:
    """Names of fields that nobody knows, as a header: a client wrote them, so they are cut to harmless characters."""
    if not names:
        return []
    shown = ", ".join(re.sub(r"[^A-Za-z0-9_.\[\] -]", "?", name) for name in names)
    return [(b"x-basemlx-ignored", shown.encode("ascii"))]
