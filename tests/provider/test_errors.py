"""What a server answers becomes the error that an engine here would have raised, or one that tells what came."""

import json
from collections.abc import Iterator

import pytest

from basemlx.engine.errors import (
    BaseMLXError,
    DeadlineExceeded,
    EngineUnavailable,
    InvalidRequest,
    ModelInUse,
    QueueFull,
    RequestAborted,
    UnsupportedSchema,
)
from basemlx.provider.errors import ServerError, ServerUnreachable, error_of, error_of_event
from basemlx.server.responses import error_messages


def tree(kind: type[BaseMLXError] = BaseMLXError) -> Iterator[type[BaseMLXError]]:
    """The classes of engine/errors.py; servers and clients add some of their own."""
    for below in kind.__subclasses__():
        if below.__module__ == BaseMLXError.__module__:
            yield below
            yield from tree(below)


def facts(error: BaseMLXError) -> tuple[object, ...]:
    return (
        *(type(error), error.status, error.type, error.code, error.param, error.message, error.retry_after_s),
        *(getattr(error, "keyword", None), getattr(error, "pointer", None)),
    )


def over_http(sent: BaseMLXError) -> BaseMLXError:
    """As the server sends it, and a client reads it."""
    start, body = error_messages(sent)
    retry_after = dict(start["headers"]).get(b"retry-after")
    return error_of(start["status"], body["body"], None if retry_after is None else retry_after.decode())


@pytest.mark.parametrize("kind", list(tree()), ids=lambda kind: kind.__name__)
def test_every_error_of_the_engine_survives_the_way_over_http(kind: type[BaseMLXError]) -> None:
    for fields in ({"retry_after_s": 7}, {}):
        sent = kind("What is wrong.", param="messages", **fields)
        assert facts(over_http(sent)) == facts(sent)
    in_a_stream = error_of_event(sent.envelope()["error"])  # an event has no headers
    assert facts(in_a_stream) == facts(sent)


@pytest.mark.parametrize(
    "where",
    [
        {"keyword": "uniqueItems", "pointer": "/properties/a~1b/uniqueItems"},
        {"keyword": "not", "pointer": ""},
        {},
    ],
)
def test_where_a_schema_is_at_fault_survives_the_way_over_http(where: dict[str, str]) -> None:
    sent = UnsupportedSchema("No.", param="response_format", **where)
    assert facts(over_http(sent)) == facts(error_of_event(sent.envelope()["error"])) == facts(sent)
    assert sent.envelope()["error"].keys() == {"message", "type", "param", "code", *where}
    assert facts(error_of_event(sent.envelope()["error"] | {"keyword": 5, "pointer": [1]}))[-2:] == (
        None,
        None,
    )


def test_a_time_to_try_again_is_told_where_waiting_helps() -> None:
    """The same in this process as over HTTP: what the errors themselves say."""
    times = {kind: kind("No.").retry_after_s for kind in tree()}
    assert {kind.__name__: time for kind, time in times.items() if time is not None} == {
        "QueueFull": 1,
        "EngineUnavailable": 5,
        "ShuttingDown": 5,
        "OutOfMemory": 5,
    }
    assert ServerUnreachable("Nobody.").retry_after_s is None


def test_an_error_keeps_a_code_of_its_own() -> None:
    sent = EngineUnavailable("Still loading.", code="model_loading", retry_after_s=10)
    assert facts(error_of(503, json.dumps(sent.envelope()).encode(), "10")) == facts(sent)


def test_a_refused_schema_is_told_as_such_with_a_code_and_a_time() -> None:
    error = UnsupportedSchema("No.", keyword="not", pointer="/not", code="other", retry_after_s=1)
    assert (error.keyword, error.pointer, error.code, error.retry_after_s) == ("not", "/not", "other", 1)


@pytest.mark.parametrize(
    ("status", "kind", "type_"),
    [
        (400, InvalidRequest, "invalid_request_error"),
        (404, ServerError, "invalid_request_error"),  # a page, not a model: no engine said so
        (405, ServerError, "invalid_request_error"),
        (408, ServerError, "invalid_request_error"),
        (409, ModelInUse, "invalid_request_error"),
        (418, ServerError, "invalid_request_error"),
        (422, InvalidRequest, "invalid_request_error"),
        (429, QueueFull, "rate_limit_error"),
        (499, RequestAborted, "aborted"),
        (500, ServerError, "server_error"),
        (502, ServerError, "server_error"),
        (503, EngineUnavailable, "server_error"),
        (504, DeadlineExceeded, "timeout_error"),
    ],
)
@pytest.mark.parametrize("body", [b"<html>no</html>", b"", b'{"error": {"message": "No.", "type": null}}'])
def test_a_status_alone_tells_the_class(
    status: int, kind: type[BaseMLXError], type_: str, body: bytes
) -> None:
    error = error_of(status, body)
    assert type(error) is kind
    assert error.type == type_
    assert error.status == (400 if status == 422 else status)
    assert error.message


def test_an_error_that_is_a_text_is_told() -> None:
    for error in (error_of_event("The GPU is on fire."), error_of(500, b'{"error": "The GPU is on fire."}')):
        assert type(error) is ServerError
        assert error.message.endswith(": The GPU is on fire.")
    assert len(error_of_event("x" * 10**6).message) < 400
    for empty in ("", 5, None, []):
        assert error_of_event(empty).message == "The server ended the stream with an error."
