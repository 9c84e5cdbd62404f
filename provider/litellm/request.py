"""LiteLLM's arguments of a call to an OpenAI body. Nothing is dropped: what LiteLLM hands over goes into the body, and
the engine decides.
"""

from collections.abc import Mapping
from typing import Any

import httpx

from basemlx.engine.errors import InvalidRequest

LITELLM_DEFAULT_TIMEOUTS_S = (600.0, 6000.0)
"""What LiteLLM passes when nobody asked for a timeout."""

# LiteLLM's own, in `optional_params` by its doing: they say how it calls, not what is asked.
_NOT_FOR_THE_ENGINE = ("max_retries", "extra_body", "stream", "stream_options", "timeout")


# What a call says by arguments of its own, and `extra_body` may repeat but not change.
_OF_THE_CALL = ("model", "messages", "input", "stream")


def chat_body(
    model: str,
    messages: list[Any],
    optional_params: Mapping[str, Any],
    timeout: Any,
    *,
    stream: bool = False,
) -> dict[str, Any]:
    """`extra_body` wins over other parameters, as with OpenAI's client, but cannot change what is asked of whom.
    Raises InvalidRequest."""
    return _body({"model": model, "messages": messages, "stream": stream}, optional_params, timeout)


def embedding_body(
    model: str, inputs: Any, optional_params: Mapping[str, Any], timeout: Any
) -> dict[str, Any]:
    return _body({"model": model, "input": inputs}, optional_params, timeout)


def _body(call: dict[str, Any], optional_params: Mapping[str, Any], timeout: Any) -> dict[str, Any]:
    body = call | {name: value for name, value in optional_params.items() if name not in _NOT_FOR_THE_ENGINE}
    timeout_s = seconds_of(timeout)
    if timeout_s is not None:
        body["timeout"] = timeout_s
    return body | _extra(call, optional_params.get("extra_body"))


def _extra(call: Mapping[str, Any], extra: Any) -> dict[str, Any]:
    if extra is None:
        return {}
    if not isinstance(extra, Mapping):
        raise InvalidRequest("extra_body must be an object of further fields.", param="extra_body")
    for name in _OF_THE_CALL:
        if name in extra and extra[name] != call.get(name):
            raise InvalidRequest(
                f"extra_body.{name} contradicts the call: give {name} as an argument of its own.",
                param=f"extra_body.{name}",
            )
    return dict(extra)


def seconds_of(timeout: Any) -> float | None:
    """A timeout that somebody asked for. Raises InvalidRequest."""
    if isinstance(timeout, httpx.Timeout):
        timeout = timeout.read
    if timeout is None:
        return None
    try:
        timeout_s = float(timeout)
    except (TypeError, ValueError):
        raise InvalidRequest(
            f"timeout must be a number of seconds, not {timeout!r}.", param="timeout"
        ) from None
    return None if timeout_s in LITELLM_DEFAULT_TIMEOUTS_S else timeout_s
