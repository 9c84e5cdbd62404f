"""JSON answers and OpenAI's error envelope, as ASGI messages. Knows no route and no request."""

import json
from typing import Any

from starlette.types import Message, Send

from basemlx.engine.errors import BaseMLXError, EngineDead, InternalError, ModelLoadFailed

Headers = list[tuple[bytes, bytes]]

# ASCII only: some SSE clients split lines at U+2028 and U+0085 as well, and all read \u escapes.
encode_json = json.JSONEncoder(
    ensure_ascii=True, allow_nan=False, check_circular=False, separators=(",", ":")
).encode


def json_messages(status: int, content: Any, headers: Headers | None = None) -> tuple[Message, Message]:
    """The two messages of a JSON answer."""
    body = encode_json(content).encode("ascii")
    start: Message = {
        "type": "http.response.start",
        "status": status,
        "headers": [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            *(headers or []),
        ],
    }
    return start, {"type": "http.response.body", "body": body, "more_body": False}


async def send_json(send: Send, status: int, content: Any, headers: Headers | None = None) -> None:
    for message in json_messages(status, content, headers):
        await send(message)


def error_headers(error: BaseMLXError) -> Headers:
    """What the status wants beside the envelope: when to try again, whether to, how to identify oneself."""
    headers: Headers = []
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    if isinstance(error, EngineDead | ModelLoadFailed | InternalError):
        headers.append((b"x-should-retry", b"false"))  # OpenAI's clients retry every 5xx otherwise
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


def error_messages(error: BaseMLXError, headers: Headers | None = None) -> tuple[Message, Message]:
    return json_messages(error.status, error.envelope(), [*error_headers(error), *(headers or [])])


async def send_error(send: Send, error: BaseMLXError, headers: Headers | None = None) -> None:
    for message in error_messages(error, headers):
        await send(message)
