"""The bytes of a request to a JSON object, refusing what JSON is not and what only an attacker sends."""

import json
from collections.abc import Iterable
from typing import Any, NoReturn

from basemlx.engine.errors import InvalidRequest

MAX_DEPTH = 64
MAX_VALUES = 1_000_000
"""Commas and opening brackets, a bound of how many values there are: each costs memory, and time in which no other
thread runs. They are counted in texts as well; a text with so many is longer than any context."""


def parse_json(body: bytes) -> dict[str, Any]:
    """The object in `body`. Raises InvalidRequest for anything else: NaN and Infinity, numbers too long to read,
    nesting deeper than MAX_DEPTH, more than MAX_VALUES values, text that is not UTF-8, what is not an object."""
    if body.count(b",") + body.count(b"[") + body.count(b"{") > MAX_VALUES:
        raise InvalidRequest(f"The request body has more than {MAX_VALUES:,} values.")
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise InvalidRequest("The request body is not valid UTF-8.") from None
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as error:
        raise InvalidRequest(
            f"The request body is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        ) from None
    except ValueError:  # an integer of more than 4,300 digits
        raise InvalidRequest("The request body has a number with too many digits.") from None
    if not isinstance(value, dict):
        raise InvalidRequest("The request body must be a JSON object.")
    _check_depth(value)
    return value


def _check_depth(value: dict[str, Any]) -> None:
    """Level by level, so that no depth can exhaust the stack."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [item for container in level for item in _items(container) if type(item) in (dict, list)]
        if not level:
            return
    raise _too_deep()


def _items(container: Any) -> Iterable[Any]:
    return container.values() if type(container) is dict else container


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"The request body is nested deeper than {MAX_DEPTH} levels.")


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"The request body has {name}, which is not a JSON number.")
