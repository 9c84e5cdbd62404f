"""Wire formats: what is rendered is read back exactly, however it is cut; what is no call stays text."""

import gc
import json
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from basemlx.engine.chat.formats import FORMATS, Format, format_named, format_of
from basemlx.engine.chat.parser import TextPart, ToolCallArguments, ToolCallStart
from basemlx.engine.chat.template import ChatTemplate
from basemlx.engine.chat.tools import Call, Tool
from basemlx.engine.errors import InvalidRequest
from tests.chat.wire import BFCL, BUILT_IN, TEMPLATES, Case, bfcl, bfcl_sample, counter, cuts, read, values

formats = pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
needs_bfcl = pytest.mark.skipif(not BFCL.is_dir(), reason="BFCL is not on this machine")
needs_templates = pytest.mark.skipif(not TEMPLATES, reason="released templates are not on this machine")
BARE = ("llama3", "pythonic")  # without markers: a call must begin the answer


def reads_back(form: Format, case: Case, pieces: list[str]) -> bool:
    parsed = read(form.parser(case.tools, counter()), pieces)
    return values(parsed) == case.values and not parsed.content and not parsed.reasoning


@formats
@pytest.mark.parametrize("case", BUILT_IN, ids=lambda case: case.name)
def test_calls_are_read_back_exactly_whole_and_cut_anywhere(form: Format, case: Case) -> None:
    text = form.render(case.calls)
    assert reads_back(form, case, [text])
    assert reads_back(form, case, list(text))
    assert all(reads_back(form, case, cut) for cut in cuts(text))


@needs_bfcl
@formats
def test_bfcl_calls_are_read_back_exactly(form: Format) -> None:
    for case in bfcl_sample(25):
        text = form.render(case.calls)
        assert reads_back(form, case, [text]), text
        assert reads_back(form, case, list(text)), text


@pytest.mark.slow
@needs_bfcl
@formats
def test_every_bfcl_call_is_read_back_exactly_character_by_character(form: Format) -> None:
    for case in bfcl():
        text = form.render(case.calls)
        assert reads_back(form, case, [text]), text
        assert reads_back(form, case, list(text)), text


@pytest.mark.parametrize("name", ["qwen-xml", "seed-xml", "glm-4.5", "glm-4.7", "minimax-m2"])
@pytest.mark.parametrize("kinds", [["string", "null"], ["null", "string", "boolean"], ["boolean", "string"]])
def test_a_string_that_may_be_null_flows_from_where_it_is_sure_to_be_one(name: str, kinds: list[str]) -> None:
    form, tool = format_named(name), Tool("f", {"type": "object", "properties": {"a": {"type": kinds}}})
    text = form.render((Call("f", {"a": "nullify it, slowly"}),))
    parser = form.parser((tool,), counter())
    told, so_far = text.index("nullify") + len("nullify"), ""
    for char in text[:told]:
        so_far += "".join(event.text for event in parser.push(char) if isinstance(event, ToolCallArguments))
    assert so_far == '{"a": "nullify', "before its end is there"
    for value in (
        "null",
        "None",
        " null ",
        "nul",
        "null and void",
        "nu ll",
        "  ",
        "",
        "true",
        "False",
        "truely",
        "7",
    ):
        words = {"null": None, "None": None, "true": True, "False": False}
        written = form.render((Call("f", {"a": "@"}),)).replace("@", value)
        kind = {None: "null"}.get(words.get(value.strip(), ""), "boolean")
        typed = words[value.strip()] if value.strip() in words and kind in kinds else value
        for pieces in ([written], list(written)):
            assert values(read(form.parser((tool,), counter()), pieces)) == [("f", {"a": typed})], value


@formats
def test_text_before_calls_is_content_and_nothing_of_the_markup_is(form: Format) -> None:
    if form.name in BARE:
        return
    lead, case = "I will look that up.", BUILT_IN[1]
    if form.name == "harmony":
        lead_text = f"<|channel|>commentary<|message|>{lead}<|end|><|start|>assistant"
    else:
        lead_text = f"{lead}\n\n"
    text = lead_text + form.render(case.calls)
    for pieces in ([text], list(text)):
        parsed = read(form.parser(case.tools, counter()), pieces)
        assert parsed.content == lead
        assert values(parsed) == case.values
        assert len(set(parsed.ids)) == len(case.calls)


@formats
def test_plain_text_is_passed_on_as_it_comes(form: Format) -> None:
    parser = form.parser(BUILT_IN[0].tools, counter())
    got = "".join(
        event.text
        for char in "It is 12 degrees < 13"
        for event in parser.push(char)
        if isinstance(event, TextPart)
    )
    assert got in ("It is 12 degrees < 13", "It is 12 degrees <")
    text = "a < b, [1, 2] {x} </b>\n\n  c `<x>` \n"
    for pieces in ([text], list(text)):
        assert read(form.parser(BUILT_IN[0].tools, counter()), pieces).content == text


@formats
def test_the_name_comes_first_and_string_arguments_flow_as_they_are_written(form: Format) -> None:
    case = BUILT_IN[0]
    text = form.render(case.calls)
    parser = form.parser(case.tools, counter())
    events = [(at, event) for at, char in enumerate(text, 1) for event in parser.push(char)]
    start = next(at for at, event in events if isinstance(event, ToolCallStart))
    assert start <= text.index("artist") + len("artist")
    flowing = "".join(
        event.text
        for at, event in events
        if isinstance(event, ToolCallArguments) and at <= text.index("Swift")
    )
    assert "Taylor" in flowing


@formats
def test_a_call_cut_off_ends_with_what_was_streamed_and_leaks_nothing_where_a_grammar_held(
    form: Format,
) -> None:
    case = BUILT_IN[2]
    text = form.render(case.calls)
    whole = read(form.parser(case.tools, counter()), [text])
    for end in range(0, len(text), 2):
        pieces = list(text[:end]) if end % 5 == 0 else [text[:end]]
        parsed = read(form.parser(case.tools, counter(), enforced=True), pieces)
        assert len(parsed.calls) <= len(whole.calls)
        for (name, arguments), (whole_name, whole_arguments) in zip(parsed.calls, whole.calls, strict=False):
            assert name == whole_name
            assert whole_arguments.startswith(arguments)
        assert not parsed.calls or not parsed.content
        parsed = read(form.parser(case.tools, counter()), pieces)
        assert parsed.content in text[:end]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", "<tool_call>not json</tool_call> and more"),
        ("hermes", '<tool_call>{"arguments": {"a": 1}}</tool_call>'),
        ("hermes", '<tool_call>{"name": 5}'),
        ("hermes", "<tool_call><tool_call>"),
        ("qwen-xml", "<tool_call>\n<fun>x</fun>\n</tool_call>"),
        ("glm-4.7", "<tool_call>{}</tool_call>"),
        ("mistral", "[TOOL_CALLS] none of them"),
        ("mistral-old", "[TOOL_CALLS][]"),
        ("kimi-k2", "<|tool_calls_section_begin|>nothing<|tool_calls_section_end|>"),
        ("deepseek-v3.1", "<｜tool▁calls▁begin｜>hm"),
        ("lfm2", "<|tool_call_start|>[1, 2]<|tool_call_end|>"),
        ("gemma4", "<|tool_call>nothing<tool_call|>"),
        ("minimax-m2", "<minimax:tool_call><x></minimax:tool_call>"),
        ("llama3", '{"name": "Bob", "age": 3}'),
        ("llama3", '{"age": 3, "name": "spotify.play"}'),
        ("llama3", '{"name": "spotify.pla'),
        ("pythonic", "[1, 2, 3] are numbers"),
        ("pythonic", "[nobody(knows=1)]"),
        ("granite", "<|tool_call|>[]"),
    ],
)
def test_markup_that_is_no_call_is_content_with_nothing_lost(name: str, text: str) -> None:
    tools = BUILT_IN[0].tools
    for pieces in ([text], list(text)):
        parsed = read(format_named(name).parser(tools, counter()), pieces)
        assert not parsed.calls
        assert parsed.content == text


@pytest.mark.parametrize(
    ("name", "text", "arguments", "content"),
    [
        ("hermes", '<tool_call>{"name":"f","arguments":{"a":1}} junk</tool_call>', '{"a":1}', "junk"),
        ("hermes", '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', '{"a": 1}', ""),
        ("hermes", '<tool_call>{"name": "f", "id": 7, "arguments": "{\\"a\\": 1}"}</tool_call>', '{"a": 1}', ""),
        ("hermes", '<tool_call>{"name": "f"}</tool_call>', "{}", ""),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": [1</tool_call>', '{"a": [1', ""),
        ("hermes", '<tool_call>{"name": "f", "arguments": null}</tool_call>', "{}", ""),
        ("llama3", '<|python_tag|>{"name": "f", "parameters": {"a": 1}}', '{"a": 1}', ""),
        ("llama3", '{"type": "function", "name": "f", "parameters": {"a": 1}}', '{"a": 1}', ""),
        ("qwen-xml", "<tool_call><function=f><parameter=a>1</parameter></function></tool_call>", '{"a": 1}', ""),
        ("qwen-xml", "<tool_call>\n<function=f>\n<parameter=b>\nTrue\n</parameter>\n</function>", '{"b": true}', ""),
        ("qwen-xml", "<tool_call>\n<function=f>\n<parameter=a>\n1\n</par", '{"a": ', ""),
        ("lfm2", "<|tool_call_start|>[f(s='it\\'s', l=[1, True, None], d={'k': \"v\"})]<|tool_call_end|>",
         '{"s": "it\'s", "l": [1, true, null], "d": {"k": "v"}}', ""),
        ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]', '{"a": 1}', ""),
        ("mistral", '[TOOL_CALLS]f{"a": 1}', '{"a": 1}', ""),
        ("harmony", '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}', '{"a": 1}', ""),
        ("harmony", '<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>commentary to=functions.f'
         '<|message|>{"a": 1}', '{"a": 1}', ""),
    ],
)  # fmt: skip
def test_what_models_write_besides_is_understood(name: str, text: str, arguments: str, content: str) -> None:
    tool = Tool(
        "f",
        {
            "type": "object",
            "properties": {
                "a": {"type": "integer"},
                "b": {"type": "boolean"},
                "s": {"type": "string"},
            },
        },
    )
    for pieces in ([text], list(text)):
        parsed = read(format_named(name).parser((tool,), counter()), pieces)
        assert parsed.calls == [["f", arguments]]
        assert parsed.content == content


def test_analysis_is_reasoning_and_the_final_message_content() -> None:
    text = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hello"
    for pieces in ([text], list(text)):
        parsed = read(format_named("harmony").parser((), counter()), pieces)
        assert (parsed.reasoning, parsed.content) == ("Hm.", "Hello")
    parser = format_named("harmony").parser((), counter())
    parser.push(text[:40])
    assert parser.in_reasoning
    parser.push(text[40:])
    assert not parser.in_reasoning


markup = st.lists(
    st.sampled_from(
        [
            "<tool_call>", "</tool_call>", "\n", '{"name": "now", "arguments": ', "{}", "}", "<function=now>", "x", '"',
            "<parameter=a>", "</parameter>", "</function>", "[", "]", "now(", ")", "a=", "1", ",", "[TOOL_CALLS]",
            "[ARGS]", "<|tool_call_start|>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "<|tool_call>",
            "call:now{", '<|"|>', "<tool_call|>", "now", ":", " ", "\\", "'", "<|channel|>", "<|message|>", "<|end|>",
            "analysis", "commentary to=functions.now", "<|python_tag|>", "<", "<|START_ACTION|>", '"tool_name": "now"',
        ]
    ),
    max_size=14,
)  # fmt: skip


@formats
@settings(max_examples=60, deadline=None)
@given(pieces=markup, marks=st.data())
def test_every_cut_of_any_markup_gives_the_same_parts(
    form: Format, pieces: list[str], marks: st.DataObject
) -> None:
    """Nothing raises either, whatever the model writes."""
    first = marks.draw(st.sampled_from(["", *form.markers]))
    text = first + "".join(pieces)
    ends = sorted({0, len(text), *marks.draw(st.lists(st.integers(0, len(text)), max_size=6))})
    cut = [text[start:end] for start, end in pairwise(ends)]
    whole = read(form.parser((Tool("now"),), counter()), [text])
    assert read(form.parser((Tool("now"),), counter()), cut) == whole
    assert read(form.parser((Tool("now"),), counter()), list(text)) == whole


@formats
def test_cost_is_linear_for_calls_that_are_never_closed(form: Format) -> None:
    rendered = form.render(BUILT_IN[0].calls)
    openings = (rendered[: rendered.index("Taylor")], rendered[: rendered.index("spotify") + 3])

    def cost_s(text: str, size: int) -> float:
        parser = form.parser(BUILT_IN[0].tools, counter())
        gc.disable()  # a collection looks at what all tests before have left
        try:
            started_s = time.thread_time()
            for at in range(0, len(text), size):
                parser.push(text[at : at + size])
            parser.finish()
            return time.thread_time() - started_s
        finally:
            gc.enable()

    for opening in openings:
        for filler in ("a", '{"', "<\n"):
            for size, count in ((1, 400), (1 << 20, 4_000)):
                short = min(cost_s(opening + filler * count, size) for _ in range(3))
                long = min(cost_s(opening + filler * 8 * count, size) for _ in range(2))
                assert long < 20 * short + 0.01, (opening, filler, size, short, long)


def test_a_megabyte_of_an_open_call_is_read_in_seconds() -> None:
    parser = format_named("hermes").parser((Tool("f"),), counter())
    started_s = time.thread_time()
    parser.push('<tool_call>\n{"name": "f", "arguments": {"a": "')
    for _ in range(1 << 8):
        parser.push("ab<\\n" * (1 << 10))
    parser.finish()
    assert time.thread_time() - started_s < 2


@needs_templates
@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_what_released_templates_write_is_read_back(path: Path) -> None:
    """Their own rendering of an assistant's calls is the truth about their formats."""
    form = format_of(path.read_text())
    if form is None or path.stem in NOT_RENDERED:
        assert path.stem in NOT_RENDERED | WITHOUT_FORMAT
        return
    template = ChatTemplate(path.read_text(), {"bos_token": "<s>", "eos_token": "</s>"})
    case = PLAIN_TYPES if path.stem in KNOWS_PLAIN_TYPES_ONLY else BUILT_IN[2]
    tools = [
        {
            "type": "function",
            "function": {"name": tool.name, "description": "d", "parameters": dict(tool.schema)},
        }
        for tool in case.tools
    ]
    user = {"role": "user", "content": "Q?"}
    calls = case.calls[: 1 if form.name in ("llama3", "harmony") else 2]
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": f"call0000{index}",
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
            }
            for index, call in enumerate(calls)
        ],
    }
    before = template.render([user], tools=tools, add_generation_prompt=False)
    prompt = template.render([user, message], tools=tools, add_generation_prompt=False)
    start = next(at for at in range(len(prompt)) if prompt[: at + 1] != before[: at + 1])
    text = prompt[start:]
    for marker in (
        "<|im_end|>",
        "</s>",
        "<|eot_id|>",
        "<turn|>",
        "<|tool_response>",
        "<｜end▁of▁sentence｜>",
    ):
        text = text.removesuffix("\n").removesuffix(marker)
    for lead in ("assistant<|end_header_id|>\n\n", "<|start|>assistant", "<|im_middle|>"):
        text = text.partition(lead)[2] if lead in text else text
    parsed = read(form.parser(case.tools, counter()), [text])
    assert values(parsed) == [(call.name, dict(call.arguments)) for call in calls]
    assert read(form.parser(case.tools, counter()), list(text)) == parsed
    assert not set(form.markers) & set(parsed.content.split())


KNOWS_PLAIN_TYPES_ONLY = {  # writing the functions down, they fail at nested objects and at lists of types
    "CohereForAI-c4ai-command-r-plus-tool_use",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
}
PLAIN_TYPES = Case(
    "plain",
    (
        Tool(
            "find",
            {
                "type": "object",
                "properties": {
                    "where": {"type": "string", "description": "d"},
                    "n": {"type": "integer", "description": "d"},
                    "new": {"type": "boolean", "description": "d"},
                },
                "required": ["where"],
            },
        ),
    ),
    (Call("find", {"where": 'a "b" é\n c', "n": 3, "new": True}), Call("find", {"where": "x"})),
)
NOT_RENDERED = {
    "MiroThinker",  # is no Jinja
    "ibm-granite-granite-3.3-2B-Instruct",  # these leave calls to whoever writes the content
    "LFM2-8B-A1B",
}
WITHOUT_FORMAT = {
    "Apertus-8B-Instruct",
    "GigaChat3-10B-A1.8B",
    "GigaChat3.1-10B-A1.8B",
    "HuggingFaceTB-SmolLM3-3B",
    "LFM2.5-Instruct",  # told by its vocabulary
    "fireworks-ai-llama-3-firefunction-v2",
    "google-gemma-2-2b-it",
    "llama-cpp-rwkv-world",
    "meetkai-functionary-medium-v3.2",
    "microsoft-Phi-3.5-mini-instruct",
}


def test_formats_have_names_and_a_vocabulary_may_tell_one() -> None:
    assert len({form.name for form in FORMATS}) == len(FORMATS)
    for form in FORMATS:
        assert format_named(form.name) is form
    with pytest.raises(InvalidRequest, match="hermes"):
        format_named("nonsense")
    found = format_of('"List of tools: ["', {"<|tool_call_start|>"})
    assert found is not None
    assert found.name == "lfm2"
    assert format_of("{{ messages }}") is None
