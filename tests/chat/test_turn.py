"""A turn: what it may hold, how reasoning stands at the prompt's end, and the parser of the whole."""

from typing import Any

import pytest

from basemlx.engine.chat.formats import FORMATS, Format, format_named, format_of
from basemlx.engine.chat.parser import PlainParser
from basemlx.engine.chat.reasoning import ReasoningStyle, State, reasoning_state, reasoning_style
from basemlx.engine.chat.template import ChatTemplate
from basemlx.engine.chat.tools import Tool
from basemlx.engine.chat.turn import Ask, ToolChoice, turn_parser, turn_structure
from basemlx.engine.errors import UnsupportedParameter, UnsupportedSchema
from tests.chat.wire import BUILT_IN, TEMPLATES, counter, cuts, read, values

TOOLS = (Tool("f"), Tool("g"))
THINK = ReasoningStyle()


def test_tools_without_a_format_are_refused_and_without_a_call_they_are_not() -> None:
    with pytest.raises(UnsupportedParameter) as refusal:
        turn_structure(Ask(TOOLS), None)
    assert refusal.value.param == "tools"
    turn_structure(Ask(TOOLS, ToolChoice("none")), None)
    assert Ask().is_free
    assert not Ask(TOOLS, ToolChoice("none")).is_free


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
@pytest.mark.parametrize("state", ["open", "allowed", "closed"])
def test_reasoning_and_calls_come_apart_at_every_cut(form: Format, state: State) -> None:
    case = BUILT_IN[0]
    style = ReasoningStyle("<|channel|>analysis<|message|>", "<|end|>") if form.name == "harmony" else THINK
    calls = form.render(case.calls)
    if form.name == "harmony":
        text = f"{style.start}Hm. <x>{style.end}<|start|>assistant{calls}"
    else:
        text = {"open": "", "allowed": "<think>\n", "closed": ""}[state]
        text += "" if state == "closed" else "Hm. <x>\n</think>\n\n"
        text += calls
    ask = Ask(case.tools)

    def parsed(pieces: list[str]) -> Any:
        return read(turn_parser(ask, form, style, state, counter(), enforced=True), pieces)

    whole = parsed([text])
    assert values(whole) == case.values
    assert whole.content == ""
    assert whole.reasoning == ("" if state == "closed" and form.name != "harmony" else "Hm. <x>")
    assert parsed(list(text)) == whole
    assert all(parsed(cut) == whole for cut in cuts(text)[::3])


def test_without_tools_markup_is_text() -> None:
    text = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    parser = turn_parser(Ask(), format_named("hermes"), None, "closed", counter(), enforced=False)
    assert isinstance(parser, PlainParser)
    assert read(parser, [text]).content == text
    none = Ask(TOOLS, ToolChoice("none"))
    parser = turn_parser(none, format_named("hermes"), THINK, "open", counter(), enforced=True)
    assert read(parser, [f"x</think>{text}"]).content == text


def test_in_reasoning_is_said_while_it_lasts() -> None:
    parser = turn_parser(Ask(TOOLS), format_named("hermes"), THINK, "open", counter(), enforced=True)
    parser.push("Hm")
    assert parser.in_reasoning
    parser.push("</think>")
    assert not parser.in_reasoning


@pytest.mark.parametrize(
    ("prompt", "state"),
    [
        ("<|im_start|>assistant\n<think>\n", "open"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "closed"),
        ("<｜Assistant｜></think>", "closed"),
        ("user: <think>?\nassistant:", "allowed"),
    ],
)
def test_the_prompts_tail_says_how_reasoning_stands(prompt: str, state: State) -> None:
    assert reasoning_state(prompt, THINK) == state
    assert reasoning_state(prompt, None) == "closed"


@pytest.mark.skipif(not TEMPLATES, reason="released templates are not on this machine")
def test_released_templates_leave_reasoning_as_their_prompts_say() -> None:
    expected: dict[str, tuple[str, State, State]] = {  # marker, then the state without and with thinking
        "Qwen-Qwen3-0.6B": ("<think>", "closed", "allowed"),
        "Qwen3.5-4B": ("<think>", "closed", "open"),
        "GLM-4.6": ("<think>", "closed", "allowed"),
        "deepseek-ai-DeepSeek-V3.1": ("<think>", "closed", "open"),
        "google-gemma-4-31B-it": ("<|channel>thought\n", "closed", "allowed"),
        "openai-gpt-oss-120b": ("<|channel|>analysis<|message|>", "allowed", "allowed"),
        "ByteDance-Seed-OSS": ("<seed:think>", "allowed", "allowed"),
        "CohereForAI-c4ai-command-r7b-12-2024-tool_use": ("<|START_THINKING|>", "closed", "allowed"),
    }
    by_name = {path.stem: path for path in TEMPLATES}
    for name, (start, without, with_thinking) in expected.items():
        source = by_name[name].read_text()
        style = reasoning_style(source)
        assert style is not None, name
        assert style.start == start, name
        template = ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})
        for thinks, state in ((False, without), (True, with_thinking)):
            prompt = template.render(
                [{"role": "user", "content": "Q?"}], enable_thinking=thinks, thinking=thinks
            )
            assert reasoning_state(prompt, style) == state, (name, thinks, prompt[-40:])
    for path in TEMPLATES:
        form = format_of(path.read_text())
        assert form is None or form.name != "hermes" or "<tool_call>" in path.read_text()


@pytest.mark.parametrize("name", ["qwen-xml", "glm-4.7", "deepseek-v3.2", "lfm2", "gemma4"])
@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"properties": {"a": {"type": "string", "pattern": "^x"}}}, "pattern"),
        ({"properties": {"a <b>": {"type": "string"}}}, "properties"),
        ({"additionalProperties": {"type": "integer"}}, "additionalProperties"),
        ({"properties": {"a": {"type": "string"}}, "anyOf": [{"required": ["a"]}]}, "anyOf"),
    ],
)
def test_what_a_format_cannot_say_is_refused_where_it_is_strict_and_let_be_where_not(
    name: str, schema: dict[str, Any], keyword: str
) -> None:
    relaxed = Ask((Tool("f", {"type": "object", **schema}),))
    turn_structure(relaxed, format_named(name))
    strict = Ask((Tool("f", {"type": "object", **schema}, strict=True, pointer="/tools/0"),))
    if (name, keyword) == ("lfm2", "pattern"):
        turn_structure(strict, format_named(name))  # strings are JSON's there
        return
    with pytest.raises(UnsupportedSchema) as refusal:
        turn_structure(strict, format_named(name))
    assert refusal.value.keyword == keyword
    assert str(refusal.value.pointer).startswith("/tools/0")


def test_a_required_parameter_that_a_format_cannot_name_is_refused_in_any_case() -> None:
    tool = Tool("f", {"type": "object", "properties": {"a>b": {}}, "required": ["a>b"]})
    turn_structure(Ask((tool,)), format_named("hermes"))
    with pytest.raises(UnsupportedSchema):
        turn_structure(Ask((tool,)), format_named("qwen-xml"))
