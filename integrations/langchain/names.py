"""What the classes here may be given: their own fields, those of a request that the engine knows, and other clients'
names for them. Whatever else is refused, as the engine skips fields that it does not know.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from basemlx.engine.errors import InvalidRequest
from basemlx.engine.openai.chat_request import chat_request

_OTHER_NAMES = {
    "max_completion_tokens": "max_tokens",
    "stop_sequences": "stop",
    "model_name": "model",
    "request_timeout": "timeout",
}
_OF_LANGCHAIN = ("ls_structured_output_format",)  # for its traces; usually it takes it out itself
_SET_HERE = ("messages", "stream", "stream_options")
_PROBE: dict[str, Any] = {"model": "x", "messages": [{"role": "user", "content": "x"}]}


@cache
def is_field_of_a_chat(name: str) -> bool:
    """Whether the engine reads a field of that name, which it is asked by a value that it would refuse."""
    try:
        request = chat_request({name: object()} | _PROBE)
    except InvalidRequest:
        return True
    return name.isidentifier() and name not in request.options.ignored


def sorted_in(given: dict[str, Any], own: Iterable[str]) -> dict[str, Any]:
    """The arguments of a class whose fields are `own`: other clients' names become its own, further fields of a request
    go to `model_kwargs`. Raises ValueError for names that nobody knows."""
    fields, further = {}, dict(given.get("model_kwargs") or {})
    own = {*own}
    for name, value in given.items():
        field = name if name in own else _OTHER_NAMES.get(name, name)
        if field != name and given.get(field) is not None:
            raise ValueError(f"{name} and {field} are one and the same; give one of them.")
        if field in own:
            fields[field] = value
        elif field in _SET_HERE or not is_field_of_a_chat(field):
            raise ValueError(_unknown(name))
        elif field in further:
            raise ValueError(f"{name} is given twice, in model_kwargs as well.")
        else:
            further[field] = value
    return fields | ({"model_kwargs": further} if further else {})


def sorted_call(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of one request, as `bind` and `invoke` take them. InvalidRequest for unknown names."""
    fields = {}
    for name, value in given.items():
        if name in _OF_LANGCHAIN:
            continue
        field = _OTHER_NAMES.get(name, name)
        if field == "messages" or not is_field_of_a_chat(field):
            raise InvalidRequest(_unknown(name), param=name)
        if field != name and given.get(field) is not None:
            raise InvalidRequest(f"{name} and {field} are one and the same; give one of them.", param=name)
        fields[field] = value
    return fields


def _unknown(name: str) -> str:
    return (
        f"{name} is no argument that is known here. What only another server knows belongs into model_kwargs."
    )
