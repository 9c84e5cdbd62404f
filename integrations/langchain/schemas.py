"""LangChain's many ways of giving a schema, as a tool or as OpenAI's response_format. Knows no model."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool

Schema: TypeAlias = dict[str, Any] | type
Tool: TypeAlias = dict[str, Any] | type | Callable[..., Any] | BaseTool

DEFAULT_NAME = "answer"
MAX_NAME_CHARACTERS = 64
_DATA = ("default", "const", "enum", "examples")  # values, not schemas
_SCHEMAS_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")


def tool_of(schema: Schema, strict: bool | None) -> dict[str, Any]:
    """A tool whose arguments are what `schema` says."""
    if not isinstance(schema, dict) or _is_tool(schema):
        tool = wire_tool(schema, strict)
        if not tool.get("function"):
            raise ValueError("The schema is of OpenAI's form for tools, but has no function.")
        return tool
    name, json_schema, told = _named(schema)
    function: dict[str, Any] = {"name": name, "parameters": json_schema}
    if "description" in schema:
        function["description"] = schema["description"]
    made: dict[str, Any] = convert_to_openai_tool(function, strict=told if strict is None else strict)
    return made


def wire_tool(tool: Tool, strict: bool | None = None) -> dict[str, Any]:
    """OpenAI's form. A class has the fields that it names, and LangChain's conversion loses what refers to itself."""
    wire: dict[str, Any] = convert_to_openai_tool(tool, strict=strict)
    if isinstance(tool, type):
        own: Any = getattr(tool, "model_json_schema", None)
        whole = wire["function"].get("parameters", {}) if own is None else own()
        parameters = {name: value for name, value in whole.items() if name != "description"}
        wire["function"]["parameters"] = _closed(parameters, has_titles=False)
    return wire


def response_format(schema: Schema, strict: bool | None) -> dict[str, Any]:
    """Strict, unless something says otherwise."""
    told = None
    if isinstance(schema, dict):
        if _is_tool(schema):
            converted = tool_of(schema, None)["function"]
            name, json_schema, told = (
                converted["name"],
                converted.get("parameters", {}),
                converted.get("strict"),
            )
        else:
            name, json_schema, told = _named(schema)
    elif hasattr(schema, "model_json_schema"):  # LangChain's conversion loses what refers to itself
        json_schema = _closed(schema.model_json_schema())
        name = json_schema.get("title", schema.__name__)
    else:
        json_schema = _closed(convert_to_json_schema(schema))
        name = json_schema["title"]
    wire = {
        "name": _valid(name),
        "schema": json_schema,
        "strict": strict if strict is not None else told is not False,
    }
    return {"type": "json_schema", "json_schema": wire}


def wire_fields(body: dict[str, Any]) -> dict[str, Any]:
    """With the tools, the choice and the response_format that LangChain has other forms for as OpenAI's."""
    made = dict(body)
    tools = body.get("tools")
    if isinstance(tools, list | tuple):
        made["tools"] = [tool if isinstance(tool, dict) else wire_tool(tool) for tool in tools]
        if "tool_choice" in body:
            made["tool_choice"] = wire_choice(body["tool_choice"], made["tools"])
    if isinstance(body.get("response_format"), type):
        made["response_format"] = response_format(body["response_format"], None)
    return made


def wire_choice(choice: str | dict[str, Any] | bool, tools: Sequence[Mapping[str, Any]]) -> Any:
    """What `tools` have no function of is left to the engine to refuse."""
    if choice is True or choice == "any":
        return "required"
    if isinstance(choice, str) and any((tool.get("function") or {}).get("name") == choice for tool in tools):
        return {"type": "function", "function": {"name": choice}}
    return choice


def _closed(schema: Any, has_titles: bool = True) -> Any:
    """The JSON schema of a Python class, which has the fields it has: where it says nothing of others there are none. A
    small model would make some up. What allows others (`extra="allow"`) says so. Titles are more words in a prompt."""
    if isinstance(schema, list):
        return [_closed(part, has_titles) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed: dict[str, Any] = {}
    for name, value in schema.items():
        if name in _SCHEMAS_BY_NAME and isinstance(value, dict):
            closed[name] = {key: _closed(part, has_titles) for key, part in value.items()}
        elif has_titles or name != "title":
            closed[name] = value if name in _DATA else _closed(value, has_titles)
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed


def _is_tool(schema: Mapping[str, Any]) -> bool:
    """As OpenAI, Anthropic or Bedrock have it."""
    return (
        schema.get("type") == "function"
        or "toolSpec" in schema
        or ("name" in schema and ("parameters" in schema or "input_schema" in schema))
        or ("name" in schema and schema.keys() <= {"name", "description", "strict"})
    )


def _named(schema: Mapping[str, Any]) -> tuple[str, dict[str, Any], bool | None]:
    """Name, JSON schema and `strict` of a response_format, of what is in one, or of a JSON schema."""
    if schema.get("type") == "json_schema" and isinstance(schema.get("json_schema"), Mapping):
        schema = schema["json_schema"]
    if isinstance(schema.get("schema"), Mapping) and "name" in schema:
        return _valid(schema["name"]), dict(schema["schema"]), schema.get("strict")
    return _valid(schema.get("title") or schema.get("name")), dict(schema), None


def _valid(name: Any) -> str:
    text = name if isinstance(name, str) and name else DEFAULT_NAME
    return re.sub(r"[^A-Za-z0-9_-]", "_", text)[:MAX_NAME_CHARACTERS]
