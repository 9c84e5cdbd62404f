"""The body of an embeddings request, validated. Knows no model: limits of one are checked when it is known."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from basemlx.engine.errors import InvalidRequest, UnsupportedParameter
from basemlx.engine.openai.fields import Fields, checked_integer, checked_text, wrong_type
from basemlx.engine.openai.parameters import MAX_MODEL_CHARACTERS, MAX_TIMEOUT_S, MAX_TOKEN_ID

MAX_INPUTS = 2048
MAX_DIMENSIONS = 1_000_000
MAX_PROMPT_NAME_CHARACTERS = 64

MEANINGLESS = ("user", "metadata", "store", "service_tier", "safety_identifier")
REFUSED = ("truncate_prompt_tokens", "chat_template", "messages")

EmbeddingInput = str | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EmbeddingsRequest:
    """`inputs` is what a single input was wrapped into; `single` tells that it was one, for the paths of errors."""

    model: str
    inputs: tuple[EmbeddingInput, ...]
    single: bool
    base64: bool
    dimensions: int | None
    prompt_name: str | None
    timeout_s: float | None
    ignored: tuple[str, ...]

    def within(self, timeout_s: float) -> Self:
        """The same with another deadline."""
        return replace(self, timeout_s=timeout_s)


def embeddings_request(body: Mapping[str, Any]) -> EmbeddingsRequest:
    """Raises InvalidRequest, whose `param` is the path of the field at fault."""
    fields = Fields(body)
    model = fields.string("model", max_characters=MAX_MODEL_CHARACTERS)
    if not model:
        raise InvalidRequest("model is required: the name of a model as in /v1/models.", param="model")
    for name in MEANINGLESS:
        fields.get(name)
    for name in REFUSED:
        if fields.get(name) is not None:
            raise UnsupportedParameter(f"{name} is not supported by basemlx for embeddings.", param=name)
    inputs, single = _read_input(fields)
    encoding = fields.string("encoding_format", max_characters=16, choices=("float", "base64"))
    dimensions = fields.integer("dimensions", 1, MAX_DIMENSIONS)
    prompt_name = fields.string("prompt_name", max_characters=MAX_PROMPT_NAME_CHARACTERS)
    timeout_s = fields.number("timeout", 0.0, MAX_TIMEOUT_S)
    if timeout_s == 0:
        raise InvalidRequest("timeout must be a positive number of seconds.", param="timeout")
    return EmbeddingsRequest(
        model=model,
        inputs=inputs,
        single=single,
        base64=encoding == "base64",
        dimensions=dimensions,
        prompt_name=prompt_name,
        timeout_s=timeout_s,
        ignored=fields.ignored(),
    )


def _read_input(fields: Fields) -> tuple[tuple[EmbeddingInput, ...], bool]:
    value = fields.get("input")
    if value is None:
        raise InvalidRequest("input is required.", param="input")
    if isinstance(value, str):
        return (_checked(value, "input"),), True
    if not isinstance(value, list | tuple):
        raise wrong_type("input", "a string, a list of strings, or token ids", value)
    if not value:
        raise _empty("input")
    if not isinstance(value[0], str | list | tuple):
        return (_checked(value, "input"),), True
    if len(value) > MAX_INPUTS:
        raise InvalidRequest(
            f"input must hold at most {MAX_INPUTS} inputs, not {len(value)}. Send it in parts.", param="input"
        )
    return tuple(_checked(item, f"input[{index}]") for index, item in enumerate(value)), False


def _checked(value: Any, path: str) -> EmbeddingInput:
    if isinstance(value, str):
        if not value:
            raise _empty(path)
        return checked_text(value, path)
    if not isinstance(value, list | tuple):
        raise wrong_type(path, "a string or token ids", value)
    if not value:
        raise _empty(path)
    if all(type(token_id) is int and 0 <= token_id <= MAX_TOKEN_ID for token_id in value):
        return tuple(value)
    return tuple(
        checked_integer(token_id, f"{path}[{index}]", 0, MAX_TOKEN_ID) for index, token_id in enumerate(value)
    )


def _empty(path: str) -> InvalidRequest:
    return InvalidRequest(f"{path} must not be empty.", param=path)
