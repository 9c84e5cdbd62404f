"""The error tree as LiteLLM's own exceptions, which callers, its Router and its retries know by their class.

Raised as they are, LiteLLM leaves them alone; anything else it would guess at.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import httpx
import litellm

from basemlx.engine.errors import BaseMLXError, ContextLengthExceeded, DeadlineExceeded
from basemlx.provider.errors import ServerUnreachable

PROVIDER = "basemlx"

_BY_STATUS: dict[int, Callable[..., Exception]] = {
    400: litellm.BadRequestError,
    401: litellm.AuthenticationError,
    403: litellm.PermissionDeniedError,
    404: litellm.NotFoundError,
    408: litellm.Timeout,
    429: litellm.RateLimitError,
    500: litellm.InternalServerError,
    502: litellm.BadGatewayError,
    503: litellm.ServiceUnavailableError,
}


@contextmanager
def litellm_errors(model: str) -> Iterator[None]:
    """What raises a BaseMLXError in here raises LiteLLM's exception instead."""
    try:
        yield
    except BaseMLXError as error:
        raise litellm_error(error, model) from error


def litellm_error(error: BaseMLXError, model: str) -> Exception:
    """`body` is OpenAI's error object and `response` has status and Retry-After, where the class has room for them."""
    made = _class_for(error)
    fields: dict[str, Any] = {"message": error.message, "model": model, "llm_provider": PROVIDER}
    if made not in (litellm.APIConnectionError, litellm.Timeout):
        fields["response"] = _response(error)
    raised: Exception = made(**fields)
    raised.body = error.envelope()["error"]  # type: ignore[attr-defined]
    return raised


def _class_for(error: BaseMLXError) -> Callable[..., Exception]:
    if isinstance(error, ServerUnreachable):
        return cast(Callable[..., Exception], litellm.APIConnectionError)
    if isinstance(error, ContextLengthExceeded):
        return cast(Callable[..., Exception], litellm.ContextWindowExceededError)
    if isinstance(error, DeadlineExceeded):
        return cast(Callable[..., Exception], litellm.Timeout)
    if error.status in _BY_STATUS:
        return _BY_STATUS[error.status]
    return _BY_STATUS[400] if 400 <= error.status < 500 else _BY_STATUS[500]


def _response(error: BaseMLXError) -> httpx.Response:
    headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
    return httpx.Response(
        error.status,
        headers=headers,
        json=error.envelope(),
        request=httpx.Request("POST", "http://basemlx/v1"),
    )
