"""How faithfully JSON schemas are enforced: the official test suite, ours beside raw xgrammar and llguidance, in one
run.

    python bench/conformance.py [--suite FOLDER] [--tokenizer FILE] [--only strict …] [--list]
    python bench/conformance.py --calls [--sample N]

An instance is written as compact JSON and, if valid, also with its keys in the order in which the schema declares
them; it counts as accepted if either text is. A group of the suite is `right` if every valid instance is accepted and
every invalid one refused; `leaky` if an invalid one is accepted, `tight` if a valid one is refused. `--calls` looks at
BFCL's calls in every wire format instead (`calls`).
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from basemlx.engine.errors import UnsupportedSchema
from basemlx.engine.grammar import GrammarCompiler

HERE = Path(__file__).parent
DATA = HERE.parent.parent / "shared" / "data"
SUITE = DATA / "json-schema-test-suite" / "tests" / "draft2020-12"
BFCL = DATA / "bfcl"
QWEN = DATA / "tokenizers" / "qwen3" / "tokenizer.json"
TINY = HERE.parent / "engine" / "tiny" / "model" / "tokenizer.json"
QWEN_LOGITS = 151_936

Accepts = Callable[[str], bool]
Compile = Callable[[Any], Accepts]


class Refused(Exception):
    """The engine refuses the schema; the text says why."""


@dataclass
class Result:
    """One engine's run over the suite."""

    groups: int = 0
    right: int = 0
    refused: int = 0
    leaky: int = 0
    tight: int = 0
    valid_accepted: int = 0
    valid: int = 0
    invalid_accepted: int = 0
    invalid: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", type=Path, default=SUITE, help="folder of the suite's JSON files")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json; Qwen3's where it is, else our own")
    parser.add_argument("--only", nargs="*", choices=["strict", "checked", "xgrammar", "llguidance"])
    parser.add_argument("--list", action="store_true", help="name every group that is not right")
    parser.add_argument(
        "--calls", action="store_true", help="BFCL's calls in every wire format, and what is left out"
    )
    parser.add_argument("--sample", type=int, default=100, help="of --calls: about how many cases")
    options = parser.parse_args()
    if options.calls:
        return calls(options.tokenizer, options.sample)
    if not options.suite.is_dir():
        print(
            f"No test suite at {options.suite}: get json-schema-org/JSON-Schema-Test-Suite and name its folder."
        )
        return 2
    tokenizer = options.tokenizer or (QWEN if QWEN.exists() else TINY)
    width = QWEN_LOGITS if tokenizer == QWEN else None
    groups = [
        (f"{path.relative_to(options.suite)}: {group['description']}", group)
        for path in sorted(options.suite.rglob("*.json"))
        for group in json.loads(path.read_text("utf-8"))
    ]
    print(f"{len(groups)} groups, tokenizer {tokenizer.parent.name}/{tokenizer.name}")
    results: dict[str, Result] = {}
    with GrammarCompiler.from_tokenizer_file(tokenizer, width) as compiler:
        engines: dict[str, Callable[[], Compile]] = {
            "strict": lambda: ours(compiler, strict=True),
            "checked": lambda: ours(compiler, strict=False),
            "xgrammar": lambda: raw_xgrammar(compiler),
            "llguidance": lambda: raw_llguidance(compiler),
        }
        for name, make in engines.items():
            if not options.only or name in options.only:
                results[name] = run(groups, make())
    report(results)
    if options.list:
        for name, result in results.items():
            print(*(f"{name}: {note}" for note in result.notes), sep="\n")
    strict = results.get("strict")
    return int(strict is not None and strict.invalid_accepted > 0)


def calls(tokenizer: Path | None, sample: int) -> int:
    from calls import report_calls

    if not BFCL.is_dir():
        print(f"No BFCL at {BFCL}.")
        return 2
    with GrammarCompiler.from_tokenizer_file(tokenizer or (QWEN if QWEN.exists() else TINY)) as compiler:
        return int(not report_calls(BFCL, compiler, sample))


def run(groups: list[tuple[str, dict[str, Any]]], compile_schema: Compile) -> Result:
    result = Result(groups=len(groups))
    started = time.perf_counter()
    for name, group in groups:
        try:
            accepts = compile_schema(group["schema"])
        except Refused as error:
            result.refused += 1
            result.notes.append(f"refused {name}: {error}")
            continue
        leaks, misses = [], []
        for test in group["tests"]:
            accepted = any(accepts(text) for text in texts(test["data"], group["schema"], test["valid"]))
            if test["valid"]:
                result.valid += 1
                result.valid_accepted += accepted
                misses += [] if accepted else [test["description"]]
            else:
                result.invalid += 1
                result.invalid_accepted += accepted
                leaks += [test["description"]] if accepted else []
        result.leaky += bool(leaks)
        result.tight += bool(misses)
        result.right += not leaks and not misses
        if leaks:
            result.notes.append(f"leaky   {name}: {leaks[0]}")
        if misses:
            result.notes.append(f"tight   {name}: {misses[0]}")
    result.seconds = time.perf_counter() - started
    return result


def texts(value: Any, schema: Any, is_valid: bool) -> list[str]:
    found = [json.dumps(value, separators=(",", ":"), ensure_ascii=False)]
    if is_valid:
        ordered = json.dumps(in_order(value, schema), separators=(",", ":"), ensure_ascii=False)
        if ordered != found[0]:
            found.append(ordered)
    return found


def in_order(value: Any, schema: Any) -> Any:
    """Keys that `properties` declares first, in its order."""
    declared = schema.get("properties") if isinstance(schema, dict) else None
    declared = declared if isinstance(declared, dict) else {}
    if isinstance(value, dict):
        keys = [key for key in declared if key in value] + [key for key in value if key not in declared]
        return {key: in_order(value[key], declared.get(key)) for key in keys}
    if isinstance(value, list):
        items = schema.get("items") if isinstance(schema, dict) else None
        return [in_order(item, items) for item in value]
    return value


def ours(compiler: GrammarCompiler, strict: bool) -> Compile:
    def compile_schema(schema: Any) -> Accepts:
        try:
            return compiler.compile_json_schema(schema, strict=strict).accepts
        except UnsupportedSchema as error:
            if strict and error.keyword is None and error.pointer is None:
                raise AssertionError("refused without keyword or pointer") from error
            raise Refused(f"{error.keyword} at {error.pointer or 'the root'}") from None

    return compile_schema


def raw_xgrammar(compiler: GrammarCompiler) -> Compile:
    """xgrammar's own schema compiler, with the settings that say what JSON Schema says."""
    from basemlx.engine.grammar.xgrammar_backend import XGrammarBackend

    backend = XGrammarBackend(compiler.vocabulary)

    def compile_schema(schema: Any) -> Accepts:
        try:
            grammar = backend.compile_unchecked(schema)
        except UnsupportedSchema as error:
            raise Refused(error.message.splitlines()[0][:80]) from None
        return lambda text: grammar.matcher().accepts_bytes(text.encode("utf-8", "surrogatepass"))

    return compile_schema


def raw_llguidance(compiler: GrammarCompiler) -> Compile:
    """llguidance's own schema compiler."""
    from llguidance import LLMatcher

    def compile_schema(schema: Any) -> Accepts:
        try:
            grammar = compiler.backend.compile_lark(LLMatcher.grammar_from_json_schema(schema))
        except (UnsupportedSchema, ValueError) as error:
            raise Refused(str(error).splitlines()[0][:80]) from None
        return lambda text: grammar.matcher().accepts_bytes(text.encode())

    return compile_schema


def report(results: dict[str, Result]) -> None:
    print(f"\n{'engine':12}{'right':>7}{'refused':>9}{'leaky':>7}{'tight':>7}", end="")
    print(f"{'valid accepted':>17}{'invalid accepted':>18}{'seconds':>9}")
    for name, result in results.items():
        print(
            f"{name:12}{result.right:7}{result.refused:9}{result.leaky:7}{result.tight:7}"
            f"{f'{result.valid_accepted}/{result.valid}':>17}{f'{result.invalid_accepted}/{result.invalid}':>18}"
            f"{result.seconds:9.1f}"
        )
    print("\nstrict: what is not enforced in full is refused. checked: not strict, validated afterwards.")


if __name__ == "__main__":
    sys.exit(main())
