"""/v1/chat/completions and /v1/completions: a body in, a turn of the service out, streamed or folded.

Reading, validating, rendering and tokenising run in the work pool. Whatever ends the answer, its turn is given up.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from basemlx.engine.openai.json_body import parse_json
from basemlx.server.body import read_body
from basemlx.server.context import record_of
from basemlx.server.disconnect import Watch
from basemlx.server.lifecycle import Lifecycle
from basemlx.server.pool import WorkPool
from basemlx.server.responses import Headers, send_json
from basemlx.server.routes.endpoint import Handler, route
from basemlx.server.service import Service, Turn
from basemlx.server.settings import ServerSettings
from basemlx.server.sse import EventStream

MAX_IGNORED_NAMES = 32
MAX_IGNORED_CHARACTERS = 64

Submit = Callable[[Mapping[str, Any], str], Turn]


def generation_routes(
    service: Service, settings: ServerSettings, lifecycle: Lifecycle, pool: WorkPool
) -> list[Route]:
    def chat(body: Mapping[str, Any], request_id: str) -> Turn:
        return service.chat(body, request_id=request_id)

    def completion(body: Mapping[str, Any], request_id: str) -> Turn:
        return service.completion(body, request_id=request_id)

    return [
        route("/v1/chat/completions", ["POST"], _handler(chat, settings, lifecycle, pool)),
        route("/v1/completions", ["POST"], _handler(completion, settings, lifecycle, pool)),
    ]


def _handler(submit: Submit, settings: ServerSettings, lifecycle: Lifecycle, pool: WorkPool) -> Handler:
    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        request_id = record_of(scope).request_id
        body = [await read_body(receive)]  # emptied by whoever parses it: an answer may take minutes

        def accept() -> Turn:
            return submit(parse_json(body.pop()), request_id)

        async with Watch(receive, lifecycle.watches) as watch:
            with watch.guard():
                turn = await pool.run(accept, discard=_abort)
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
    shown = [
        re.sub(r"[^A-Za-z0-9_.-]", "?", name[:MAX_IGNORED_CHARACTERS]) for name in names[:MAX_IGNORED_NAMES]
    ]
    if len(names) > MAX_IGNORED_NAMES:
        shown.append(f"and {len(names) - MAX_IGNORED_NAMES} more")
    return [(b"x-basemlx-ignored", ", ".join(shown).encode("ascii"))]
