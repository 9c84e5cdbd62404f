"""Whatever strict accepts, the jsonschema library validates: on schemas and instances made up by hypothesis."""

import json
import zlib
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from llguidance import LLMatcher

from basemlx.engine.errors import UnsupportedSchema
from basemlx.engine.grammar.recogniser import byte_tokenizer
from basemlx.engine.grammar.schema import plan_schema

NAMES = ("a", "b", "cc")
names = st.sampled_from(NAMES)
texts = st.sampled_from(["", "a", "ab", "b", "cc", 'q"', "é", "\n"])
numbers = st.sampled_from([0, 1, 2, 3, 5, -1, 10, 0.5, 2.5, 1.0])
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=6,
)
TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")


def schemas() -> st.SearchStrategy[Any]:
    def keywords(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        small = st.integers(0, 3)
        parts = st.lists(inner, min_size=1, max_size=3)
        return st.fixed_dictionaries(
            {},
            optional={
                "type": st.one_of(
                    st.sampled_from(TYPES),
                    st.lists(st.sampled_from(TYPES), min_size=1, max_size=3, unique=True),
                ),
                "properties": st.dictionaries(names, inner, max_size=3),
                "required": st.lists(names, max_size=2, unique=True),
                "additionalProperties": inner,
                "patternProperties": st.dictionaries(st.sampled_from(["^a", "b|c", "c$"]), inner, max_size=2),
                "propertyNames": inner,
                "minProperties": small,
                "maxProperties": small,
                "dependentRequired": st.dictionaries(
                    names, st.lists(names, max_size=2, unique=True), max_size=2
                ),
                "dependentSchemas": st.dictionaries(names, inner, max_size=1),
                "items": inner,
                "prefixItems": parts,
                "minItems": small,
                "maxItems": small,
                "contains": inner,
                "minContains": small,
                "maxContains": small,
                "uniqueItems": st.booleans(),
                "unevaluatedProperties": inner,
                "unevaluatedItems": inner,
                "minLength": small,
                "maxLength": small,
                "pattern": st.sampled_from(["a", "^a", "b$", "^[ab]*$", "^(?!a)"]),
                "minimum": numbers,
                "exclusiveMaximum": numbers,
                "multipleOf": st.sampled_from([1, 2, 0.5, 3]),
                "enum": st.lists(values, min_size=1, max_size=4),
                "const": values,
                "allOf": parts,
                "anyOf": parts,
                "oneOf": parts,
                "not": inner,
                "if": inner,
                "then": inner,
                "else": inner,
                "$ref": st.sampled_from(["#/$defs/one", "#/$defs/two"]),
            },
        ).map(_thinned)

    inner = st.recursive(st.one_of(st.booleans(), keywords(st.booleans())), keywords, max_leaves=5)
    return st.tuples(inner, keywords(st.booleans()), keywords(st.booleans())).map(_with_definitions)


def _thinned(schema: dict[str, Any]) -> dict[str, Any]:
    """A few keywords say more than thirty, which nothing satisfies."""
    ordered = sorted(schema, key=lambda keyword: zlib.crc32((keyword + json.dumps(schema[keyword])).encode()))
    return {keyword: schema[keyword] for keyword in ordered[:4]}


def _with_definitions(parts: tuple[Any, Any, Any]) -> dict[str, Any]:
    root, one, two = parts
    root = root if isinstance(root, dict) else {"allOf": [root]}
    return root | {"$defs": {"one": _without_reference(one), "two": _without_reference(two)}}


def _without_reference(schema: dict[str, Any]) -> dict[str, Any]:
    return {keyword: value for keyword, value in schema.items() if keyword != "$ref"}


def _accepts(start: LLMatcher, text: str) -> bool:
    matcher = start.deep_copy()
    data = list(text.encode())
    return bool(matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting())


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(schema=schemas(), instances=st.lists(values, min_size=8, max_size=8))
def test_nothing_that_strict_accepts_is_invalid(schema: Any, instances: list[Any]) -> None:
    try:
        Draft202012Validator.check_schema(schema)
        plan = plan_schema(schema)
    except (SchemaError, UnsupportedSchema):
        return
    if plan.remaining or plan.lark is None:
        start = None
    else:
        start = LLMatcher(byte_tokenizer(), LLMatcher.grammar_from_lark(plan.lark), log_level=0)
        assert not start.is_error(), start.get_error()
    validator = Draft202012Validator(schema)
    for instance in instances:
        text = json.dumps(instance, separators=(",", ":"), ensure_ascii=False)
        if plan.lark is None and not plan.remaining:
            assert not validator.is_valid(instance), (schema, text)
        if start is not None and _accepts(start, text):
            assert validator.is_valid(instance), (schema, text)
