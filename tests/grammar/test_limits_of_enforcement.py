"""What docs/structured-output.md says of what strict refuses, each with a neighbour that is enforced."""

from typing import Any

import pytest

from basemlx.engine.grammar.schema import plan_schema

REFUSED: list[tuple[str, Any, Any]] = [
    ("uniqueItems", {"uniqueItems": True, "items": {"type": "string"}}, {"uniqueItems": True, "items": {"enum": [1]}}),
    ("pattern", {"pattern": "(?<=a)b"}, {"pattern": "a(?=b)"}),
    ("pattern", {"pattern": "(a)\\1"}, {"pattern": "(?<name>a)+"}),
    ("pattern", {"pattern": "\\bfoo"}, {"pattern": "foo"}),
    ("pattern", {"pattern": "((?!a)b)*"}, {"pattern": "^(?!a)b*"}),
    (
        "patternProperties",
        {"type": "object", "patternProperties": {name: {"type": "null"} for name in "abcdefg"}},
        {"type": "object", "patternProperties": {name: {"type": "null"} for name in "abcdef"}},
    ),
    ("format", {"format": "idn-hostname"}, {"format": "hostname"}),
    ("format", {"format": "regex"}, {"format": "unheard-of"}),
    ("format", {"not": {"format": "email"}}, {"format": "email"}),
    ("multipleOf", {"multipleOf": 12.34}, {"multipleOf": 7.5, "minimum": 3}),
    ("multipleOf", {"not": {"multipleOf": 7}}, {"not": {"multipleOf": 5}}),
    ("multipleOf", {"multipleOf": 7, "not": {"const": 14}}, {"multipleOf": 5, "not": {"const": 10}}),
    ("minProperties", {"minProperties": 2}, {"minProperties": 1}),
    ("maxProperties", {"maxProperties": 65}, {"maxProperties": 64}),
    ("contains", {"contains": {"const": 1}, "minContains": 500}, {"contains": {"const": 1}, "minContains": 50}),
    ("unevaluatedProperties", {"not": {"properties": {"a": False}, "unevaluatedProperties": False}},
     {"properties": {"a": False}, "unevaluatedProperties": False}),
    ("minimum", {"minimum": 10**400}, {"minimum": 10**300}),
]  # fmt: skip


@pytest.mark.parametrize(("keyword", "refused", "enforced"), REFUSED)
def test_what_the_docs_say_of_strict(keyword: str, refused: Any, enforced: Any) -> None:
    assert {gap.keyword for gap in plan_schema(refused).remaining} == {keyword}
    assert plan_schema(enforced).remaining == ()
