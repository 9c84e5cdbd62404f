"""From what a server answers back to the error tree, and the few errors that only a transport can have.

    BaseMLXError
    ├── ServerError                  its own status   an answer that is none of the engine's errors
    └── EngineUnavailable
        └── ServerUnreachable        503              nobody answers there, or the answer broke off

An error of the engine that came over HTTP is of the class, with the status, code, message and parameter, that an engine
in this process would have raised. Knows no transport.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from basemlx.engine.errors import (
    AuthenticationFailed,
    BaseMLXError,
    DeadlineExceeded,
    EngineUnavailable,
    InvalidRequest,
    ModelInUse,
    QueueFull,
    RequestAborted,
    RequestForbidden,
    RequestTooLarge,
    UnsupportedMediaType,
    UnsupportedSchema,
)

TEXT_CHARACTERS_SHOWN = 300


class ServerUnreachable(EngineUnavailable):
    """Nobody answers under the address, or an answer broke off."""

    default_code = "server_unreachable"
    default_retry_after_s = None  # nobody said so


class ServerError(BaseMLXError):
    """An answer of a server that is none of the engine's errors: a proxy's page, a path it does not have."""

    default_code = "server_error"

    def __init__(self, message: str, *, status: int, type: str = "server_error", **fields: Any) -> None:
        super().__init__(message, **fields)
        self.status = status  # type: ignore[misc]
        self.type = type  # type: ignore[misc]


_BY_STATUS: dict[int, type[BaseMLXError]] = {
    400: InvalidRequest,
    401: AuthenticationFailed,
    403: RequestForbidden,
    409: ModelInUse,
    413: RequestTooLarge,
    415: UnsupportedMediaType,
    422: InvalidRequest,
    429: QueueFull,
    499: RequestAborted,
    503: EngineUnavailable,
    504: DeadlineExceeded,
}


def error_of(status: int, body: bytes, retry_after: str | None = None) -> BaseMLXError:
    """The error that an answer with `status` stands for."""
    try:
        error = json.loads(body)["error"]
        if isinstance(error, str) and error:
            message, error = f"The server answered {status}: {_shown(error)}", {}
        else:
            message = error["message"]
    except (ValueError, LookupError, TypeError, RecursionError):
        text = body[: 4 * TEXT_CHARACTERS_SHOWN].decode("utf-8", "replace")[:TEXT_CHARACTERS_SHOWN].strip()
        message, error = f"The server answered {status}: {text or 'nothing'}", {}
    return error_from(error, str(message), status, retry_after)


def error_of_event(error: Any) -> BaseMLXError:
    """The error in an event of a stream, which has no status of its own: its code tells."""
    message = "The server ended the stream with an error."
    if not isinstance(error, Mapping):
        text = _shown(error) if isinstance(error, str) else ""
        return error_from({}, f"{message[:-1]}: {text}" if text else message, 500, None)
    return error_from(error, str(error.get("message") or message), None, None)


def _shown(text: str) -> str:
    return text[:TEXT_CHARACTERS_SHOWN].strip()


def error_from(
    error: Mapping[str, Any], message: str, status: int | None, retry_after: str | None
) -> BaseMLXError:
    code, param = error.get("code"), error.get("param")
    if status is None and error.get("type") == InvalidRequest.type and code is None:
        status = InvalidRequest.status
    fields: dict[str, Any] = {
        "param": param if isinstance(param, str) else None,
        "code": code if isinstance(code, str) else None,
        "retry_after_s": int(retry_after) if retry_after is not None and retry_after.isdecimal() else None,
    }
    kind = _BY_CODE.get(str(code))
    if kind is None or status not in (None, kind.status):
        kind = _BY_STATUS.get(status or 500)
    if kind is not None and (error.get("type") or kind.type) == kind.type:
        if issubclass(kind, UnsupportedSchema):
            fields |= {
                name: value for name in ("keyword", "pointer") if isinstance(value := error.get(name), str)
            }
        return kind(message, **fields)
    status = status or 500
    default_type = "invalid_request_error" if 400 <= status < 500 else "server_error"
    return ServerError(message, status=status, type=str(error.get("type") or default_type), **fields)


def _tree(kind: type[BaseMLXError] = BaseMLXError) -> Iterator[type[BaseMLXError]]:
    for below in kind.__subclasses__():
        if below.__module__ == BaseMLXError.__module__:
            yield below
            yield from _tree(below)


_BY_CODE = {kind.default_code: kind for kind in _tree() if kind.default_code is not None}
