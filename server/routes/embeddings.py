"""/v1/embeddings: a body in, vectors out. Reading, tokenising and writing megabytes of JSON run in the work pool.

A client that leaves gives its request up: what is not computed by then is not.
"""

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from basemlx.engine.openai.embeddings import EmbeddingsTurn
from basemlx.engine.openai.embeddings_request import EmbeddingsRequest
from basemlx.engine.openai.json_body import parse_json
from basemlx.engine.work_pool import WorkPool
from basemlx.server.body import read_body
from basemlx.server.context import record_of
from basemlx.server.disconnect import Watch
from basemlx.server.lifecycle import Lifecycle
from basemlx.server.residence import Waiting
from basemlx.server.routes.endpoint import route
from basemlx.server.routes.generation import ignored_header
from basemlx.server.service import ModelAdmin, Service


def embedding_routes(
    service: Service, lifecycle: Lifecycle, pool: WorkPool, admin: ModelAdmin | None = None
) -> list[Route]:
    """With `admin`, a request waits here for its model; without, the service waits for it."""

    async def accepted(body: list[bytes], request_id: str) -> EmbeddingsTurn:
        """The turn of the one body, which is taken out: nothing keeps it, or what was read of it, any longer."""

        def check() -> Waiting[EmbeddingsRequest]:
            asked = service.read_embeddings(parse_json(body.pop()))
            return Waiting.of(asked, None if admin is None else admin.reserve(asked.model, "embed"))

        waiting = await pool.run(check, discard=Waiting.give_up)
        async with waiting.held() as lease:
            return await pool.run(
                lambda: service.embeddings(waiting.due(), request_id=request_id, held=lease),
                discard=EmbeddingsTurn.abort,
            )

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        request_id = record_of(scope).request_id
        body = [await read_body(receive)]
        async with Watch(receive, lifecycle.watches) as watch:
            with watch.guard():
                turn = await accepted(body, request_id)
            try:
                with watch.guard():
                    result = await turn.aresult()
                    content = await pool.run(lambda: turn.encoded(result))
                headers = [
                    (b"content-type", b"application/json"),
                    (b"content-length", b"%d" % len(content)),
                    *ignored_header(turn.ignored),
                ]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": content, "more_body": False})
            finally:
                turn.abort()

    return [route("/v1/embeddings", ["POST"], handle)]
