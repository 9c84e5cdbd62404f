"""The structure of one turn of a model: reasoning as the prompt left it, then text, calls or a document as was asked.

What is enforced, and when (`Ask`):

- `auto`: text flows freely, without the letters or tokens that begin a call; from these on, a call of one of the tools,
  its name and arguments, and after calls nothing but the end. With a document, calls or the document, no free text.
- `none`: as if there were no tools; the texts that begin a call are impossible.
- `required`: one call or more, and no text. Named functions or `allowed_tools` leave only these.
- `parallel` false: at most one call. Formats that know no second call give one anyway (Llama 3, harmony).
- Arguments follow the tool's schema: under `strict` in full or the request is refused with keyword and pointer, else as
  far as can be, by the plan of the grammar compiler and by the format (`formats.arguments`).
- Reasoning that is open is closed before anything else; where the model may begin it, it comes first or not at all; its
  markers are impossible elsewhere. `max_reasoning_tokens` ends it.

Nothing of this holds where `is_free` says so: then there is nothing to enforce, and no grammar is needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from basemlx.engine.chat.formats.base import Format
from basemlx.engine.chat.parser import ChainedParser, NewId, OutputParser, PlainParser
from basemlx.engine.chat.reasoning import ReasoningParser, ReasoningStyle, State
from basemlx.engine.chat.tools import Tool
from basemlx.engine.errors import UnsupportedParameter
from basemlx.engine.grammar.structure import Json, Node, Or, Regex, Text, Until, either, seq

_GAP = Regex("[ \\n]{0,2}")
"""Between the end of reasoning and what is asked for."""


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`names`: the functions that may be called; None for all."""

    mode: Literal["auto", "none", "required"] = "auto"
    names: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request asks of a turn. `document`: what a response_format wants the answer to be."""

    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = ToolChoice()
    parallel: bool = True
    document: Node | None = None
    max_reasoning_tokens: int | None = None

    @property
    def callable_tools(self) -> tuple[Tool, ...]:
        if self.choice.mode == "none":
            return ()
        names = self.choice.names
        return tuple(tool for tool in self.tools if names is None or tool.name in names)

    @property
    def is_free(self) -> bool:
        return not self.tools and self.document is None and self.max_reasoning_tokens is None


def turn_structure(
    ask: Ask, form: Format | None, style: ReasoningStyle | None = None, state: State = "closed"
) -> Node:
    """What the model may write from the end of the prompt on. Raises InvalidRequest, UnsupportedSchema."""
    if ask.callable_tools and form is None:
        raise UnsupportedParameter(
            "This model's chat template shows no way of calling tools that basemlx knows.", param="tools"
        )
    if style is None or state == "closed":
        return _answer(ask, form, style)
    answer = _answer(ask, form, style)
    reasoned = answer if _takes_space(answer) or (form is not None and form.framed) else seq(_GAP, answer)
    reasoning = seq(Until(style.end, max_tokens=ask.max_reasoning_tokens), reasoned)
    return reasoning if state == "open" else either(seq(style.start, reasoning), answer)


def _takes_space(answer: Node) -> bool:
    """Whether it is free text, to which the white space after reasoning belongs."""
    if isinstance(answer, Or):
        return any(map(_takes_space, answer.options))
    return isinstance(answer, Text) and not answer.not_starting


def _answer(ask: Ask, form: Format | None, style: ReasoningStyle | None) -> Node:
    """What comes after reasoning."""
    markers = (style.start, style.end) if style is not None else ()
    if form is None:
        return ask.document or Text(markers)
    tools = ask.callable_tools
    if not tools:
        return _no_call(ask, form, markers)
    grammar = form.grammar(tools, parallel=ask.parallel)
    calls = seq(grammar.trigger, grammar.rest)
    if ask.choice.mode == "required":
        return calls
    if ask.document is not None:
        return either(calls, form.answer(ask.document, markers))
    if form.framed:
        return either(calls, form.answer(None, markers))
    if grammar.at_start:
        others = "".join(dict.fromkeys(text[0] for text in markers))
        return either(calls, Text(markers, not_starting=f"{grammar.at_start} \n\t{others}"))
    excluded = (grammar.trigger, *markers)
    return either(Text(excluded), seq(Until(grammar.trigger, excluded), grammar.rest))


def _no_call(ask: Ask, form: Format, markers: tuple[str, ...]) -> Node:
    if not ask.tools or ask.document is not None:
        return form.answer(ask.document, markers)
    grammar = form.grammar((Tool("any"),), parallel=False)  # for what a call starts with, whatever the tool
    if grammar.at_start:
        # Only an object, or a list, at the very start would be read as a call; without tools nothing reads one.
        return form.answer(None, markers)
    return form.answer(None, (*filter(None, (grammar.trigger,)), *markers))


def turn_parser(
    ask: Ask,
    form: Format | None,
    style: ReasoningStyle | None,
    state: State,
    new_id: NewId,
    *,
    enforced: bool,
) -> OutputParser:
    """For one choice of a turn that begins in `state`. `enforced`: `turn_structure` holds."""
    reads_reasoning = form is not None and form.reads_reasoning
    calls: OutputParser = PlainParser()
    if form is not None and (ask.callable_tools or form.framed):
        calls = form.parser(ask.callable_tools, new_id, enforced=enforced)
    if style is None or reads_reasoning or (state == "closed" and enforced):
        return calls
    reasoning = ReasoningParser(is_open=state == "open", start=style.start.rstrip(), end=style.end)
    return ChainedParser(reasoning, calls)


def json_document(schema: Mapping[str, Any] | None, *, strict: bool = False, pointer: str = "") -> Json:
    """A response_format's document: by a schema, or any object."""
    return Json({"type": "object"} if schema is None else schema, strict, pointer)
