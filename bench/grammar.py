"""What grammars cost: compiling and filling masks, ours beside raw xgrammar and llguidance, in one run.

    python bench/grammar.py [--tokenizer FILE] [--sample N] [--skip-xgrammar] [--decode [FOLDER]] [--rounds N] [--ways]

Schemas: the functions of the Berkeley Function Calling Leaderboard and the official JSON Schema test suite. Compiling
ours means all of it: limits, the worker process and back, and the engine. Masks are filled along real tokens of
ground-truth arguments and of the suite's valid instances, the first visit of each place counted. Times are of one
thread; the first schema's includes starting the worker. `--decode` measures instead what a grammar costs while a model
decodes (`grammar_decode`), `--ways` two ways that we did not take (`grammar_ways`).
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from conformance import QWEN, QWEN_LOGITS, SUITE, TINY, in_order

from basemlx.engine.chat.formats import format_named
from basemlx.engine.chat.tools import Call, Tool
from basemlx.engine.chat.turn import Ask, ToolChoice, turn_structure
from basemlx.engine.errors import BaseMLXError
from basemlx.engine.grammar import GrammarCompiler
from basemlx.engine.grammar.backend import CompiledGrammar
from basemlx.engine.grammar.vocabulary import Vocabulary

BFCL = SUITE.parents[2] / "bfcl"
_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": None}

Case = tuple[Any, list[Any]]  # schema, valid instances; or a turn's structure, and texts
PROSE = (
    "I will look that up, one moment.\n\nIt is <b>not</b> hard if 3 < 4: see [1] and {2}.\n"
    "```html\n<p>Hello</p>\n```\n"
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json; Qwen3's where it is, else our own")
    parser.add_argument("--sample", type=int, default=300, help="schemas of each set, for speed")
    parser.add_argument("--skip-xgrammar", action="store_true", help="it takes most of the time")
    parser.add_argument(
        "--decode", type=Path, nargs="?", const=TINY.parent, help="a model's folder; the built-in one's"
    )
    parser.add_argument("--rounds", type=int, default=7, help="of --decode")
    parser.add_argument(
        "--ways", action="store_true", help="ways not taken: masks in parallel, xgrammar in the worker"
    )
    options = parser.parse_args()
    if options.decode is not None:
        from grammar_decode import decode

        decode(options.decode, options.rounds)
        return 0
    tokenizer = options.tokenizer or (QWEN if QWEN.exists() else TINY)
    sets = {"bfcl": list(bfcl()) if BFCL.is_dir() else [], "suite": list(suite()) if SUITE.is_dir() else []}
    if not any(sets.values()):
        print(f"No schemas: neither {BFCL} nor {SUITE} is there.")
        return 2
    for name, cases in sets.items():
        sets[name] = random.Random(0).sample(cases, min(options.sample, len(cases)))
    started = time.perf_counter()
    with GrammarCompiler.from_tokenizer_file(
        tokenizer, QWEN_LOGITS if tokenizer == QWEN else None
    ) as compiler:
        print(f"tokenizer {tokenizer.parent.name}: {compiler.vocabulary.size} ids, ", end="")
        print(f"made ready in {time.perf_counter() - started:.2f} s\n")
        if options.ways:
            from grammar_ways import closed, ways

            shut = [(closed(schema), instances) for schema, instances in sets["bfcl"]]
            ways(compiler, [(node, texts[0]) for node, texts in turns(shut)], turn_of)
            return 0
        print(f"{'engine':12}{'schemas':>9}{'refused':>9}{'compile ms p50':>16}{'p99':>9}{'max':>9}", end="")
        print(f"{'fill us p50':>13}{'p99':>9}{'max':>9}{'masks':>9}")
        for engine, compile_schema in engines(compiler, options.skip_xgrammar).items():
            for name, cases in sets.items():
                measure(f"{engine} {name}", cases, compile_schema, compiler, spelled)
        measure("ours turns", list(turns(sets["bfcl"])), compile_turn, compiler, as_the_model_has_it)
        killers(compiler)
    return 0


def engines(
    compiler: GrammarCompiler, skip_xgrammar: bool
) -> dict[str, Callable[[Any, GrammarCompiler], CompiledGrammar]]:
    from llguidance import LLMatcher

    from basemlx.engine.grammar.xgrammar_backend import XGrammarBackend

    def ours(schema: Any, compiler: GrammarCompiler) -> CompiledGrammar:
        grammar = compiler.compile_json_schema(schema).grammar
        assert grammar is not None
        return grammar

    found: dict[str, Callable[[Any, GrammarCompiler], CompiledGrammar]] = {
        "ours": ours,
        "llguidance": lambda schema, compiler: compiler.backend.compile_lark(
            LLMatcher.grammar_from_json_schema(schema)
        ),
    }
    if not skip_xgrammar:
        xgrammar = XGrammarBackend(compiler.vocabulary)
        found["xgrammar"] = lambda schema, _: xgrammar.compile_unchecked(schema)
    return found


def compile_turn(node: Any, compiler: GrammarCompiler) -> CompiledGrammar:
    grammar = compiler.compile_structure(node).grammar
    assert grammar is not None
    return grammar


def spelled(instance: Any, schema: Any, vocabulary: Vocabulary) -> list[int]:
    return vocabulary.spell(json.dumps(in_order(instance, schema), ensure_ascii=False))


def as_the_model_has_it(text: str, _node: Any, vocabulary: Vocabulary) -> list[int]:
    """With its control tokens."""
    return vocabulary.encode(text)


def turn_of(schema: Any) -> Any:
    """A chat turn with one tool and `tool_choice` auto."""
    return turn_structure(Ask((Tool("look_up", schema),), ToolChoice("auto")), format_named("hermes"))


def turns(cases: list[Case]) -> Iterable[Case]:
    """Prose, and then a call of the tool."""
    form = format_named("hermes")
    for schema, instances in cases:
        for instance in instances[:1]:
            yield turn_of(schema), [PROSE + form.render((Call("look_up", in_order(instance, schema)),))]


def measure(
    name: str,
    cases: list[Case],
    compile_one: Callable[[Any, GrammarCompiler], CompiledGrammar],
    compiler: GrammarCompiler,
    token_ids: Callable[[Any, Any, Vocabulary], list[int]],
) -> None:
    compiles: list[float] = []
    fills: list[float] = []
    refused = 0
    mask = np.zeros((compiler.vocabulary.size + 31) // 32, np.int32)
    for schema, instances in cases:
        started = time.perf_counter()
        try:
            grammar = compile_one(schema, compiler)
        except (BaseMLXError, ValueError, AssertionError):
            refused += 1
            continue
        finally:
            compiles.append(1e3 * (time.perf_counter() - started))
        for instance in instances[:2]:
            try:
                tokens = token_ids(instance, schema, compiler.vocabulary)
                matcher = grammar.matcher()
                for token_id in tokens:
                    started = time.perf_counter()
                    matcher.fill(mask)
                    fills.append(1e6 * (time.perf_counter() - started))
                    if not matcher.accept(token_id):
                        break
            except (BaseMLXError, UnicodeEncodeError):
                continue
    if not compiles or not fills:
        return
    print(f"{name:18}{len(cases):3}{refused:9}", end="")
    print(f"{statistics.median(compiles):16.2f}{percentile(compiles, 99):9.1f}{max(compiles):9.1f}", end="")
    print(f"{statistics.median(fills):13.1f}{percentile(fills, 99):9.0f}{max(fills):9.0f}{len(fills):9}")


def killers(compiler: GrammarCompiler) -> None:
    """Schemas that have stopped servers: each an error, or compiled, in a bounded time."""
    print("\nknown killers")
    for name, schema in KILLERS.items():
        started = time.perf_counter()
        try:
            compiler.compile_json_schema(schema, strict=True)
            outcome = "compiled"
        except BaseMLXError as error:
            outcome = f"{error.status}: {error.message[:70]}"
        print(f"  {name:28}{time.perf_counter() - started:7.2f} s  {outcome}")


def percentile(values: Iterable[float], rank: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * rank / 100))]


def nested(depth: int, width: int) -> dict[str, Any]:
    if depth == 0:
        return {"type": "string"}
    return {
        "oneOf": [
            {"type": "object", "properties": {f"p{at}": nested(depth - 1, width)}} for at in range(width)
        ]
    }


KILLERS: dict[str, Any] = {
    "nested oneOf 6 x 3": nested(6, 3),
    "nested oneOf 9 x 3": nested(9, 3),
    "2,000 optional properties": {"properties": {f"p{at}": {"type": "string"} for at in range(2000)}},
    "1,000 optional properties": {"properties": {f"p{at}": {"type": "string"} for at in range(1000)}},
    "maxLength 1,000,000": {"type": "string", "maxLength": 1_000_000},
    "minLength 500,000": {"type": "string", "minLength": 500_000, "maxLength": 1_000_000},
    "enum of 20,000": {"enum": [f"value {at}" for at in range(20_000)]},
    "100,000 deep": '{"items":' * 100_000 + "{}" + "}" * 100_000,
    "nested repetitions": {"pattern": "((a{0,1000}){0,1000}b){0,1000}"},
    "escapes repeated": {"pattern": '^(?:[^"\\\\]|\\\\["\\\\/bfnrt]|\\\\u[0-9a-f]{4}){0,500}$'},
    "(a|b)*a(a|b){30}": {"pattern": "^(a|b)*a(a|b){30}c$"},
    "refers to itself": {"$ref": "#"},
}


def bfcl() -> Iterable[Case]:
    for path in sorted(BFCL.glob("*.jsonl")):
        if path.name.endswith(".answers.jsonl"):
            continue
        answers = _answers(path.with_name(path.stem + ".answers.jsonl"))
        for line in path.read_text("utf-8").splitlines():
            row = json.loads(line)
            for function in row["function"]:
                instances = [
                    {key: options[0] for key, options in arguments.items() if options and options[0] != ""}
                    for call in answers.get(row["id"], [])
                    for name, arguments in call.items()
                    if name == function["name"]
                ]
                yield as_json_schema(function["parameters"]), instances


def _answers(path: Path) -> dict[str, list[dict[str, Any]]]:
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return {row["id"]: row["ground_truth"] for row in rows}


def as_json_schema(schema: Any) -> Any:
    """With JSON Schema's names of types."""
    if isinstance(schema, list):
        return [as_json_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: as_json_schema(value) for key, value in schema.items()}
    kind = found.get("type")
    if isinstance(kind, str) and kind in _TYPES:
        found["type"] = _TYPES[kind]
        if found["type"] is None:
            del found["type"]
    return found


def suite() -> Iterable[Case]:
    for path in sorted(SUITE.rglob("*.json")):
        for group in json.loads(path.read_text("utf-8")):
            yield group["schema"], [test["data"] for test in group["tests"] if test["valid"]]


if __name__ == "__main__":
    sys.exit(main())
