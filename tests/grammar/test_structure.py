"""A structure means the same to both engines, and what it means: calls as asked, control tokens in their places
only."""

import random
from typing import Any

import numpy as np
import pytest

from basemlx.engine.chat.formats import FORMATS, Format, format_named
from basemlx.engine.chat.reasoning import ReasoningStyle, State
from basemlx.engine.chat.tools import Tool
from basemlx.engine.chat.turn import Ask, ToolChoice, json_document, turn_structure
from basemlx.engine.errors import UnsupportedSchema
from basemlx.engine.grammar import GrammarCompiler
from basemlx.engine.grammar.llguidance_backend import LLGuidanceGrammar
from basemlx.engine.grammar.structure import Const, Json, Node, Repeat, Text, Until, either, optional, seq
from basemlx.engine.grammar.structure_llguidance import lark
from basemlx.engine.grammar.structure_plan import write_structure
from basemlx.engine.grammar.xgrammar_backend import XGrammarGrammar
from tests.chat.wire import BFCL, BUILT_IN, Case, bfcl, bfcl_sample
from tests.grammar.conftest import TOKENIZER
from tests.grammar.engines import QWEN, Engines, accepted, with_letters, with_markers

formats = pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
needs_bfcl = pytest.mark.skipif(not BFCL.is_dir() or not QWEN.is_file(), reason="BFCL is not on this machine")
THINK = ReasoningStyle()
QUERY = {
    "type": "object",
    "properties": {"q": {"type": "string"}},
    "required": ["q"],
    "additionalProperties": False,
}
TOOLS = (
    Tool(
        "get",
        {
            "type": "object",
            "properties": {
                "where": {"type": "string"},
                "n": {"type": "integer"},
                "all": {"type": "boolean"},
            },
            "required": ["where"],
            "additionalProperties": False,
        },
    ),
    Tool(
        "get_it",
        {
            "type": "object",
            "properties": {"kind": {"enum": ["a", "b"]}, "note": {"type": ["string", "null"]}},
            "additionalProperties": False,
        },
    ),
)
ENGINES = (with_markers, with_letters)


def written(form: Format, case: Case) -> str:
    calls = case.in_declared_order.calls
    if form.name in ("llama3", "harmony"):
        calls = calls[:1]
    return form.render(calls).removesuffix("<|call|>")  # which ends the turn there


@formats
@pytest.mark.parametrize("case", BUILT_IN, ids=lambda case: case.name)
def test_a_formats_grammar_accepts_the_calls_that_it_renders(form: Format, case: Case) -> None:
    text = written(form, case)
    for engines in ENGINES:
        for mode in ("auto", "required"):
            node = turn_structure(Ask(case.tools, ToolChoice(mode)), form)
            assert engines().accepts(node, text)
            assert not engines().accepts(node, text[:-1])


@needs_bfcl
@formats
def test_bfcl_calls_are_accepted_over_the_qwen3_vocabulary(form: Format, qwen: Engines) -> None:
    accepts_bfcl(form, qwen, [case for case in bfcl_sample(230) if case.is_valid])


@pytest.mark.slow
@needs_bfcl
@formats
def test_every_bfcl_call_that_is_valid_is_accepted(form: Format, qwen: Engines) -> None:
    """By llguidance; the engines' agreement is other tests' matter."""
    for case in bfcl():
        if case.is_valid:
            text = written(form, case)
            grammar = qwen.llguidance(turn_structure(Ask(case.tools, ToolChoice("required")), form))
            token_ids = qwen.ids(text)
            assert accepted(grammar, token_ids) == len(token_ids) + 1, text


def accepts_bfcl(form: Format, engines: Engines, cases: list[Case]) -> None:
    for case in cases:
        text = written(form, case)
        assert engines.accepts(turn_structure(Ask(case.tools, ToolChoice("required")), form), text), text


@pytest.fixture(scope="module")
def qwen() -> Engines:
    return Engines(QWEN)


def some_ask(random_: random.Random, engines: Engines) -> tuple[Ask, Format, ReasoningStyle | None, State]:
    bounded = engines is with_markers() and random_.random() < 0.3
    ask = Ask(
        random_.choice((TOOLS, TOOLS[:1])),
        ToolChoice(random_.choice(("auto", "none", "required"))),
        parallel=random_.random() < 0.5,
        document=random_.choice((None, None, json_document(QUERY))),
        max_reasoning_tokens=3 if bounded else None,
    )
    states: tuple[State, ...] = ("open", "closed", "allowed")
    return ask, random_.choice(FORMATS), random_.choice((None, THINK)), random_.choice(states)


@pytest.mark.parametrize("seed", range(8))
def test_at_every_step_of_a_random_walk_both_engines_allow_the_same_tokens(seed: int) -> None:
    """Of tokens that are whole characters. In JSON strings the engines differ about U+007F and some escapes."""
    random_ = random.Random(seed)
    for _ in range(9):
        engines = random_.choice(ENGINES)()
        node = turn_structure(*some_ask(random_, engines))
        walk(engines, node, random_)


def walk(engines: Engines, node: Node, random_: random.Random) -> None:
    compared = comparable(engines)
    controls = set(engines.controls.values())
    xgrammar, llguidance = (grammar.matcher() for grammar in engines.both(node))
    so_far: list[int] = []
    for _ in range(60):
        first, second = engines.allowed(xgrammar) & compared, engines.allowed(llguidance) & compared
        assert not (second & ~first).any(), (engines.text(so_far), np.flatnonzero(second & ~first)[:5])
        # Where only one text is possible llguidance's mask has only the tokens that spell it as the model would, though
        # it accepts others as well.
        for token_id in np.flatnonzero(first & ~second)[:6]:
            other = llguidance.fork()
            assert other.accept(int(token_id)), (engines.text(so_far), engines.text([int(token_id)]))
        choices = [int(token_id) for token_id in np.flatnonzero(first)]
        special = [token_id for token_id in choices if token_id in controls]
        if not choices:
            return  # a character that no single token is
        token_id = random_.choice(special if special and random_.random() < 0.25 else choices)
        so_far.append(token_id)
        assert xgrammar.accept(token_id)
        assert llguidance.accept(token_id)
        if xgrammar.is_terminated:
            return


def comparable(engines: Engines) -> Any:
    found = np.zeros(engines.vocabulary.size, dtype=np.bool_)
    controls = set(engines.controls.values())
    for token_id, token in enumerate(engines.vocabulary.tokens):
        try:
            found[token_id] = token_id in controls or not {"\x01", "\x7f", "\\"} & set(token.decode())
        except UnicodeDecodeError:
            continue
    return found


@formats
def test_free_text_has_no_control_token_but_where_a_call_may_begin(form: Format) -> None:
    engines = with_markers()
    for mode, some in (("auto", True), ("none", False)):
        node = turn_structure(Ask(TOOLS, ToolChoice(mode)), form)
        for grammar in engines.both(node):
            matcher = grammar.matcher()
            if form.framed:
                for token_id in engines.ids(
                    {"harmony": "<|channel|>final<|message|>"}.get(form.name, "<|START_RESPONSE|>")
                ):
                    assert matcher.accept(token_id)
                some = False
            for token_id in engines.ids("Hello"):
                assert matcher.accept(token_id)
            allowed = engines.allowed(matcher)
            ends = engines.vocabulary.eos_token_ids
            controls = {
                text
                for text, token_id in engines.controls.items()
                if allowed[token_id] and token_id not in ends
            }
            trigger = form.grammar(TOOLS, parallel=True).trigger
            expected = {text for text in engines.controls if some and trigger.startswith(text)}
            assert controls - {"<|END_RESPONSE|>"} == expected


@formats
def test_none_makes_a_call_impossible_in_tokens_and_in_letters(form: Format) -> None:
    if form.name in ("llama3", "pythonic"):
        return  # nothing marks a call there; without tools nothing is read as one
    for engines in ENGINES:
        node = turn_structure(Ask(BUILT_IN[0].tools, ToolChoice("none")), form)
        text = written(form, BUILT_IN[0])
        for spelled in (engines().ids(text), engines().vocabulary.spell(text)):
            for grammar in engines().both(node):
                assert accepted(grammar, spelled) <= len(spelled)


def hermes(mode: Any = "auto", names: tuple[str, ...] | None = None, **asked: Any) -> Node:
    return turn_structure(
        Ask(TOOLS, ToolChoice(mode, names), **asked), format_named("hermes"), THINK, "closed"
    )


GET = '<tool_call>\n{"name": "get", "arguments": {"where": "here"}}\n</tool_call>'
GET_IT = '<tool_call>\n{"name": "get_it", "arguments": {}}\n</tool_call>'
DOCUMENT = '{"q": "x"}'


@pytest.mark.parametrize(
    ("node", "accepts", "refuses"),
    [
        (hermes(), ("Hi.", "", f"Hi.\n{GET}", f"{GET}\n{GET_IT}"), (f"{GET} more", "<think>x</think>", f"{GET}{GET}")),
        (hermes(parallel=False), ("Hi.", GET, f"Hi. {GET}"), (f"{GET}\n{GET_IT}",)),
        (hermes("none"), ("Hi.", DOCUMENT), (GET, f"Hi. {GET}", "<tool_call>")),
        (hermes("required"), (GET, f"{GET}\n{GET}"), ("", "Hi.", f"Hi. {GET}", f" {GET}")),
        (hermes("required", ("get_it",)), (GET_IT, f"{GET_IT}\n{GET_IT}"), (GET, "Hi.")),
        (hermes("auto", ("get_it",)), (GET_IT, "Hi."), (GET,)),
        (hermes("required", parallel=False), (GET,), (f"{GET}\n{GET}",)),
        (hermes(document=json_document(QUERY)), (GET, DOCUMENT, f"{GET}\n{GET}"), ("Hi.", f"{DOCUMENT}{GET}", "{}",
        "")), (hermes("none", document=json_document(QUERY)), (DOCUMENT,), (GET, "Hi.")),
        (hermes("required", document=json_document(QUERY)), (GET,), (DOCUMENT, "Hi.")),
        (hermes("none", document=json_document(None)), ("{}", '{"a": [1, {}]}'), ("[]", "1", "{} x")),
        (
            hermes(),
            (),
            (
                GET.replace("get", "got"),
                GET.replace('"here"', "5"),
                GET.replace('{"where": "here"}', "{}"),
                GET.replace('"here"', '"here", "x": 1'),
                "<tool_call>",
                f"{GET[:-12]}",
            ),
        ),
    ],
)  # fmt: skip
def test_a_turn_is_as_it_was_asked_for(
    node: Node, accepts: tuple[str, ...], refuses: tuple[str, ...]
) -> None:
    for engines in ENGINES:
        for text in accepts:
            assert engines().accepts(node, text), text
        for text in refuses:
            assert not engines().accepts(node, text), text


@pytest.mark.parametrize(
    ("state", "asked", "accepts", "refuses"),
    [
        (
            "open",
            {},
            ("hm</think>\n\nHi.", "</think>", f"hm\n</think>\n\n{GET}"),
            ("Hi.", "<think>hm</think>Hi.", "a</think>b</think>"),
        ),
        ("allowed", {}, ("<think>hm</think>\n\nHi.", "Hi.", GET), ("Hi. <think>hm</think>", "<think>hm")),
        ("closed", {}, ("Hi.", GET), ("<think>hm</think>Hi.", "</think>Hi.")),
        (
            "open",
            {"document": json_document(QUERY), "choice": ToolChoice("none")},
            (f"hm</think>\n\n{DOCUMENT}", f"</think>{DOCUMENT}"),
            (DOCUMENT, "hm</think>Hi."),
        ),
        (
            "open",
            {"choice": ToolChoice("required")},
            (f"hm\n</think>\n\n{GET}",),
            (f"hm</think>Hi.{GET}", GET, f"{GET}</think>{GET} "),
        ),
    ],
)  # fmt: skip
def test_reasoning_comes_first_is_closed_and_is_bounded(
    state: State, asked: dict[str, Any], accepts: tuple[str, ...], refuses: tuple[str, ...]
) -> None:
    node = turn_structure(Ask(TOOLS, **asked), format_named("hermes"), THINK, state)
    engines = with_letters()
    for text in accepts:
        assert engines.accepts(node, text), text
    for text in refuses:
        assert not engines.accepts(node, text), text


def test_reasoning_of_as_many_tokens_as_are_allowed_is_closed() -> None:
    """xgrammar says so in its masks only."""
    engines = with_letters()
    node = turn_structure(Ask(TOOLS, max_reasoning_tokens=4), format_named("hermes"), THINK, "open")
    end = engines.controls["</think>"]
    for grammar in engines.both(node):
        matcher = grammar.matcher()
        for _ in range(4):
            allowed = engines.allowed(matcher)
            assert allowed[end]
            token_id = engines.ids(" a")[0]
            assert allowed[token_id]
            assert matcher.accept(token_id)
        assert list(np.flatnonzero(engines.allowed(matcher))) == [end]


def test_a_bound_that_no_token_can_end_is_refused_by_name() -> None:
    node = seq(Until("[/THINK]", max_tokens=5), Text())
    with pytest.raises(UnsupportedSchema, match="cannot be bounded"):
        lark(node, {})


def test_control_tokens_of_one_grammar_are_not_taken_for_anothers() -> None:
    """xgrammar's compile cache does that with its `token` format."""
    engines = with_markers()
    for name in ("</think>", "</tool_call>", "<tool_call>", "[ARGS]"):
        node = seq(Until(name), "ok")
        assert engines.accepts(node, f"a b c{name}ok")
        assert not engines.accepts(node, "a b c[TOOL_CALLS]ok")


@pytest.mark.parametrize(
    ("node", "accepts", "refuses"),
    [
        (Repeat(Const("ab"), 2, 3), ("abab", "ababab"), ("ab", "abababab", "")),
        (Repeat(Const("a"), 1, None, separator=Const(", ")), ("a", "a, a, a"), ("", "a,", "a, ")),
        (Repeat(Const("a"), 0, 2, separator=Const("-")), ("", "a", "a-a"), ("a-a-a", "-")),
        (seq("x", optional("y"), either("1", "2")), ("x1", "xy2"), ("xy", "x12")),
        (seq("<a>", Until("\n</a>\n", ("</a>",)), "."), ("<a>x\n</a>\n.", "<a>\n\n\n</a>\n."), ("<a>x</a>\n.",
        "<a></a>\n</a>\n.")), (Text(not_starting="{ "), ("", "a{", "é"), ("{", " a")),
        (Text(("<b>",)), ("<b", "<b >b>"), ("<b>", "a<b>c")),
        (seq(Json({"type": "integer"}), "\n."), ("5\n.", "-10\n."), ("5.", "x\n.")),
    ],
)  # fmt: skip
def test_pieces_mean_what_they_say(node: Node, accepts: tuple[str, ...], refuses: tuple[str, ...]) -> None:
    for text in accepts:
        assert with_letters().accepts(node, text), text
    for text in refuses:
        assert not with_letters().accepts(node, text), text


def test_strict_arguments_are_enforced_in_full_or_refused_with_keyword_and_pointer() -> None:
    schema = {"type": "object", "properties": {"x": {"type": "string", "pattern": "^(a)\\1$"}}}
    node = turn_structure(
        Ask((Tool("f", schema, strict=True, pointer="/tools/0/function/parameters"),)), format_named("hermes")
    )
    with pytest.raises(UnsupportedSchema) as refusal:
        write_structure(node, {})
    assert refusal.value.keyword == "pattern"
    assert refusal.value.pointer == "/tools/0/function/parameters/properties/x/pattern"
    relaxed = write_structure(turn_structure(Ask((Tool("f", schema),)), format_named("hermes")), {})
    assert relaxed.engine == "llguidance"
    assert [gap.keyword for _, gaps in relaxed.remaining for gap in gaps] == ["pattern"]
    bounded = {"type": "object", "properties": {"x": {"type": "string", "maxLength": 3}}}
    with pytest.raises(UnsupportedSchema) as refusal:
        turn_structure(Ask((Tool("f", bounded, strict=True, pointer="/p"),)), format_named("qwen-xml"))
    assert (refusal.value.keyword, refusal.value.pointer) == ("maxLength", "/p/properties/x/maxLength")


def test_a_turn_goes_to_xgrammar_only_where_that_is_exact() -> None:
    engines = with_letters()
    node = hermes("required", ("get",))
    assert write_structure(node, engines.controls).engine == "xgrammar"
    assert write_structure(node, engines.controls, prefer="llguidance").engine == "llguidance"
    open_tool = Tool("f", {"type": "object", "properties": {"a": {"type": "string"}}})
    node = turn_structure(Ask((open_tool,), ToolChoice("required")), format_named("hermes"))
    assert write_structure(node, engines.controls).engine == "llguidance"


def test_a_large_turn_does_not_go_to_xgrammar_whose_compiler_cannot_be_stopped() -> None:
    def turn(num_functions: int) -> Node:
        schema = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}
        tools = tuple(Tool(f"f{at}", schema) for at in range(num_functions))
        return turn_structure(Ask(tools, ToolChoice("required")), format_named("hermes"))

    with GrammarCompiler.from_tokenizer_file(TOKENIZER) as compiler:
        assert isinstance(compiler.compile_structure(turn(2)).grammar, XGrammarGrammar)
        assert isinstance(compiler.compile_structure(turn(40)).grammar, LLGuidanceGrammar)
