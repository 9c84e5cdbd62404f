"""From what a request asks of its answer to the grammar that enforces it, and to what is left to be checked after it.

One grammar holds a whole turn: reasoning, then text, calls or a document. A regular expression or a grammar of the
caller's is the whole answer by itself, so it goes neither with tools that may be called nor with open reasoning. Raises
UnsupportedSchema, whose `param` and pointer say where in the request.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from basemlx.engine.chat.formats import new_call_id
from basemlx.engine.chat.parser import OutputParser
from basemlx.engine.chat.reasoning import State
from basemlx.engine.chat.tool_schemas import check_document, check_tools
from basemlx.engine.chat.turn import Ask, json_document, turn_parser, turn_structure
from basemlx.engine.errors import UnsupportedParameter, UnsupportedSchema
from basemlx.engine.grammar.compiler import Compiled, GrammarCompiler
from basemlx.engine.grammar.expand import Gap
from basemlx.engine.grammar.structure import Json, Node, either
from basemlx.engine.openai.chat_request import ChatRequest
from basemlx.engine.openai.check import AnswerCheck
from basemlx.engine.openai.completion_request import CompletionRequest
from basemlx.engine.openai.conduct import Conduct
from basemlx.engine.openai.response_format import AnswerFormat
from basemlx.engine.openai.tools import ToolUse


@dataclass(frozen=True, slots=True)
class TurnPlan:
    """What one request's choices are held to. `constraint` None: nothing is. `check` None: nothing is left to check."""

    ask: Ask = field(default_factory=Ask)
    constraint: Compiled | None = None
    check: AnswerCheck | None = None
    conduct: Conduct | None = field(default=None, repr=False)
    state: State = "closed"

    def parser(self) -> OutputParser:
        """For one choice."""
        conduct, enforced = self.conduct, self.constraint is not None
        form, style = None, None
        if conduct is not None:
            form, style = conduct.form, conduct.style if enforced else conduct.read_style
        return turn_parser(self.ask, form, style, self.state, new_call_id, enforced=enforced)


def check_schemas(request: ChatRequest | CompletionRequest) -> None:
    """What of its schemas can be refused without its model: sizes and shapes. Linear, where compiling may take seconds;
    references that lead nowhere, patterns and what `strict` cannot have are found by that."""
    answer, use = request.answer, request.tool_use if isinstance(request, ChatRequest) else ToolUse()
    with _located(answer.pointer if answer is not None else use.path, tools=use.path):
        check_tools(Ask(tools=use.tools, choice=use.choice).callable_tools)
        if answer is not None and answer.kind == "json_schema":
            check_document(answer.value, answer.pointer)


def plan_turn(
    request: ChatRequest, conduct: Conduct, state: State, cancelled: threading.Event | None = None
) -> TurnPlan:
    """For a chat whose prompt leaves reasoning in `state`. `cancelled` gives it up, and a check of the answer, too."""
    answer, use = request.answer, request.tool_use
    if answer is not None and answer.kind in ("regex", "grammar"):
        return _whole_answer(request, answer, conduct, state, cancelled)
    ask = Ask(
        tools=use.tools,
        choice=use.choice,
        parallel=use.parallel,
        document=None if answer is None else _document(answer),
        max_reasoning_tokens=request.max_reasoning_tokens if conduct.style is not None else None,
    )
    if ask.is_free:
        return TurnPlan(ask, conduct=conduct, state=state)
    default = answer.pointer if answer is not None else use.path
    with _located(default, tools=use.path):
        check_tools(ask.callable_tools)  # once more for whoever did not come through a request's reading
        structure = turn_structure(ask, conduct.form, conduct.style, state)
        constraint = conduct.compiler.compile_structure(structure, cancelled)
    left = dict(constraint.remaining)
    unsaid = _unsaid(ask, conduct)
    # Formats that write one parameter after the other have gaps at a parameter's pointer, below the tool's.
    schemas = {
        tool.name: tool.schema
        for tool in ask.callable_tools
        if tool.name in unsaid
        or any(pointer == tool.pointer or pointer.startswith(f"{tool.pointer}/") for pointer in left)
    }
    document = answer.value if answer is not None and answer.pointer in left else None
    gaps = [gap for pointer in left for gap in left[pointer]] + list(unsaid.values())
    check = AnswerCheck(conduct.compiler, document, schemas, gaps, cancelled) if left or unsaid else None
    return TurnPlan(ask, constraint, check, conduct, state)


def _unsaid(ask: Ask, conduct: Conduct) -> dict[str, Gap]:
    """What the wire format itself cannot say of each function's schema: the first such keyword, which would be
    the refusal if it were strict."""
    found: dict[str, Gap] = {}
    for tool in ask.callable_tools:
        if tool.strict or conduct.form is None:
            continue
        try:
            conduct.form.grammar((replace(tool, strict=True),), parallel=False)
        except UnsupportedSchema as error:
            pointer = (error.pointer or "").removeprefix(tool.pointer)
            found[tool.name] = Gap(error.keyword or "", pointer, "the model's format for calls cannot say it")
    return found


def _whole_answer(
    request: ChatRequest,
    answer: AnswerFormat,
    conduct: Conduct,
    state: State,
    cancelled: threading.Event | None,
) -> TurnPlan:
    if request.tool_use.tools and request.tool_use.choice.mode != "none":
        raise UnsupportedParameter(
            f"{answer.pointer} is the whole answer, so it does not go together with {request.tool_use.path} that may "
            "be called; set tool_choice to none, or ask for a schema.",
            param=answer.pointer,
        )
    if state == "open":
        raise UnsupportedParameter(
            f"{answer.pointer} does not go together with reasoning; turn it off "
            "(chat_template_kwargs.enable_thinking false, or reasoning_effort none).",
            param=answer.pointer,
        )
    # What is held to a pattern has no reasoning and no calls: all of it is the answer.
    return TurnPlan(constraint=compile_answer(answer, conduct.compiler, cancelled))


def _document(answer: AnswerFormat) -> Node:
    if answer.kind == "choice":
        return either(*answer.value)
    if answer.kind == "json_object":
        return json_document(None, pointer=answer.pointer)
    return Json(_as_mapping(answer.value), answer.strict, answer.pointer)


def compile_answer(
    answer: AnswerFormat, compiler: GrammarCompiler, cancelled: threading.Event | None = None
) -> Compiled:
    """For an answer that is nothing else: a text completion's."""
    with _located(answer.pointer):
        match answer.kind:
            case "regex":
                return compiler.compile_regex(answer.value, cancelled)
            case "grammar":
                return compiler.compile_grammar(answer.value, cancelled)
            case "choice":
                return compiler.compile_choice(answer.value, cancelled)
            case "json_object":
                return compiler.compile_json_object(cancelled)
        return compiler.compile_json_schema(answer.value, answer.strict, cancelled)


@contextmanager
def _located(default: str, *, tools: str = "tools") -> Iterator[None]:
    """Gives an UnsupportedSchema the path of the request's field it is about: what stands before its JSON Pointer.
    `tools`: the field that tools came in."""
    try:
        yield
    except UnsupportedParameter as error:
        if error.param == "tools":
            error.param = tools
        raise
    except UnsupportedSchema as error:
        if error.param is None:
            error.param = (error.pointer or "").partition("/")[0] or default
        raise


def check_of(
    answer: AnswerFormat,
    constraint: Compiled,
    compiler: GrammarCompiler,
    cancelled: threading.Event | None = None,
) -> AnswerCheck | None:
    """What is left to check of an answer compiled by `compile_answer`."""
    if not constraint.needs_check or constraint.plan is None:
        return None
    return AnswerCheck(compiler, answer.value, {}, list(constraint.plan.remaining), cancelled)


def _as_mapping(schema: Any) -> Mapping[str, Any]:
    """Boolean schemas as objects: true allows anything, false nothing."""
    if isinstance(schema, bool):
        return {} if schema else {"not": {}}
    return dict(schema)
