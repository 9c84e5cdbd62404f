import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basemlx.engine.errors import InvalidRequest
from basemlx.engine.openai.json_body import parse_json


def test_an_object_is_read_as_it_is() -> None:
    assert parse_json(b'{"a": [1, 2.5, null, "\\u00e9"], "a2": {}}') == {"a": [1, 2.5, None, "é"], "a2": {}}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not valid JSON"),
        (b'{"a": ', "line 1"),
        (b"[1]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": ' + b"9" * 5001 + b"}", "too many digits"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested deeper"),
        (b'{"a": ' + b'{"b":' * 64 + b"1" + b"}" * 65, "nested deeper"),
    ],
)
def test_what_json_is_not_is_refused_in_words(body: bytes, words: str) -> None:
    started_s = time.perf_counter()
    with pytest.raises(InvalidRequest, match=words):
        parse_json(body)
    assert time.perf_counter() - started_s < 0.2


def test_64_levels_pass() -> None:
    parse_json(b'{"a": ' + b"[" * 63 + b"]" * 63 + b"}")


@given(st.binary(max_size=60))
def test_any_bytes_give_an_object_or_a_refusal(body: bytes) -> None:
    with suppress(InvalidRequest):
        assert isinstance(parse_json(body), dict)
