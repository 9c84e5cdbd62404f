"""Gemma 4 and FunctionGemma: call:NAME{key:value,…}, keys bare and sorted, strings between a marker of their own."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

from basemlx.engine.chat.formats.arguments import Parameter, followed, parameters, prescribed, refusal
from basemlx.engine.chat.formats.base import CallGrammar, CallParser, Format, json_text, new_call_id
from basemlx.engine.chat.formats.literals import ALL_TYPES, literal, types_of
from basemlx.engine.chat.formats.reader import Malformed, Steps
from basemlx.engine.chat.parser import NewId
from basemlx.engine.chat.tools import Call, Tool
from basemlx.engine.errors import UnsupportedSchema
from basemlx.engine.grammar.limits import escaped, too_large
from basemlx.engine.grammar.structure import (
    Json,
    Node,
    Regex,
    Repeat,
    Separated,
    Until,
    either,
    optional,
    seq,
)
from basemlx.engine.grammar.wellformed import ASSERTIONS

_NAME = re.compile(r"[^{}\s:<]*")
_KEY = re.compile(r"[^:,{}<\s]*")
_WRITTEN = re.compile(r"[^:,{}\[\]<>\"'\s]+")
_ANY_KEY = Regex("[A-Za-z_][A-Za-z0-9_]{0,63}")
_SAYABLE = frozenset({
    "additionalProperties", "anyOf", "exclusiveMaximum", "exclusiveMinimum", "items", "maxItems", "maximum", "minItems",
    "minimum", "multipleOf", "properties", "required", "type",
})  # fmt: skip
_MAX_DEPTH = 8
MAX_VALUES = 1_000
"""Places for a value in one function's arguments: references multiply them."""
MIN_VALUES_OF_PARAMETER = 64
MAX_VALUES_OF_TURN = 20_000
"""The same of all functions together."""
_NUMERIC = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")


class GemmaParser(CallParser):
    def __init__(self, form: "Gemma4", tools: Sequence[Tool], new_id: NewId, enforced: bool) -> None:
        self.triggers = (form.start,)  # type: ignore[misc]
        self._form = form
        super().__init__(tools, new_id, enforced)

    def _calls(self, trigger: str) -> Steps[None]:
        reader, quotes = self.reader, (self._form.quote,)
        yield from reader.spaces()
        yield from reader.expect("call:")
        name = yield from reader.run_of(_NAME)
        yield from reader.expect("{")
        if not name:
            raise Malformed
        self.start_call(name)
        writer = self.parameters(name)
        while True:
            yield from reader.spaces()
            if (yield from reader.literal("}")) is not None:
                break
            key = yield from reader.run_of(_KEY)
            if not key:
                pieces: list[str] = []
                yield from reader.expect(*quotes)
                yield from reader.until(quotes, pieces.append)
                key = "".join(pieces)
            yield from reader.spaces()
            yield from reader.expect(":")
            writer.begin(key)
            yield from literal(reader, self.arguments, quotes)
            yield from reader.spaces()
            if (yield from reader.expect(",", "}")) == "}":
                break
        writer.end()
        self.end_call(complete=True)
        yield from reader.until((self._form.end,), self.content)


class Gemma4(Format):
    name: ClassVar[str] = "gemma4"
    start, end, quote = "<|tool_call>", "<tool_call|>", '<|"|>'
    markers: ClassVar[tuple[str, ...]] = (start, end, quote)
    nulls = ("None", "null")

    def matches(self, template: str, vocabulary: Collection[str]) -> bool:
        return self.start in template and self.end in template

    def render(self, calls: Sequence[Call]) -> str:
        return "".join(
            f"{self.start}call:{call.name}{self._object(call.arguments)}{self.end}" for call in calls
        )

    def _object(self, value: Mapping[str, Any]) -> str:
        pairs = sorted(value.items(), key=lambda pair: pair[0].lower())
        return f"{{{','.join(f'{key}:{self.written(part)}' for key, part in pairs)}}}"

    def written(self, value: Any) -> str:
        if isinstance(value, str):
            return f"{self.quote}{value}{self.quote}"
        if isinstance(value, Mapping):
            return self._object(value)
        if isinstance(value, list | tuple):
            return f"[{','.join(map(self.written, value))}]"
        return self.nulls[0] if value is None else json_text(value)

    def grammar(self, tools: Sequence[Tool], *, parallel: bool) -> CallGrammar:
        left = MAX_VALUES_OF_TURN
        written: list[Node] = []
        for tool in tools:
            values = _Values(self, tool, left)
            written.append(seq(f"{tool.name}{{", self._arguments(tool, values), "}"))
            left = values.left
        calls = either(*written)
        call = seq("call:", calls, self.end)
        return CallGrammar(self.start, Repeat(call, 1, None if parallel else 1, separator=seq(self.start)))

    def _arguments(self, tool: Tool, values: "_Values") -> Node:
        declared = parameters(tool, _WRITTEN)
        if declared is None:
            return self.pairs(_ANY_KEY, self.anything(2))
        share = max(MAX_VALUES // max(len(declared), 1), MIN_VALUES_OF_PARAMETER)
        parts = (
            (seq(f"{each.name}:", values.of_parameter(each, share)), each.required)
            for each in sorted(declared, key=lambda each: each.name.lower())
        )
        return Separated(tuple(parts), ",")

    def string(self) -> Node:
        return seq(self.quote, Until(self.quote))

    def pairs(self, key: Node, value: Node) -> Node:
        return optional(Repeat(seq(key, ":", value), 1, None, separator=seq(",")))

    def anything(self, depth: int) -> Node:
        """Any value, nested as deep as it says."""
        scalars = [self.string(), *self.nulls, Json({"type": ["number", "boolean"]})]
        if depth == 0:
            return either(*scalars)
        inside = self.anything(depth - 1)
        listed = seq("[", optional(Repeat(inside, 1, None, separator=seq(","))), "]")
        return either(*scalars, listed, seq("{", self.pairs(_ANY_KEY, inside), "}"))

    def parser(
        self, tools: Sequence[Tool] = (), new_id: NewId = new_call_id, *, enforced: bool = False
    ) -> GemmaParser:
        return GemmaParser(self, tools, new_id, enforced)


class _Values:
    """The grammar of one function's values, by their schemas. What cannot be said in this format is refused where the
    function is strict, else any value."""

    def __init__(self, form: Gemma4, tool: Tool, left: int) -> None:
        self._form = form
        self._tool = tool
        self.left = left
        self._share_left = 0

    def of_parameter(self, parameter: Parameter, share: int) -> Node:
        """`share`: how many places the parameter may have. Raises UnsupportedSchema, too, if the turn has none left."""
        self._share_left = share
        try:
            return self._of(parameter.schema, parameter.pointer)
        except UnsupportedSchema:
            if self._tool.strict or self._share_left >= 0:
                raise
            return self._form.anything(2)
        finally:
            self.left -= share - max(self._share_left, 0)
            if self.left < 0:
                raise too_large("and those of the tools before it have together too many places for values")

    def _of(self, schema: Any, pointer: str, depth: int = 0) -> Node:
        strict = self._tool.strict
        schema, pointer = followed(schema, pointer, self._tool)
        self._share_left -= 1
        if self._share_left < 0 or (depth > _MAX_DEPTH and strict):
            raise UnsupportedSchema(
                f"The schema at {pointer} has too many places for values, or is nested too deep, for the way this "
                "model writes tool calls. Make it smaller, or set strict to false.",
                keyword="$ref",
                pointer=pointer,
            )
        if depth > _MAX_DEPTH:
            return self._form.anything(1)
        if not isinstance(schema, Mapping):
            if strict and schema is False:
                raise refusal(pointer.rpartition("/")[2], pointer)
            return self._form.anything(1)
        values = prescribed(schema, self._tool.schema, pointer, strict=strict)
        if values:
            values = [value for value in values if self._form.quote not in json_text(value)]
        if values:
            return either(*map(self._form.written, values))
        if strict:
            self._check_sayable(schema, pointer)
        if options := schema.get("anyOf") or schema.get("oneOf"):
            keyword = "anyOf" if schema.get("anyOf") else "oneOf"
            nodes = (
                self._of(part, f"{pointer}/{keyword}/{at}", depth + 1) for at, part in enumerate(options)
            )
            return either(*nodes)
        types = types_of(schema, self._tool.schema)
        if len(types) == len(ALL_TYPES) and not set(schema) & ASSERTIONS:
            return self._form.anything(1)
        return either(*(self._typed(kind, schema, pointer, depth) for kind in sorted(types)))

    def _check_sayable(self, schema: Mapping[str, Any], pointer: str) -> None:
        beside_any_of = {"anyOf"} if "anyOf" in schema else _SAYABLE
        for keyword, value in schema.items():
            if keyword in ASSERTIONS and (
                keyword not in beside_any_of or (keyword == "items" and isinstance(value, list))
            ):
                raise refusal(keyword, f"{pointer}/{escaped(keyword)}")

    def _typed(self, kind: str, schema: Mapping[str, Any], pointer: str, depth: int) -> Node:
        form, strict = self._form, self._tool.strict
        if kind == "string":
            return form.string()
        if kind == "null":
            return either(*form.nulls)
        if kind == "boolean":
            return either("true", "false")
        if kind in ("integer", "number"):
            bounds = {key: schema[key] for key in _NUMERIC if key in schema}
            return Json({"type": kind, **bounds}, strict, pointer)
        if kind == "array":
            return self._array(schema, pointer, depth)
        return self._object(schema, pointer, depth)

    def _array(self, schema: Mapping[str, Any], pointer: str, depth: int) -> Node:
        low, high = int(schema.get("minItems", 0)), schema.get("maxItems")
        high = None if high is None else int(high)
        if high is not None and high < low:
            raise UnsupportedSchema(
                f"No list satisfies the schema at {pointer}.",
                keyword="maxItems",
                pointer=f"{pointer}/maxItems",
            )
        if high == 0:
            return seq("[]")
        item = self._of(schema.get("items", True), f"{pointer}/items", depth + 1)
        listed: Node = Repeat(item, max(low, 1), high, separator=seq(","))
        return seq("[", listed if low else optional(listed), "]")

    def _object(self, schema: Mapping[str, Any], pointer: str, depth: int) -> Node:
        declared = schema.get("properties") or {}
        properties = {
            key: part for key, part in declared.items() if _WRITTEN.fullmatch(key) and part is not False
        }
        required, additional = schema.get("required") or (), schema.get("additionalProperties", True)
        if self._tool.strict and not set(required) <= set(properties):
            raise refusal("required", f"{pointer}/required")
        if not properties and additional is not False:
            if self._tool.strict and additional not in (True, {}):
                raise refusal("additionalProperties", f"{pointer}/additionalProperties")
            return seq("{", self._form.pairs(_ANY_KEY, self._form.anything(1)), "}")
        pairs: list[tuple[Node, bool]] = []
        for key in sorted(properties, key=str.lower):
            value = self._of(properties[key], f"{pointer}/properties/{escaped(key)}", depth + 1)
            pairs.append((seq(f"{key}:", value), key in required))
        return seq("{", Separated(tuple(pairs), ","), "}")


class FunctionGemma(Gemma4):
    name = "function-gemma"
    start, end, quote = "<start_function_call>", "<end_function_call>", "<escape>"
    markers = (start, end, quote)

    def matches(self, template: str, vocabulary: Collection[str]) -> bool:
        return self.start in template
