"""Gemma 4 and FunctionGemma: call:NAME{key:value,…}, keys bare and sorted, strings between a marker of their own."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

from basemlx.engine.chat.formats.arguments import Parameter, parameters, refusal, separated
from basemlx.engine.chat.formats.base import CallGrammar, CallParser, Format, json_text, new_call_id
from basemlx.engine.chat.formats.literals import literal, resolved, types_of
from basemlx.engine.chat.formats.reader import Malformed, Steps
from basemlx.engine.chat.parser import NewId
from basemlx.engine.chat.tools import Call, Tool
from basemlx.engine.grammar.structure import Json, Node, Regex, Repeat, Until, either, optional, seq

_NAME = re.compile(r"[^{}\s:<]*")
_KEY = re.compile(r"[^:,{}<\s]*")
_WRITTEN = re.compile(r"[^:,{}\[\]<>\"'\s]+")
_ANY_KEY = Regex("[A-Za-z_][A-Za-z0-9_]{0,63}")
_FORM = (
    "format", "maxLength", "minLength", "pattern", "uniqueItems", "contains", "allOf", "not", "if", "patternProperties",
    "propertyNames", "minProperties", "maxProperties", "dependentRequired", "dependentSchemas", "prefixItems",
)  # fmt: skip
_MAX_DEPTH = 8
_BESIDE_ANY_OF = frozenset(
    {"anyOf", "title", "description", "default", "examples", "$comment", "$defs", "definitions"}
)
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
        return f"{{{','.join(f'{key}:{self._written(part)}' for key, part in pairs)}}}"

    def _written(self, value: Any) -> str:
        if isinstance(value, str):
            return f"{self.quote}{value}{self.quote}"
        if isinstance(value, Mapping):
            return self._object(value)
        if isinstance(value, list | tuple):
            return f"[{','.join(map(self._written, value))}]"
        return self.nulls[0] if value is None else json_text(value)

    def grammar(self, tools: Sequence[Tool], *, parallel: bool) -> CallGrammar:
        calls = either(*(seq(f"{tool.name}{{", self._arguments(tool), "}") for tool in tools))
        call = seq("call:", calls, self.end)
        return CallGrammar(self.start, Repeat(call, 1, None if parallel else 1, separator=seq(self.start)))

    def _arguments(self, tool: Tool) -> Node:
        declared = parameters(tool, _WRITTEN)
        if declared is None:
            return self._pairs(_ANY_KEY, self._any(2))
        root = tool.schema
        return separated(
            [
                (seq(f"{each.name}:", self._value(each.schema, each, root, 0)), each.required)
                for each in sorted(declared, key=lambda each: each.name.lower())
            ],
            ",",
        )

    def _string(self) -> Node:
        return seq(self.quote, Until(self.quote))

    def _pairs(self, key: Node, value: Node) -> Node:
        return optional(Repeat(seq(key, ":", value), 1, None, separator=seq(",")))

    def _any(self, depth: int) -> Node:
        """Any value, nested as deep as it says."""
        scalars = [self._string(), *self.nulls, Json({"type": ["number", "boolean"]})]
        if depth == 0:
            return either(*scalars)
        inside = self._any(depth - 1)
        listed = seq("[", optional(Repeat(inside, 1, None, separator=seq(","))), "]")
        return either(*scalars, listed, seq("{", self._pairs(_ANY_KEY, inside), "}"))

    def _value(self, schema: Any, within: Parameter, root: Mapping[str, Any], depth: int) -> Node:
        """A value by its schema. What cannot be said this way is refused where it is strict, else any value."""
        if isinstance(schema, Mapping) and isinstance(reference := schema.get("$ref"), str):
            schema = resolved(reference, root)
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
            if within.strict and schema is not True:
                raise refusal("$ref", within.pointer)
            return self._any(1)
        if within.strict:
            for keyword in _FORM:
                if keyword in schema:
                    raise refusal(keyword, within.pointer)
        for keyword in ("anyOf", "oneOf"):
            if within.strict and keyword in schema and (keyword == "oneOf" or set(schema) - _BESIDE_ANY_OF):
                raise refusal(keyword, within.pointer)
            if isinstance(options := schema.get(keyword), list | tuple) and options:
                return either(*(self._value(option, within, root, depth + 1) for option in options))
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        if isinstance(values, list | tuple) and values:
            return either(*map(self._written, values))
        types = types_of(schema, root)
        if len(types) == 7:
            return self._any(1)
        return either(*(self._typed(kind, schema, within, root, depth) for kind in sorted(types)))

    def _typed(
        self, kind: str, schema: Mapping[str, Any], within: Parameter, root: Mapping[str, Any], depth: int
    ) -> Node:
        if kind == "string":
            return self._string()
        if kind == "null":
            return either(*self.nulls)
        if kind == "boolean":
            return either("true", "false")
        if kind in ("integer", "number"):
            bounds = {key: schema[key] for key in _NUMERIC if key in schema}
            return Json({"type": kind, **bounds}, within.strict, within.pointer)
        if kind == "array":
            item = self._value(schema.get("items", True), within, root, depth + 1)
            low, high = schema.get("minItems", 0), schema.get("maxItems")
            if high == 0:
                return seq("[]")
            listed: Node = Repeat(item, max(low, 1), high, separator=seq(","))
            return seq("[", listed if low else optional(listed), "]")
        properties, required = schema.get("properties") or {}, schema.get("required") or ()
        if within.strict and (
            set(required) - set(properties) or isinstance(schema.get("additionalProperties"), dict)
        ):
            raise refusal(
                "required" if set(required) - set(properties) else "additionalProperties", within.pointer
            )
        properties = {key: part for key, part in properties.items() if _WRITTEN.fullmatch(key)}
        if not properties and schema.get("additionalProperties") is not False:
            return seq("{", self._pairs(_ANY_KEY, self._any(1)), "}")
        pairs: list[tuple[Node, bool]] = [
            (seq(f"{key}:", self._value(properties[key], within, root, depth + 1)), key in required)
            for key in sorted(properties, key=str.lower)
        ]
        return seq("{", separated(pairs, ","), "}")

    def parser(
        self, tools: Sequence[Tool] = (), new_id: NewId = new_call_id, *, enforced: bool = False
    ) -> GemmaParser:
        return GemmaParser(self, tools, new_id, enforced)


class FunctionGemma(Gemma4):
    name = "function-gemma"
    start, end, quote = "<start_function_call>", "<end_function_call>", "<escape>"
    markers = (start, end, quote)

    def matches(self, template: str, vocabulary: Collection[str]) -> bool:
        return self.start in template
