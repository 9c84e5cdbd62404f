"""A request's body as bytes of JSON, the same for both transports: what HTTP could not carry is refused in this process
too. Async calls encode on another thread: a body must not be changed before they have answered.
"""

import json
from typing import Any

from basemlx.engine.errors import InvalidRequest
from basemlx.engine.openai.parameters import MAX_TIMEOUT_S
from basemlx.provider.backend import Body

_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=True, separators=(",", ":"), default=None).encode


def streamed(body: Body, is_streamed: bool) -> dict[str, Any]:
    """The body with `stream` set. Without streaming it has no `stream_options` either, and no usage is missing."""
    marked = {**body, "stream": is_streamed}
    if not is_streamed:
        marked.pop("stream_options", None)
    return marked


def timeout_of(body: Body) -> float | None:
    """The seconds that a body asks for. What is no time at all is refused by whoever reads the body."""
    timeout_s = body.get("timeout")
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float):
        return None
    return timeout_s if 0 < timeout_s <= MAX_TIMEOUT_S else None


def is_several(n: Any) -> bool:
    """Whether a body's `n` asks for more than one choice. What is no number is refused by whoever reads the body."""
    return isinstance(n, int) and n > 1


def encode_body(body: Body) -> bytes:
    """Raises InvalidRequest for what is not JSON. NaN and lone surrogates go through: the reader refuses them."""
    try:
        return _encode(plain(body)).encode("ascii")
    except RecursionError:
        raise InvalidRequest("The request body is nested too deeply, or holds itself.") from None
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"The request body is not JSON: {error}.") from None


def plain(value: Any) -> Any:
    """Dicts and lists of whatever carries their values: pydantic models (without their nulls), tuples, mappings."""
    if isinstance(value, str | int | float | None):
        return value
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(exclude_none=True))
    if isinstance(value, dict) or hasattr(value, "keys"):
        return {key: plain(value[key]) for key in value.keys()}  # noqa: SIM118 - of mappings that are no dict
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
