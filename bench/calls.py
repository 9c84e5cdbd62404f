"""BFCL's calls in every wire format: `python bench/conformance.py --calls [--sample N]`.

The ground truth of the Berkeley Function Calling Leaderboard is rendered as each model family would write it, read back
whole and character by character, and given to the grammar that such a turn is held to. Cases whose own ground truth
breaks the function's schema cannot be accepted by a faithful grammar: they are read back like the others, left out of
the grammar's count, and printed with the reason.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from basemlx.engine.chat.formats import FORMATS, Format
from basemlx.engine.chat.parser import ToolCallArguments, ToolCallStart
from basemlx.engine.chat.tools import Call, Tool
from basemlx.engine.chat.turn import Ask, ToolChoice, turn_structure
from basemlx.engine.errors import BaseMLXError
from basemlx.engine.grammar import GrammarCompiler

KINDS = ("simple_python", "multiple", "parallel", "parallel_multiple")
ONE_CALL = ("llama3", "harmony")
"""Formats whose turn holds one call."""
_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": None}


@dataclass(frozen=True)
class Case:
    name: str
    tools: tuple[Tool, ...]
    calls: tuple[Call, ...]

    @property
    def excluded(self) -> str | None:
        """Why no grammar of its functions can accept it."""
        schemas = {tool.name: tool.schema for tool in self.tools}
        for call in self.calls:
            schema = schemas[call.name]
            if unknown := set(call.arguments) - set(schema.get("properties", {})):
                return f"{call.name}: {', '.join(sorted(unknown))} is not declared"
            for error in Draft202012Validator(schema).iter_errors(dict(call.arguments)):
                return f"{call.name}{error.json_path[1:]}: {error.message[:80]}"
        return None


def report_calls(folder: Path, compiler: GrammarCompiler, sample: int) -> bool:
    """Whether everything was read back, and accepted where it can be."""
    cases = list(bfcl(folder))
    chosen = cases[:: max(1, len(cases) // sample)]
    reasons = {case.name: case.excluded for case in cases}
    print(f"{len(cases)} cases of BFCL, {len(chosen)} of them here\n")
    print(f"{'format':20}{'read back whole':>17}{'by character':>14}{'accepted':>14}")
    is_good = True
    for form in FORMATS:
        own = [case for case in chosen if len(case.calls) == 1 or form.name not in ONE_CALL]
        whole = sum(_reads_back(form, case, [form.render(case.calls)]) for case in own)
        cut = sum(_reads_back(form, case, list(form.render(case.calls))) for case in own)
        can_be = [case for case in own if reasons[case.name] is None]
        accepted = [case for case in can_be if _accepts(compiler, form, case)]
        is_good = is_good and whole == cut == len(own) and len(accepted) == len(can_be)
        counts = (f"{whole}/{len(own)}", f"{cut}/{len(own)}", f"{len(accepted)}/{len(can_be)}")
        print(f"{form.name:20}{counts[0]:>17}{counts[1]:>14}{counts[2]:>14}", flush=True)
        for case in can_be:
            if case not in accepted:
                print(f"  not accepted: {case.name}")
    left_out = {name: reason for name, reason in reasons.items() if reason is not None}
    print(f"\nleft out of the last column, of all {len(cases)}: {len(left_out)}")
    for name, reason in left_out.items():
        print(f"  {name}: {reason}")
    return is_good


def _reads_back(form: Format, case: Case, pieces: Sequence[str]) -> bool:
    numbers = iter(range(1000))
    parser = form.parser(case.tools, lambda: f"call_{next(numbers)}")
    found: list[list[str]] = []
    for events in (*map(parser.push, pieces), parser.finish()):
        for event in events:
            if isinstance(event, ToolCallStart):
                found.append([event.name, ""])
            elif isinstance(event, ToolCallArguments):
                found[-1][1] += event.text
    wanted = [(call.name, dict(call.arguments)) for call in case.calls]
    return [(name, json.loads(arguments or "{}")) for name, arguments in found] == wanted


def _accepts(compiler: GrammarCompiler, form: Format, case: Case) -> bool:
    text = form.render(tuple(_in_order(call, case) for call in case.calls))
    text = text.removesuffix("<|call|>")  # harmony's end of the turn
    try:
        grammar = compiler.compile_structure(
            turn_structure(Ask(case.tools, ToolChoice("required")), form)
        ).grammar
    except BaseMLXError:
        return False
    assert grammar is not None
    matcher = grammar.matcher()
    return all(map(matcher.accept, compiler.vocabulary.encode(text))) and matcher.is_complete


def _in_order(call: Call, case: Case) -> Call:
    """A grammar wants arguments in the order in which they are declared."""
    order = list(next(tool for tool in case.tools if tool.name == call.name).schema.get("properties", {}))
    return Call(call.name, {key: call.arguments[key] for key in sorted(call.arguments, key=order.index)})


def bfcl(folder: Path) -> Iterator[Case]:
    for kind in KINDS:
        answers = {row["id"]: row["ground_truth"] for row in _rows(folder / f"{kind}.answers.jsonl")}
        for row in _rows(folder / f"{kind}.jsonl"):
            tools = tuple(Tool(each["name"], _schema(each["parameters"])) for each in row["function"])
            calls = tuple(
                Call(name, {key: _value(options[0]) for key, options in given.items() if options[0] != ""})
                for answer in answers[row["id"]]
                for name, given in answer.items()
            )
            yield Case(row["id"], tools, calls)


def _rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _schema(schema: Any) -> Any:
    """With JSON Schema's names of types."""
    if isinstance(schema, list):
        return [_schema(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _schema(part) for key, part in schema.items()}
    if isinstance(kind := found.get("type"), str) and kind in _TYPES:
        found["type"] = _TYPES[kind]
        if found["type"] is None:
            del found["type"]
    return found


def _value(value: Any) -> Any:
    """Within objects, each value stands in a list of those that are right."""
    if not isinstance(value, dict):
        return value
    firsts = {key: given[0] if isinstance(given, list) and given else given for key, given in value.items()}
    return {key: _value(first) for key, first in firsts.items() if first != ""}
