"""Schemas through the served path: what strict accepts, refuses, and cannot enforce."""

import json
from typing import Any

import pytest

from basemlx.engine.errors import UnsupportedSchema
from basemlx.engine.grammar import GrammarCompiler


def text(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


CASES: list[tuple[str, Any, list[Any], list[Any]]] = [
    ("type is inferred from assertions", {"minLength": 2}, ["ab", 5, None, []], ["a"]),
    ("siblings of $ref hold", {"$ref": "#/$defs/a", "maxItems": 1, "$defs": {"a": {"type": "array"}}},
     [[], [1]], [[1, 2], "x"]),
    ("allOf is merged", {"allOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]},
                                   {"properties": {"b": {"type": "string"}}, "required": ["b"]}]},
     [{"a": 1, "b": "x"}, {"b": "x", "a": 1}, 3], [{"a": 1}, {"a": "x", "b": "x"}]),
    ("required names that properties lacks", {"type": "object", "required": ["x"]},
     [{"x": 1}, {"a": 2, "x": None}], [{}, {"a": 1}]),
    ("additional properties are allowed unless forbidden",
     {"type": "object", "properties": {"a": {"type": "integer"}}}, [{"a": 1, "z": [True]}, {"z": 1}], [{"a": "x"}]),
    ("a property cannot come in again by another spelling",
     {"type": "object", "properties": {"é": {"type": "integer"}}}, [{"é": 1}], [{"é": "x"}]),
    ("patterns are searched for", {"type": "string", "pattern": "a+"}, ["xaay", "a"], ["xyz"]),
    ("look-ahead", {"type": "string", "pattern": "^(?!foo)[a-z]+$"}, ["fo", "bar"], ["foo", "foobar"]),
    ("quotes in patterns", {"type": "string", "pattern": '^a"b$'}, ['a"b'], ["ab"]),
    ("oneOf is exclusive", {"oneOf": [{"type": "integer"}, {"minimum": 2}]}, [1, 2.5, "x"], [3, 1.5]),
    ("not", {"not": {"type": "object", "properties": {"foo": {"type": "string"}}}},
     [1, {"foo": 1}], [{"foo": "bar"}, {}]),
    ("if then else", {"if": {"properties": {"k": {"const": "a"}}, "required": ["k"]},
                      "then": {"required": ["x"]}, "else": {"required": ["y"]}},
     [{"k": "a", "x": 1}, {"k": "b", "y": 1}, {"y": 0}], [{"k": "a"}, {"k": "a", "y": 1}, {}]),
    ("dependentRequired", {"dependentRequired": {"a": ["b"]}}, [{}, {"b": 1}, {"b": 1, "a": 2}], [{"a": 1}]),
    ("const of an object", {"const": {"a": [1, None]}}, [{"a": [1, None]}], [{"a": [1]}, {"a": [1, None], "b": 2}]),
    ("enum filtered by siblings", {"enum": ["a", "bb", 3, None], "type": ["string", "null"], "minLength": 2},
     ["bb", None], ["a", 3]),
    ("contains is counted", {"type": "array", "contains": {"const": 1}, "minContains": 2, "maxContains": 3},
     [[1, 1], [0, 1, 2, 1], [1, 1, 1]], [[1], [], [1, 1, 1, 1]]),
    ("uniqueItems of an enum", {"type": "array", "items": {"enum": ["a", "b", 1]}, "uniqueItems": True, "minItems": 1},
     [["a"], ["b", 1, "a"]], [[], ["a", "a"], ["c"]]),
    ("patternProperties with additionalProperties",
     {"type": "object", "patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": {"type": "string"}},
     [{"x1": 1, "y": "s"}, {}], [{"x1": "s"}, {"y": 1}]),
    ("propertyNames", {"type": "object", "propertyNames": {"maxLength": 2}}, [{"ab": 1}], [{"abc": 1}]),
    ("maxProperties", {"type": "object", "maxProperties": 1}, [{}, {"a": 1}], [{"a": 1, "b": 2}]),
    ("unevaluatedProperties", {"allOf": [{"properties": {"a": True}}], "properties": {"b": True},
                               "unevaluatedProperties": False}, [{"a": 1, "b": 2}, {}], [{"c": 1}]),
    ("recursion", {"$ref": "#/$defs/t", "$defs": {"t": {"type": "object", "properties": {
        "v": {"type": "integer"}, "c": {"type": "array", "items": {"$ref": "#/$defs/t"}}}, "required": ["v"],
        "additionalProperties": False}}}, [{"v": 1, "c": [{"v": 2, "c": []}]}], [{"v": 1, "c": [{}]}]),
    ("draft-07 tuples", {"type": "array", "items": [{"type": "integer"}], "additionalItems": False},
     [[], [1]], [["x"], [1, 2]]),
    ("draft-07 definitions and dependencies",
     {"definitions": {"s": {"type": "string"}}, "properties": {"a": {"$ref": "#/definitions/s"}},
      "dependencies": {"a": ["b"]}}, [{"a": "x", "b": 1}], [{"a": "x"}, {"a": 1, "b": 1}]),
    ("bounds are exact decimals", {"type": "number", "minimum": 0.1, "exclusiveMaximum": 2},
     [0.1, 1, 1.99], [0.09, 2, -1]),
    ("multiples are exact decimals", {"type": "number", "multipleOf": 0.01}, [19.99, 4, 0.1], [0.001, 19.999]),
    ("dates exist", {"type": "string", "format": "date"}, ["2024-02-29"], ["2023-02-29", "2024-13-01"]),
    ("unknown formats are annotations", {"type": "integer", "format": "int32"}, [1], ["x"]),
    ("pointers are unescaped", {"properties": {"a": {"$ref": "#/$defs/x~1y%25"}}, "$defs": {"x/y%": {"type": "null"}}},
     [{"a": None}], [{"a": 1}]),
    ("anchors", {"$ref": "#here", "$defs": {"a": {"$anchor": "here", "type": "null"}}}, [None], [1]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_strict_accepts_exactly_the_instances(
    compiler: GrammarCompiler, schema: Any, valid: list[Any], invalid: list[Any]
) -> None:
    compiled = compiler.compile_json_schema(schema, strict=True)
    assert [value for value in valid if not compiled.accepts(text(value))] == []
    assert [value for value in invalid if compiled.accepts(text(value))] == []


@pytest.mark.parametrize(
    ("schema", "keyword", "pointer"),
    [
        ({"properties": {"a": {"uniqueItems": True}}}, "uniqueItems", "/properties/a/uniqueItems"),
        ({"pattern": r"(a)\1"}, "pattern", "/pattern"),
        ({"items": {"$ref": "https://example.com/x"}}, "$ref", "/items/$ref"),
        ({"$ref": "#"}, "$ref", ""),
        ({"type": "int"}, "type", "/type"),
        ({"properties": {"a/b": {"required": True}}}, "required", "/properties/a~1b/required"),
        ({"properties": {f"p{at}": {} for at in range(1001)}}, "properties", "/properties"),
        ({"format": "idn-hostname"}, "format", "/format"),
    ],
)
def test_what_strict_cannot_enforce_is_refused_by_keyword_and_pointer(
    compiler: GrammarCompiler, schema: Any, keyword: str, pointer: str
) -> None:
    with pytest.raises(UnsupportedSchema) as caught:
        compiler.compile_json_schema(schema, strict=True)
    assert (caught.value.status, caught.value.keyword, caught.value.pointer) == (400, keyword, pointer)


def test_without_strict_the_rest_is_checked_afterwards(compiler: GrammarCompiler) -> None:
    compiled = compiler.compile_json_schema(
        {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
    )
    assert compiled.needs_check
    assert compiled.accepts('["a","b"]')
    assert not compiled.accepts('["a","a"]')
    assert not compiled.accepts("[1]")
    assert [found.keyword for found in compiled.check('["a","a"]')] == ["uniqueItems"]


def test_a_schema_that_nothing_satisfies_accepts_nothing_and_cannot_be_generated(
    compiler: GrammarCompiler,
) -> None:
    compiled = compiler.compile_json_schema({"allOf": [{"type": "string"}, {"type": "integer"}]}, strict=True)
    assert not compiled.accepts("1")
    with pytest.raises(UnsupportedSchema, match="No JSON value"):
        compiled.matcher()


@pytest.mark.parametrize("value", ['{"a": 1, "b": 2}', '{\n  "a": 1,\n  "b": [\n    2\n  ]\n}', '{"a":1}'])
def test_spaced_and_indented_json_is_allowed(compiler: GrammarCompiler, value: str) -> None:
    assert compiler.compile_json_object().accepts(value)


@pytest.mark.parametrize(
    "value", ['{"a":1}\n', '{"a":1,   "b":2}', "{" + "\n" * 5 + "}", '{"a":"\t"}', "[]", '{"a":01}']
)
def test_unbounded_white_space_and_other_values_are_not(compiler: GrammarCompiler, value: str) -> None:
    assert not compiler.compile_json_object().accepts(value)


def test_property_order_is_the_schemas(compiler: GrammarCompiler) -> None:
    compiled = compiler.compile_json_schema(
        {"properties": {"b": {}, "a": {}}, "required": ["a"]}, strict=True
    )
    assert compiled.accepts('{"b":1,"a":1}')
    assert not compiled.accepts('{"a":1,"b":1}')


def test_escaped_and_plain_spellings_of_a_string_are_one_string(compiler: GrammarCompiler) -> None:
    compiled = compiler.compile_json_schema({"enum": ["é", "a/b", "x\ny"]}, strict=True)
    for spelling in ('"é"', r'"\u00e9"', '"a/b"', r'"a\/b"', r'"x\ny"'):
        assert compiled.accepts(spelling)
    assert not compiled.accepts(r'"\u00e8"')


def test_regular_expressions_choices_and_grammars(compiler: GrammarCompiler) -> None:
    assert compiler.compile_regex("[ab]+").accepts("abba")
    assert not compiler.compile_regex("[ab]+").accepts("abc")
    assert compiler.compile_choice(["yes", "no"]).accepts("no")
    assert not compiler.compile_choice(["yes", "no"]).accepts("n")
    assert compiler.compile_grammar('root ::= "a" b\nb ::= [0-9]+').accepts("a12")
    assert compiler.compile_grammar('start: "a" B\nB: /[0-9]+/').accepts("a12")
    for broken in ("root ::= (", "start: x"):
        with pytest.raises(UnsupportedSchema):
            compiler.compile_grammar(broken)
    with pytest.raises(UnsupportedSchema):
        compiler.compile_regex(r"(a)\1")
