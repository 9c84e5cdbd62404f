"""What the compile worker can be asked: plan a schema, write a turn's structure down, try a grammar, check a document.
Runs in the child process.

Answers are plain JSON; an UnsupportedSchema becomes an answer that `raised` turns back into one.
"""

import json
import re
from typing import Any

from llguidance import LLMatcher, LLParserLimits

from basemlx.engine.errors import UnsupportedSchema
from basemlx.engine.grammar.expand import Gap
from basemlx.engine.grammar.llguidance_backend import LIMITS, first_line
from basemlx.engine.grammar.recogniser import FIRST_CONTROL, byte_tokenizer
from basemlx.engine.grammar.schema import SchemaPlan, plan_schema
from basemlx.engine.grammar.structure_json import json_node
from basemlx.engine.grammar.structure_plan import write_structure

_LOOSE = re.compile('"(pattern|patternProperties|format)"')
"""What a plan can do without."""
_CONTROL = re.compile(r"<\[(\d+)\]>")


def answer(task: dict[str, Any]) -> dict[str, Any]:
    """Does one task. Errors are answers, too."""
    try:
        match task["kind"]:
            case "schema":
                plan = _plan(task["schema"], task.get("loosely", False))
                return {
                    "lark": plan.lark,
                    "xgrammar": plan.xgrammar,
                    "remaining": [[gap.keyword, gap.pointer, gap.reason] for gap in plan.remaining],
                }
            case "structure":
                return _structure(task, task.get("loosely", False))
            case "grammar":
                lark = _as_lark(task["grammar"])
                _try(lark)
                return {"lark": lark}
            case "regex":
                return {"lark": _regex(task["regex"])}
            case "document":
                return _check(task["schema"], task["text"])
    except UnsupportedSchema as error:
        return {"error": [error.message, error.keyword, error.pointer]}
    except MemoryError:
        return {"error": ["The schema or grammar takes too much memory to compile.", None, None]}
    except Exception as error:  # a fault of ours must not look like a success, nor take the server down
        return {
            "error": [f"The schema or grammar could not be compiled ({type(error).__name__}).", None, None]
        }
    return {"error": [f"No task is called {task['kind']!r}.", None, None]}


def raised(answered: dict[str, Any]) -> dict[str, Any]:
    """The answer, or the UnsupportedSchema in it."""
    if "error" in answered:
        message, keyword, pointer = answered["error"]
        raise UnsupportedSchema(message, keyword=keyword, pointer=pointer)
    return answered


def plan_in(answered: dict[str, Any]) -> SchemaPlan:
    remaining = tuple(Gap(*gap) for gap in answered["remaining"])
    return SchemaPlan(answered["lark"], remaining, answered["xgrammar"])


def _plan(schema: str, loosely: bool) -> SchemaPlan:
    """Loosely, too, where the grammar turns out to be too large otherwise."""
    plan = plan_schema(schema, loosely=loosely)
    if plan.lark is not None:
        try:
            _try(plan.lark)
        except UnsupportedSchema:
            if loosely or not _LOOSE.search(schema):
                raise
            return _plan(schema, True)
    return plan


def _structure(task: dict[str, Any], loosely: bool) -> dict[str, Any]:
    controls: dict[str, int] = task["controls"]
    written = write_structure(json_node(task["node"]), controls, prefer=task["prefer"], loosely=loosely)
    if written.engine == "llguidance":
        places = {str(token_id): FIRST_CONTROL + at for at, token_id in enumerate(controls.values())}
        trial = _CONTROL.sub(lambda found: f"<[{places.get(found[1], found[1])}]>", written.text)
        try:
            _try(trial, len(controls))
        except UnsupportedSchema:
            if loosely or not _LOOSE.search(json.dumps(task["node"])):
                raise
            return _structure(task, True)
    remaining = [
        [value.pointer, [[gap.keyword, gap.pointer, gap.reason] for gap in gaps]]
        for value, gaps in written.remaining
    ]
    return {"engine": written.engine, "text": written.text, "remaining": remaining}


def remaining_in(answered: dict[str, Any]) -> tuple[tuple[str, tuple[Gap, ...]], ...]:
    """What a structure's grammar leaves to be checked: pointers of values, each with its gaps."""
    return tuple((pointer, tuple(Gap(*gap) for gap in gaps)) for pointer, gaps in answered["remaining"])


def _try(lark: str, num_controls: int = 0) -> None:
    """Compiles the grammar and takes a first step, as serving will."""
    matcher = LLMatcher(
        byte_tokenizer(num_controls),
        LLMatcher.grammar_from_lark(lark),
        limits=LLParserLimits(**LIMITS),
        log_level=0,
    )
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        reason = first_line(matcher.get_error())
        if "panic" in reason:  # an assertion about sizes
            reason = "it is too large for the engine"
        raise UnsupportedSchema(f"The grammar cannot be used: {reason}")


def _as_lark(text: str) -> str:
    if "::=" not in text:
        return text
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        return str(gbnf_to_lark(text))
    except Exception as error:  # whatever the converter meets
        raise UnsupportedSchema(
            f"The grammar is not valid GBNF: {str(error)[:200]}", keyword="grammar"
        ) from None


def _regex(pattern: str) -> str:
    from basemlx.engine.grammar.patterns import UnsupportedPattern, parse_pattern
    from basemlx.engine.grammar.recogniser import TooCostly, is_empty
    from basemlx.engine.grammar.terminals import plain_terminal

    try:
        language = parse_pattern(f"^(?:{pattern})$")
        if is_empty(language):
            raise UnsupportedSchema("The regular expression matches no text.", keyword="regex")
    except (UnsupportedPattern, TooCostly) as error:
        raise UnsupportedSchema(
            f"The regular expression is not supported: {error}.", keyword="regex"
        ) from None
    lark = f"start: T\nT: {plain_terminal(language)}\n"
    _try(lark)
    return lark


def _check(schema: str, text: str) -> dict[str, Any]:
    from basemlx.engine.grammar.validator import violations

    try:
        instance = json.loads(text)
    except ValueError:
        return {"violations": [["", "", "", "the text is not JSON"]]}
    found = violations(json.loads(schema), instance)
    return {"violations": [[v.instance_pointer, v.keyword, v.schema_pointer, v.message] for v in found]}
