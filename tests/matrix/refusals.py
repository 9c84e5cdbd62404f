"""What is asked for and cannot be had: refused before anything is generated, by the field's name."""

from typing import Any

from tests.matrix.asks import FUNCTIONS

_TOOLS: dict[str, Any] = {"tools": [FUNCTIONS["ping"], FUNCTIONS["get_weather"]]}
_UNIQUE = {
    "type": "object",
    "properties": {"labels": {"type": "array", "items": {"type": "string"}, "uniqueItems": True}},
}


def _document(schema: Any) -> dict[str, Any]:
    described = {"name": "answer", "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": described}}


def _strict_function(parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": parameters, "strict": True}}


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "strict document that no grammar enforces": (
        _document(_UNIQUE),
        "response_format.json_schema.schema",
    ),
    "document that nothing satisfies": (_document(False), "response_format.json_schema.schema"),
    "strict function that no grammar enforces": (
        {"tools": [FUNCTIONS["ping"], _strict_function(_UNIQUE)]},
        "tools[1].function.parameters",
    ),
    "the same, as the one that has to be called": (
        {
            "tools": [_strict_function(_UNIQUE)],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
        },
        "tools[0].function.parameters",
    ),
    "named function that is not there": (
        _TOOLS | {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        "tool_choice",
    ),
    "allowed function that is not there": (
        _TOOLS | {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"name": "f"}]}},
        "tool_choice",
    ),
    "no function allowed": (
        _TOOLS | {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}},
        "tool_choice",
    ),
    "unknown word": (_TOOLS | {"tool_choice": "sometimes"}, "tool_choice"),
    "required without tools": ({"tool_choice": "required"}, "tool_choice"),
    "custom tool": ({"tools": [{"type": "custom", "name": "f"}]}, "tools[0].type"),
    "regex beside tools": (_TOOLS | {"guided_regex": "[a-z]+"}, "guided_regex"),
    "regex beside a document": (
        {"guided_regex": "[a-z]+", "response_format": {"type": "json_object"}},
        "guided_regex",
    ),
}
