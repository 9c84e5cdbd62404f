"""What is checked after generation of a call: whatever neither the grammar nor the model's wire format holds to."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import basemlx.engine.tiny
from basemlx.engine.chat.formats import format_named
from basemlx.engine.errors import UnsupportedParameter
from basemlx.engine.grammar import GrammarCompiler
from basemlx.engine.openai.chat_request import chat_request
from basemlx.engine.openai.conduct import Conduct
from basemlx.engine.openai.constraint import plan_turn

TOKENIZER = Path(basemlx.engine.tiny.__file__).with_name("model") / "tokenizer.json"
BY_PARAMETER = ["qwen-xml", "glm-4.7", "minimax-m2", "deepseek-v3.2", "lfm2", "gemma4"]


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    with GrammarCompiler.from_tokenizer_file(TOKENIZER) as compiler:
        yield compiler


def outcome_of(
    compiler: GrammarCompiler, form: str, schema: dict[str, Any], arguments: str
) -> dict[str, Any] | None:
    function = {"name": "f", "parameters": {"type": "object", **schema}}
    request = chat_request(
        {
            "model": "m",
            "messages": [{"role": "user", "content": "?"}],
            "tools": [{"type": "function", "function": function}],
        }
    )
    conduct = cast(Conduct, SimpleNamespace(form=format_named(form), style=None, compiler=compiler))
    check = plan_turn(request, conduct, "closed").check
    return None if check is None else check.outcome(0, "", [("f", arguments)])


@pytest.mark.parametrize("form", ["hermes", *BY_PARAMETER])
def test_what_no_grammar_holds_a_parameter_to_is_checked_afterwards(
    compiler: GrammarCompiler, form: str
) -> None:
    labels = {"properties": {"labels": {"type": "array", "items": {"type": "string"}, "uniqueItems": True}}}
    wrong = outcome_of(compiler, form, labels, '{"labels": ["a", "a"]}')
    right = outcome_of(compiler, form, labels, '{"labels": ["a", "b"]}')
    assert wrong is not None
    assert right is not None
    assert (wrong["valid"], right["valid"]) == (False, True)
    assert "uniqueItems" in {gap["keyword"] for gap in wrong["not_enforced"]}


@pytest.mark.parametrize("form", ["qwen-xml", "glm-4.7", "deepseek-v3.2"])
def test_what_a_format_cannot_say_is_checked_afterwards(compiler: GrammarCompiler, form: str) -> None:
    code = {"properties": {"code": {"type": "string", "pattern": "^[A-Z]{2}$"}}}
    wrong = outcome_of(compiler, form, code, '{"code": "abc"}')
    assert wrong is not None
    assert not wrong["valid"]
    assert [(gap["keyword"], gap["pointer"]) for gap in wrong["not_enforced"]] == [
        ("pattern", "/properties/code/pattern")
    ]
    assert outcome_of(compiler, "hermes", code, '{"code": "AB"}') is None


@pytest.mark.parametrize(
    "extra", [{"guided_regex": "a+b"}, {"structured_outputs": {"grammar": 'start: "a"+ "b"'}}]
)
def test_a_pattern_is_the_whole_answer_so_it_goes_with_tools_that_may_not_be_called_only(
    compiler: GrammarCompiler, extra: dict[str, Any]
) -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    body = {"model": "m", "messages": [{"role": "user", "content": "?"}], "tools": [tool], **extra}
    conduct = cast(Conduct, SimpleNamespace(form=format_named("hermes"), style=None, compiler=compiler))
    plan = plan_turn(chat_request({**body, "tool_choice": "none"}), conduct, "closed")
    assert plan.constraint is not None
    assert plan.constraint.accepts("aab")
    assert not plan.constraint.accepts("aabb")
    for choice in ("auto", "required", tool):
        with pytest.raises(UnsupportedParameter, match="set tool_choice to none"):
            plan_turn(chat_request({**body, "tool_choice": choice}), conduct, "closed")
    with pytest.raises(UnsupportedParameter, match="reasoning_effort none"):
        plan_turn(chat_request({**body, "tool_choice": "none"}), conduct, "open")
