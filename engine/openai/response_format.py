"""`response_format` and vLLM's ways of constraining an answer, read into one description of what the answer must be.

OpenAI: `response_format` {"type": "text" | "json_object" | "json_schema"}. vLLM: `structured_outputs` with one of json,
regex, choice, grammar, json_object, and the older `guided_*` fields. At most one of all these. What a schema means, and
whether it can be enforced, is the grammar's business.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from basemlx.engine.errors import InvalidRequest
from basemlx.engine.openai.fields import Fields, checked_text, wrong_type

MAX_CHOICES = 1000
MAX_PATTERN_CHARACTERS = 4096
MAX_GRAMMAR_CHARACTERS = 65_536

Kind = Literal["json_object", "json_schema", "regex", "choice", "grammar"]
_KINDS: dict[str, Kind] = {
    "json": "json_schema",
    "regex": "regex",
    "choice": "choice",
    "grammar": "grammar",
    "json_object": "json_object",
}


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """What the whole answer must be. `value`: the schema, the pattern, the texts to choose from or the grammar.
    `pointer` is its place in the request. `strict`: enforced in full, or refused."""

    kind: Kind
    value: Any = None
    strict: bool = False
    pointer: str = ""


def read_answer_format(fields: Fields) -> AnswerFormat | None:
    """None for free text. Raises InvalidRequest, whose `param` is the path of the field at fault."""
    found = [
        answer
        for answer in (_read_response_format(fields), _read_structured_outputs(fields), *_read_guided(fields))
        if answer is not None
    ]
    if len(found) > 1:
        raise InvalidRequest(
            f"{found[0].pointer} and {found[1].pointer} both constrain the answer; give one of them.",
            param=found[1].pointer,
        )
    return found[0] if found else None


def _read_response_format(fields: Fields) -> AnswerFormat | None:
    given = fields.object("response_format")
    if given is None:
        return None
    kind = given.string("type", max_characters=32, choices=("text", "json_object", "json_schema"))
    if kind is None:
        raise InvalidRequest("response_format.type is required.", param="response_format.type")
    if kind == "text":
        return None
    if kind == "json_object":
        return AnswerFormat("json_object", pointer="response_format")
    described = given.object("json_schema")
    path = "response_format.json_schema"
    if described is None:
        raise InvalidRequest(f"{path} is required.", param=path)
    described.string("name", max_characters=256)
    described.string("description", max_characters=65_536)
    schema = described.get("schema")
    if schema is None:
        raise InvalidRequest(f"{path}.schema is required.", param=f"{path}.schema")
    return _schema(schema, described.boolean("strict"), f"{path}.schema")


def _read_structured_outputs(fields: Fields) -> AnswerFormat | None:
    given = fields.object("structured_outputs")
    if given is None:
        return None
    chosen = [name for name in _KINDS if given.get(name) not in (None, False)]
    if len(chosen) != 1:
        raise InvalidRequest(
            f"structured_outputs must have exactly one of {', '.join(_KINDS)}.", param="structured_outputs"
        )
    given.get(
        "disable_fallback"
    )  # there is none; what else vLLM's backends are advised of is named as ignored
    return _read_kind(_KINDS[chosen[0]], given.get(chosen[0]), f"structured_outputs.{chosen[0]}")


def _read_guided(fields: Fields) -> list[AnswerFormat | None]:
    return [
        _read_kind(kind, fields.get(f"guided_{name}"), f"guided_{name}")
        for name, kind in _KINDS.items()
        if fields.get(f"guided_{name}") not in (None, False)
    ]


def _read_kind(kind: Kind, value: Any, path: str) -> AnswerFormat:
    if kind == "json_object":
        return AnswerFormat(kind, pointer=path)
    if kind == "json_schema":
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise InvalidRequest(f"{path} is not valid JSON.", param=path) from None
        return _schema(value, True, path)  # these fields exist to be enforced
    if kind == "choice":
        if not isinstance(value, list | tuple):
            raise wrong_type(path, "a list of texts", value)
        if not value:
            raise InvalidRequest(f"{path} must have at least one text.", param=path)
        if len(value) > MAX_CHOICES:
            raise InvalidRequest(f"{path} must have at most {MAX_CHOICES} texts.", param=path)
        texts = tuple(checked_text(text, f"{path}[{index}]") for index, text in enumerate(value))
        if any(not text for text in texts):
            raise InvalidRequest(f"The texts of {path} must not be empty.", param=path)
        return AnswerFormat(kind, texts, True, path)
    text = checked_text(value, path)
    limit = MAX_PATTERN_CHARACTERS if kind == "regex" else MAX_GRAMMAR_CHARACTERS
    if not 1 <= len(text) <= limit:
        raise InvalidRequest(f"{path} must have 1 to {limit} characters.", param=path)
    return AnswerFormat(kind, text, True, path)


def _schema(schema: Any, strict: bool, path: str) -> AnswerFormat:
    if not isinstance(schema, Mapping | bool):
        raise wrong_type(path, "a JSON schema", schema)
    return AnswerFormat("json_schema", schema, strict, path)
