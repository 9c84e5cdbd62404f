"""Schemas of functions, whatever the model's wire format: malformed or hostile ones are refused by name, and under
strict nothing is dropped: what the format cannot say is refused, and what it says is what the schema allows."""

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import basemlx.engine.tiny
from basemlx.engine.chat.formats import FORMATS, Format, format_named
from basemlx.engine.chat.tools import Call, Tool
from basemlx.engine.errors import UnsupportedSchema
from basemlx.engine.grammar import GrammarCompiler
from basemlx.engine.grammar.structure_json import node_json
from basemlx.engine.openai.chat_request import chat_request
from basemlx.engine.openai.conduct import Conduct
from basemlx.engine.openai.constraint import TurnPlan, plan_turn
from tests.chat.wire import counter, read, values

TOKENIZER = Path(basemlx.engine.tiny.__file__).with_name("model") / "tokenizer.json"
POINTER = "tools[0].function.parameters"
formats = pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
by_parameter = pytest.mark.parametrize(
    "name", ["qwen-xml", "glm-4.7", "minimax-m2", "deepseek-v3.2", "gemma4", "lfm2"]
)


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    with GrammarCompiler.from_tokenizer_file(TOKENIZER) as compiler:
        yield compiler


def planned(
    compiler: GrammarCompiler,
    form: Format,
    schema: dict[str, Any],
    *,
    strict: bool = False,
    num_tools: int = 1,
) -> TurnPlan:
    """A turn that has to call."""
    tools = [
        {"type": "function", "function": {"name": f"f{at or ''}", "parameters": schema, "strict": strict}}
        for at in range(num_tools)
    ]
    messages = [{"role": "user", "content": "?"}]
    request = chat_request({"model": "m", "messages": messages, "tools": tools, "tool_choice": "required"})
    conduct = cast(Conduct, SimpleNamespace(form=form, style=None, compiler=compiler))
    return plan_turn(request, conduct, "closed")


def allows(plan: TurnPlan, form: Format, arguments: dict[str, Any]) -> bool:
    return accepts(plan, form.render((Call("f", arguments),)))


def accepts(plan: TurnPlan, text: str) -> bool:
    """Written with control tokens, where the model has them."""
    constraint = plan.constraint
    assert constraint is not None
    matcher = constraint.matcher()
    tokens = constraint._compiler.vocabulary.encode(text)
    return all(map(matcher.accept, tokens)) and matcher.is_complete


@formats
@pytest.mark.parametrize(
    ("schema", "keyword", "pointer"),
    [
        ({"type": 5}, "type", "/properties/a/type"),
        ({"type": "array", "minItems": "x"}, "minItems", "/properties/a/minItems"),
        ({"type": "object", "properties": []}, "properties", "/properties/a/properties"),
        ({"anyOf": [{"type": "object", "required": "b"}]}, "required", "/properties/a/anyOf/0/required"),
        ({"type": "array", "items": {"enum": 1}}, "enum", "/properties/a/items/enum"),
    ],
)
def test_a_malformed_schema_is_refused_with_field_and_pointer_in_every_format(
    compiler: GrammarCompiler, form: Format, schema: dict[str, Any], keyword: str, pointer: str
) -> None:
    for strict in (False, True):
        with pytest.raises(UnsupportedSchema, match="malformed") as raised:
            planned(compiler, form, {"type": "object", "properties": {"a": schema}}, strict=strict)
        error = raised.value
        assert (error.status, error.param, error.keyword) == (400, POINTER, keyword)
        assert error.pointer == POINTER + pointer


@formats
def test_a_schema_over_a_limit_is_refused_before_its_grammar_is_built(
    compiler: GrammarCompiler, form: Format
) -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(70):
        deep = {"type": "array", "items": deep}
    with pytest.raises(UnsupportedSchema, match="nested more than 64 deep"):
        planned(compiler, form, {"type": "object", "properties": {"a": deep}})
    with pytest.raises(UnsupportedSchema, match="together larger"):
        planned(compiler, form, {"type": "object", "description": "x" * 200_000}, num_tools=8)


def recursive(width: int) -> dict[str, Any]:
    """A tree whose nodes have `width` children, by name: a format without names of its own would write it out."""
    children = {f"child{at}": {"$ref": "#/$defs/node"} for at in range(width)}
    return {
        "type": "object",
        "properties": {"label": {"type": "string"}, **children},
        "$defs": {"node": {"type": "object", "properties": {"text": {"type": "string"}, **children}}},
    }


@formats
def test_a_schema_that_refers_to_itself_many_times_stays_small(form: Format) -> None:
    started = time.perf_counter()
    grammar = form.grammar((Tool("f", recursive(10)),), parallel=True)
    num_bytes = len(str(node_json(grammar.rest)))
    assert num_bytes < 100_000
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("name", ["gemma4", "function-gemma"])
def test_so_it_does_for_many_functions_and_under_strict_it_is_refused(
    compiler: GrammarCompiler, name: str
) -> None:
    form = format_named(name)
    with pytest.raises(UnsupportedSchema, match="together too many places"):
        planned(compiler, form, recursive(8), num_tools=60)
    with pytest.raises(UnsupportedSchema, match="too many places") as raised:
        planned(compiler, form, recursive(8), strict=True)
    assert raised.value.pointer == f"{POINTER}/$defs/node"
    plan = planned(compiler, form, recursive(2))
    assert allows(plan, form, {"child0": {"child1": {"text": "x"}}, "label": "y"})
    assert not allows(plan, form, {"label": 5})


@by_parameter
def test_many_optional_parameters_make_a_grammar_that_grows_with_their_number_only(
    compiler: GrammarCompiler, name: str
) -> None:
    def size(count: int) -> int:
        properties = {
            f"p{at:03}": {"type": "object", "properties": {"q": {"type": "null"}}} for at in range(count)
        }
        tool = Tool("f", {"type": "object", "properties": properties})
        return len(str(node_json(format_named(name).grammar((tool,), parallel=False).rest)))

    assert size(400) < 5 * size(100)
    form = format_named(name)
    schema = {"type": "object", "properties": {key: {"type": "integer"} for key in "abcd"}, "required": ["c"]}
    plan = planned(compiler, form, schema)
    for keys, right in {"abcd": True, "c": True, "bc": True, "cd": True, "ab": False, "": False}.items():
        assert allows(plan, form, dict.fromkeys(keys, 1)) == right, keys


@by_parameter
@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"type": "string", "enum": ["a", "bcd", "ef"], "minLength": 2}, ["bcd", "ef"], ["a"]),
        ({"type": "string", "enum": ["a", "bcd"], "maxLength": 2}, ["a"], ["bcd"]),
        ({"type": ["string", "integer"], "enum": ["a", 3, 30], "minimum": 10}, ["a", 30], [3]),
        ({"type": "string", "enum": ["a", "b"], "const": "b"}, ["b"], ["a"]),
        ({"anyOf": [{"enum": ["a", "b"]}, {"type": "null"}]}, ["a", None], ["c"]),
    ],
)
def test_listed_values_are_held_to_the_other_keywords_under_strict(
    compiler: GrammarCompiler, name: str, schema: dict[str, Any], right: list[Any], wrong: list[Any]
) -> None:
    form = format_named(name)
    whole = {"type": "object", "properties": {"a": schema}, "required": ["a"], "additionalProperties": False}
    plan = planned(compiler, form, whole, strict=True)
    assert plan.check is None
    for value in right:
        if (name, value) != ("lfm2", None):  # in a list of alternatives it is written as JSON's null
            assert allows(plan, form, {"a": value}), value
    for value in wrong:
        assert not allows(plan, form, {"a": value}), value


COLOUR = {"type": "string", "enum": ["red", "green"]}


@by_parameter
@pytest.mark.parametrize(
    ("schema", "keyword", "pointer"),
    [
        ({"type": "string", "enum": ["a", "b"], "pattern": "^a"}, "pattern", "/properties/a/pattern"),
        ({"anyOf": [{"type": "string", "pattern": "^a"}]}, "pattern", "/properties/a/anyOf/0/pattern"),
        ({"$ref": "#/$defs/text", "maxLength": 2}, "maxLength", "/properties/a/maxLength"),
        ({"$ref": "#/$defs/again"}, "maxLength", "/$defs/again/maxLength"),
    ],
)
def test_what_stands_beside_a_reference_or_a_list_is_refused_under_strict_and_checked_without(
    compiler: GrammarCompiler, name: str, schema: dict[str, Any], keyword: str, pointer: str
) -> None:
    whole = {
        "type": "object",
        "properties": {"a": schema},
        "required": ["a"],
        "$defs": {"text": {"type": "string"}, "again": {"$ref": "#/$defs/text", "maxLength": 2}},
    }
    form = format_named(name)
    if name == "lfm2":  # strings are JSON's there, and all of it is enforced
        plan = planned(compiler, form, whole, strict=True)
        assert allows(plan, form, {"a": "a"})
        assert not allows(plan, form, {"a": "bbb"})
        return
    with pytest.raises(UnsupportedSchema) as raised:
        planned(compiler, form, whole, strict=True)
    assert (raised.value.keyword, raised.value.pointer) == (keyword, POINTER + pointer)
    assert planned(compiler, form, whole).check is not None


@by_parameter
def test_a_number_keeps_what_stands_beside_its_reference(compiler: GrammarCompiler, name: str) -> None:
    form = format_named(name)
    whole = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/count", "maximum": 5}},
        "required": ["a"],
        "$defs": {"count": {"type": "integer", "minimum": 3}},
    }
    if name == "gemma4":
        with pytest.raises(UnsupportedSchema) as raised:
            planned(compiler, form, whole, strict=True)
        assert (raised.value.keyword, raised.value.pointer) == ("maximum", f"{POINTER}/properties/a/maximum")
        return
    plan = planned(compiler, form, whole, strict=True)
    assert [value for value in range(8) if allows(plan, form, {"a": value})] == [3, 4, 5]


@by_parameter
def test_a_reference_is_followed_to_what_it_names(compiler: GrammarCompiler, name: str) -> None:
    form = format_named(name)
    whole = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/colour", "description": "Which."}},
        "required": ["a"],
        "additionalProperties": False,
        "$defs": {"colour": COLOUR},
    }
    plan = planned(compiler, form, whole, strict=True)
    assert allows(plan, form, {"a": "green"})
    assert not allows(plan, form, {"a": "blue"})


@by_parameter
def test_arguments_that_are_a_reference_keep_what_stands_beside_it_or_are_refused(
    compiler: GrammarCompiler, name: str
) -> None:
    form = format_named(name)
    target = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    plain = {"$ref": "#/$defs/target", "$defs": {"target": target, "over": {"$ref": "#/$defs/target"}}}
    for schema in (plain, {**plain, "$ref": "#/$defs/over"}):
        plan = planned(compiler, form, schema, strict=True)
        assert allows(plan, form, {"a": "x"})
        assert not allows(plan, form, {})
        parsed = read(form.parser((Tool("f", schema),), counter()), [form.render((Call("f", {"a": "12"}),))])
        assert values(parsed) == [("f", {"a": "12"})], "a text stays one"
    with pytest.raises(UnsupportedSchema) as raised:
        planned(compiler, form, {**plain, "minProperties": 2}, strict=True)
    assert (raised.value.keyword, raised.value.pointer) == ("minProperties", f"{POINTER}/minProperties")
    with pytest.raises(UnsupportedSchema, match="cannot follow"):
        planned(compiler, form, {"$ref": "#/$defs/nowhere"})


@formats
def test_arguments_are_an_object_whatever_else_their_schema_would_allow(
    compiler: GrammarCompiler, form: Format
) -> None:
    schema = {"type": ["object", "null"], "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    plan = planned(compiler, form, schema)
    text = form.render((Call("f", {"a": 7}),))
    if form.name != "harmony":  # what is rendered there begins within the prompt
        assert accepts(plan, text)
    if '{"a": 7}' in text:
        assert not accepts(plan, text.replace('{"a": 7}', "null"))
    assert not accepts(plan, form.render((Call("f", {}),)))
    with pytest.raises(UnsupportedSchema) as raised:
        planned(compiler, form, {"type": "string"})
    assert (raised.value.keyword, raised.value.pointer) == ("type", f"{POINTER}/type")
