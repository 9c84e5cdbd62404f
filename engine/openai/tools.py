"""`tools`, `tool_choice` and `parallel_tool_calls` of a chat request, checked and reduced to what a turn may do.

Both object forms that clients send for a named function are read, and `allowed_tools` in either of its forms. The older
`functions` and `function_call` mean the same. Knows no wire format and no grammar; parameters are checked as schemas
where they are compiled.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from basemlx.engine.chat.tools import Tool
from basemlx.engine.chat.turn import ToolChoice
from basemlx.engine.errors import InvalidRequest, UnsupportedParameter
from basemlx.engine.openai.fields import Fields, wrong_type

MAX_TOOLS = 128
MAX_DESCRIPTION_CHARACTERS = 65_536
_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")


@dataclass(frozen=True, slots=True)
class ToolUse:
    """`offered` is what the prompt shows, as OpenAI's objects: nothing where no tool may be called. `parallel`: more
    than one call in a turn; a named function is called once. `path`: the request's field that they came in."""

    offered: tuple[Mapping[str, Any], ...] = ()
    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = field(default_factory=ToolChoice)
    parallel: bool = True
    path: str = "tools"


def read_tools(fields: Fields) -> ToolUse:
    """Raises InvalidRequest, whose `param` is the path of the field at fault."""
    tools_path, offered = _read_offered(fields)
    tools = tuple(tool for _, tool in offered)
    parallel = fields.boolean("parallel_tool_calls", True)
    path = "tool_choice" if fields.get("tool_choice") is not None else "function_call"
    choice = _read_choice(fields, path)
    known = {tool.name for tool in tools}
    for name in choice.names or ():
        if name not in known:
            raise InvalidRequest(f"{path} names {name!r}, which is not among the tools.", param=path)
    if choice.mode == "required" and not tools:
        raise InvalidRequest(f"{path} asks for a call, but there are no tools.", param=path)
    value = fields.get(path)
    is_named = (
        isinstance(value, Mapping) and choice.mode == "required" and value.get("type") != "allowed_tools"
    )
    shown = () if choice.mode == "none" else tuple(shown for shown, _ in offered)
    return ToolUse(shown, tools, choice, parallel and not is_named, tools_path)


def _read_offered(fields: Fields) -> tuple[str, list[tuple[Mapping[str, Any], Tool]]]:
    """The field's name, and each function as a prompt shows it and as a turn needs it."""
    tools, functions = fields.objects("tools", MAX_TOOLS), fields.objects("functions", MAX_TOOLS)
    if functions and tools:
        raise InvalidRequest("functions and tools exclude each other; give tools.", param="functions")
    path = "functions" if functions else "tools"
    offered: dict[str, tuple[Mapping[str, Any], Tool]] = {}
    for entry in functions or tools:
        function = entry if functions else _function_of(entry)
        tool = _read_function(function)
        if tool.name in offered:
            name_path = function.path_of("name")
            raise InvalidRequest(f"{name_path} {tool.name!r} is there twice.", param=name_path)
        offered[tool.name] = {"type": "function", "function": _shown(function)}, tool
    return path, list(offered.values())


def _function_of(tool: Fields) -> Fields:
    kind = tool.string("type", max_characters=64) or "function"
    if kind != "function":
        path = tool.path_of("type")
        raise UnsupportedParameter(
            f"{path} is {kind!r}; only tools of type 'function' can be called here.", param=path
        )
    # A function may stand beside its type, as the Responses API has it.
    return tool.object("function") or tool


def _read_function(fields: Fields) -> Tool:
    name = fields.string("name", max_characters=128)
    if not name or not _NAME.fullmatch(name):
        path = fields.path_of("name")
        raise InvalidRequest(
            f"{path} must be 1 to 128 characters of letters, digits, and . _ - : /", param=path
        )
    fields.string("description", max_characters=MAX_DESCRIPTION_CHARACTERS)
    parameters, path = fields.get("parameters"), fields.path_of("parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise wrong_type(path, "a JSON schema", parameters)
    return Tool(name, parameters or None, fields.boolean("strict"), path)


def _shown(function: Fields) -> dict[str, Any]:
    """What a template is given of a function: what models were trained to see."""
    shown = {name: function.get(name) for name in ("name", "description", "parameters")}
    return {name: value for name, value in shown.items() if value is not None}


def _read_choice(fields: Fields, path: str) -> ToolChoice:
    value = fields.get(path)
    if value is None:
        return ToolChoice()
    if isinstance(value, str):
        if value in ("auto", "none"):
            return ToolChoice("auto" if value == "auto" else "none")
        if value in ("required", "any"):  # the second is what others call it
            return ToolChoice("required")
        raise InvalidRequest(
            f"{path} must be 'auto', 'none' or 'required', or an object that names a function.", param=path
        )
    choice = fields.object(path)
    assert choice is not None
    kind = choice.string("type", max_characters=64)
    if kind == "allowed_tools":
        allowed = choice.object("allowed_tools") or choice
        wanted = allowed.string("mode", max_characters=16, choices=("auto", "required"))
        names = _names(allowed.objects("tools", MAX_TOOLS), path)
        if not names:
            raise InvalidRequest(f"{path} allows no tools; give 'none' if none may be called.", param=path)
        return ToolChoice("required" if wanted == "required" else "auto", names)
    if kind not in (None, "function", "tool"):
        raise UnsupportedParameter(f"{path}.type {kind!r} is not supported by basemlx.", param=f"{path}.type")
    return ToolChoice("required", _names([choice], path))


def _names(entries: Iterable[Fields], path: str) -> tuple[str, ...]:
    """Function names of objects that hold one beside their type, or in `function`."""
    names: dict[str, None] = {}
    for entry in entries:
        entry.get("type")
        name = (entry.object("function") or entry).string("name", max_characters=128)
        if not name:
            raise InvalidRequest(f"{path} must name a function.", param=path)
        names[name] = None
    return tuple(names)
