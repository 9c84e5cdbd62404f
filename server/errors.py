"""Errors that exist only because there is HTTP. They join the engine's tree, so that all are answered alike."""

from basemlx.engine.errors import BaseMLXError


class RouteNotFound(BaseMLXError):
    """No such path."""

    status = 404
    type = "invalid_request_error"
    default_code = "not_found"


class MethodNotAllowed(BaseMLXError):
    """The path exists, not with this method."""

    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"


class RequestTimeout(BaseMLXError):
    """The request's head or body did not arrive in time."""

    status = 408
    type = "timeout_error"
    default_code = "request_timeout"


class HeadersTooLarge(BaseMLXError):
    """The request's headers are larger than the server accepts."""

    status = 431
    type = "invalid_request_error"
    default_code = "headers_too_large"


class TooManyConnections(BaseMLXError):
    """Every connection that is allowed is busy."""

    status = 503
    default_code = "too_many_connections"


class ClientLeft(Exception):
    """The client closed its connection before its answer was complete. An event: nobody is there to be told."""
