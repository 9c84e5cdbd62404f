"""What a client is told of whatever was raised, and what the log is told of a fault."""

from basemlx.engine.errors import BaseMLXError, InternalError
from basemlx.server.logs import log_exception


def told(what: str, error: Exception, request_id: str) -> BaseMLXError:
    """An error of the tree as it is. Anything else is a fault of ours: no traceback and no path for the client, but an
    id to ask about, under which the log has the cause."""
    if isinstance(error, BaseMLXError) and not isinstance(error, InternalError):
        return error
    log_exception(what, request_id, error.__cause__ or error)
    return InternalError(
        f"The server failed on this request. Its log has the cause under the id {request_id}."
    )
