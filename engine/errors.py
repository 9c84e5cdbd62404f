"""Every error that basemlx raises on purpose, in one tree.

    BaseMLXError                       status  type                    code
    ├── InvalidRequest                 400     invalid_request_error   (given, or None)
    │   ├── UnsupportedParameter       400     invalid_request_error   unsupported_parameter
    │   ├── UnsupportedSchema          400     invalid_request_error   unsupported_schema  (keyword, pointer)
    │   └── ContextLengthExceeded      400     invalid_request_error   context_length_exceeded
    ├── AuthenticationFailed           401     invalid_request_error   invalid_api_key
    ├── RequestForbidden               403     invalid_request_error   forbidden
    ├── ModelNotFound                  404     invalid_request_error   model_not_found
    ├── ModelInUse                     409     invalid_request_error   model_in_use        (retry_after_s)
    ├── RequestTooLarge                413     invalid_request_error   request_too_large
    ├── UnsupportedMediaType           415     invalid_request_error   unsupported_media_type
    ├── QueueFull                      429     rate_limit_error        queue_full          (retry_after_s)
    ├── RequestAborted                 499     aborted                 request_aborted
    ├── ModelLoadFailed                500     server_error            model_load_failed
    │   └── ModelCorrupt               500     server_error            model_corrupt
    ├── GenerationFailed               500     server_error            generation_failed
    ├── InternalError                  500     server_error            internal_error
    ├── EngineUnavailable              503     server_error            engine_unavailable  (retry_after_s)
    │   ├── EngineDead                 503     server_error            engine_dead
    │   ├── ShuttingDown               503     server_error            shutting_down
    │   └── OutOfMemory                503     server_error            out_of_memory
    └── DeadlineExceeded               504     timeout_error           deadline_exceeded

An error knows its HTTP status and its place in OpenAI's envelope; it knows nothing of how it is sent.
`retry_after_s` is when trying again may help, None where waiting does not.
`param` names the request field at fault, as OpenAI does. Messages say what is wrong and what to do about it, and
carry no prompt text and no path of the machine (a path belongs in the log, or in the CLI's own message).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar


class BaseMLXError(Exception):
    """Root of the tree. `status` is an HTTP status; `type` and `code` are OpenAI's."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None
    default_retry_after_s: ClassVar[int | None] = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else self.default_code
        self.retry_after_s = retry_after_s if retry_after_s is not None else self.default_retry_after_s

    def envelope(self) -> dict[str, Any]:
        """The error as OpenAI's JSON body."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class InvalidRequest(BaseMLXError):
    """The request is malformed or out of range; `param` names the field."""

    status = 400
    type = "invalid_request_error"


class UnsupportedParameter(InvalidRequest):
    """A known parameter that this engine cannot honour, refused rather than dropped."""

    default_code = "unsupported_parameter"


class UnsupportedSchema(InvalidRequest):
    """A JSON schema, or another grammar, that is malformed, too large, or not enforceable as asked.

    `keyword` is at fault, and `pointer` (a JSON Pointer) says where in the schema; None where neither applies.
    """

    default_code = "unsupported_schema"

    def __init__(
        self,
        message: str,
        *,
        keyword: str | None = None,
        pointer: str | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(message, **fields)
        self.keyword = keyword
        self.pointer = pointer

    def envelope(self) -> dict[str, Any]:
        """With `keyword` and `pointer`, where there are any."""
        envelope = super().envelope()
        where = {"keyword": self.keyword, "pointer": self.pointer}
        envelope["error"] |= {name: value for name, value in where.items() if value is not None}
        return envelope


class ContextLengthExceeded(InvalidRequest):
    """Prompt, or prompt plus the tokens asked for, does not fit the model's context."""

    default_code = "context_length_exceeded"


class AuthenticationFailed(BaseMLXError):
    """No API key, or a wrong one."""

    status = 401
    type = "invalid_request_error"
    default_code = "invalid_api_key"


class RequestForbidden(BaseMLXError):
    """The Host, Origin or another property of the connection is not allowed."""

    status = 403
    type = "invalid_request_error"
    default_code = "forbidden"


class ModelNotFound(BaseMLXError):
    """No model of that name is known on this machine."""

    status = 404
    type = "invalid_request_error"
    default_code = "model_not_found"


class ModelInUse(BaseMLXError):
    """Running requests keep the model from being unloaded."""

    status = 409
    type = "invalid_request_error"
    default_code = "model_in_use"


class RequestTooLarge(BaseMLXError):
    """The body is larger than the server accepts."""

    status = 413
    type = "invalid_request_error"
    default_code = "request_too_large"


class UnsupportedMediaType(BaseMLXError):
    """The body is not plain JSON."""

    status = 415
    type = "invalid_request_error"
    default_code = "unsupported_media_type"


class QueueFull(BaseMLXError):
    """As many requests wait as are allowed to; `retry_after_s` is an estimate in whole seconds."""

    status = 429
    type = "rate_limit_error"
    default_code = "queue_full"
    default_retry_after_s = 1


class RequestAborted(BaseMLXError):
    """The caller gave the request up."""

    status = 499
    type = "aborted"
    default_code = "request_aborted"


class ModelLoadFailed(BaseMLXError):
    """The model's files were found but could not be loaded."""

    default_code = "model_load_failed"


class ModelCorrupt(ModelLoadFailed):
    """The model's files are incomplete, truncated or contradict each other."""

    default_code = "model_corrupt"


class GenerationFailed(BaseMLXError):
    """One request failed inside the engine; the others go on."""

    default_code = "generation_failed"


class InternalError(BaseMLXError):
    """A fault of basemlx itself. `__cause__` is what happened, for a log or a debugger: it may quote a request."""

    default_code = "internal_error"


class EngineUnavailable(BaseMLXError):
    """The engine cannot take requests now."""

    status = 503
    default_code = "engine_unavailable"
    default_retry_after_s: ClassVar[int | None] = 5


class EngineDead(EngineUnavailable):
    """The engine thread has ended; the process has to be restarted."""

    default_code = "engine_dead"
    default_retry_after_s = None


class ShuttingDown(EngineUnavailable):
    """The engine is draining and takes no new requests."""

    default_code = "shutting_down"


class OutOfMemory(EngineUnavailable):
    """The request, or the model, does not fit the memory that is allowed."""

    default_code = "out_of_memory"


class DeadlineExceeded(BaseMLXError):
    """The request's deadline passed, waiting included."""

    status = 504
    type = "timeout_error"
    default_code = "deadline_exceeded"


@contextmanager
def internal_errors() -> Iterator[None]:
    """What nobody raised on purpose in here leaves as InternalError, so that one tree holds all that can be raised."""
    try:
        yield
    except BaseMLXError:
        raise
    except Exception as error:
        raise InternalError(
            f"basemlx failed on this request with {type(error).__name__}, which is a fault of its own: please report "
            "it. The exception that caused this one says where."
        ) from error
