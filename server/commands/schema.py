"""`basemlx schema check`: what of a JSON schema would be enforced, and what not. Needs no model and no server."""

import json
import sys
from pathlib import Path
from typing import Any

from basemlx.engine.errors import UnsupportedSchema
from basemlx.engine.grammar import GrammarCompiler
from basemlx.engine.tiny import MODEL_DIR
from basemlx.server.commands.table import print_table
from basemlx.server.commands.terminal import printable
from basemlx.server.settings import SettingsError


def check(file: str, *, as_json: bool) -> int:
    """Prints the plan; the exit code. `file` may be `-`. Raises SettingsError if it cannot be read."""
    report = _report(_read(file))
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        _print_report(report)
    return 0 if report["enforced"] else 1


def _read(file: str) -> str:
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}.", option="FILE") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{file} is not UTF-8 text.", option="FILE") from None


def _report(text: str) -> dict[str, Any]:
    """The plan's own report, with `enforced`: whether strict would take the schema; `error` where it is refused either
    way. What a plan says holds for every model, so the built-in one's tokenizer serves."""
    with GrammarCompiler.from_tokenizer_file(MODEL_DIR / "tokenizer.json") as compiler:
        try:
            plan = compiler.check(text)
        except UnsupportedSchema as error:
            fault = {"message": error.message, "keyword": error.keyword, "pointer": error.pointer}
            return {"enforced": False, "error": fault}
        return {"enforced": plan.is_satisfiable and not plan.remaining, **plan.report()}


def _print_report(report: dict[str, Any]) -> None:
    if "error" in report:
        fault = report["error"]
        print("Refused, strict or not.")
        print_table(("KEYWORD", "AT", "WHY"), [_row(fault["keyword"], fault["pointer"], fault["message"])])
        return
    if not report["satisfiable"]:
        print("Refused, strict or not: no JSON value satisfies the schema.")
        return
    if report["enforced"]:
        print("Enforced in full by its grammar, so strict takes it.")
        return
    print(
        "Not enforced in full: strict refuses it. Without strict, an answer is held to the rest, validated afterwards,"
    )
    print("and the response says with what outcome. What the grammar leaves:\n")
    rows = [_row(gap["keyword"], gap["pointer"], gap["reason"]) for gap in report["remaining"]]
    print_table(("KEYWORD", "AT", "WHY"), rows)


def _row(keyword: str | None, pointer: str | None, why: str) -> tuple[str, str, str]:
    return printable(keyword or "-"), printable(pointer or "(root)"), printable(why)
