"""LiteLLM's arguments of a call to an OpenAI body. Nothing is dropped: what LiteLLM hands over goes into the body, and
the engine decides.
"""

from collections.abc import Mapping
from typing import Any

import httpx
import litellm

LITELLM_DEFAULT_TIMEOUTS_S = (600.0, 6000.0)
"""What LiteLLM passes when nobody asked for a timeout."""

# LiteLLM's own, in `optional_params` by its doing: they say how it calls, not what is asked.
_NOT_FOR_THE_ENGINE = ("max_retries", "extra_body", "stream", "stream_options", "timeout")


def chat_body(
    model: str, messages: list[Any], optional_params: Mapping[str, Any], timeout: Any
) -> dict[str, Any]:
    """`extra_body` wins, as with OpenAI's client."""
    return _body({"model": model, "messages": messages}, optional_params, timeout)


def embedding_body(
    model: str, inputs: Any, optional_params: Mapping[str, Any], timeout: Any
) -> dict[str, Any]:
    return _body({"model": model, "input": inputs}, optional_params, timeout)


def _body(start: dict[str, Any], optional_params: Mapping[str, Any], timeout: Any) -> dict[str, Any]:
    body = start | {name: value for name, value in optional_params.items() if name not in _NOT_FOR_THE_ENGINE}
    timeout_s = seconds_of(timeout)
    if timeout_s is not None:
        body["timeout"] = timeout_s
    return body | dict(optional_params.get("extra_body") or {})


def seconds_of(timeout: Any) -> float | None:
    """A timeout that somebody asked for."""
    if isinstance(timeout, httpx.Timeout):
        timeout = timeout.read
    if timeout is None:
        return None
    try:
        timeout_s = float(timeout)
    except (TypeError, ValueError):
        raise litellm.BadRequestError(
            message=f"timeout must be a number of seconds, not {timeout!r}.", model="", llm_provider="basemlx"
        ) from None
    return None if timeout_s in LITELLM_DEFAULT_TIMEOUTS_S else timeout_s
