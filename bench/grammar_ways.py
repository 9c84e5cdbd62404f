"""Two ways not taken, and what they would cost: `python bench/grammar.py --ways`.

Filling the masks of several rows at the same time, by the engines' own threads or by Python's, beside one row after the
other, along the same tokens. And compiling xgrammar's grammars in the worker process: what it takes to send one over,
beside compiling it, and what the largest that we give to xgrammar take.
"""

import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
from llguidance import LLExecutor
from llguidance.numpy import fill_next_token_bitmask_par

from basemlx.engine.errors import BaseMLXError
from basemlx.engine.grammar import GrammarCompiler
from basemlx.engine.grammar.backend import Matcher
from basemlx.engine.grammar.compiler import MAX_XGRAMMAR_CHARS
from basemlx.engine.grammar.structure import Node
from basemlx.engine.grammar.structure_plan import write_structure
from basemlx.engine.grammar.xgrammar_backend import XGrammarBackend
from basemlx.engine.grammar.xgrammar_import import xgrammar

THREADS = 2

Turn = tuple[Node, str]
Engine = Literal["xgrammar", "llguidance"]
Fill = Callable[[list[Any], Any], object]


def closed(schema: Any) -> Any:
    """With no properties but the declared ones, as strict tools have them: what xgrammar may compile."""
    if isinstance(schema, dict):
        parts = {key: closed(value) for key, value in schema.items()}
        return parts | {"additionalProperties": False} if "properties" in parts else parts
    return [closed(part) for part in schema] if isinstance(schema, list) else schema


def ways(compiler: GrammarCompiler, turns: list[Turn], turn_of: Callable[[Any], Node]) -> None:
    """`turn_of` makes a turn with one tool of a schema."""
    backend = XGrammarBackend(compiler.vocabulary)
    engines: tuple[Engine, ...] = ("xgrammar", "llguidance")
    print(f"{'masks of':12}{'rows':>5}  {'way':22}{'us p50':>8}{'mean':>8}{'p99':>8}")
    for engine in engines:
        for rows in (8, 16):
            _rows(compiler, backend, engine, rows, turns)
    _shipping(compiler, backend, turns)
    _largest(compiler, backend, turn_of)


def _rows(
    compiler: GrammarCompiler, backend: XGrammarBackend, engine: Engine, rows: int, turns: list[Turn]
) -> None:
    grammars, texts = [], []
    for node, text in turns:
        written = write_structure(node, dict(compiler.vocabulary.controls), prefer=engine)
        if written.engine == engine and len(grammars) < rows:
            grammars.append(_compile(compiler, backend, engine, written.text))
            texts.append(compiler.vocabulary.encode(text))
    assert len(grammars) == rows, "too few turns for so many rows"
    masks = np.zeros((rows, (compiler.vocabulary.size + 31) // 32), np.int32)
    with ThreadPoolExecutor(THREADS) as pool:

        def one_by_one(matchers: list[Matcher]) -> None:
            for row, matcher in enumerate(matchers):
                matcher.fill(masks[row])

        def python(matchers: list[Matcher]) -> None:
            def share(first: int) -> None:
                for row in range(first, rows, THREADS):
                    matchers[row].fill(masks[row])

            list(pool.map(share, range(THREADS)))

        own = _own_threads(engine, masks)
        for name, fill in {
            "one after the other": one_by_one,
            "the engine's threads": own,
            "Python's": python,
        }.items():
            matchers = [grammar.matcher() for grammar in grammars]
            times = []
            for position in range(min(map(len, texts))):
                started = time.perf_counter()
                fill(matchers)
                times.append(1e6 * (time.perf_counter() - started))
                for matcher, tokens in zip(matchers, texts, strict=True):
                    assert matcher.accept(tokens[position])
            print(f"{engine:12}{rows:5}  {name:22}{_row(times)}")


def _own_threads(engine: Engine, masks: Any) -> Callable[[list[Any]], None]:
    if engine == "xgrammar":
        batch = xgrammar().BatchGrammarMatcher(max_threads=THREADS)
        return lambda matchers: batch.batch_fill_next_token_bitmask(
            [each._matcher for each in matchers], masks
        )
    executor = LLExecutor(THREADS)
    return lambda matchers: fill_next_token_bitmask_par(
        executor, [(matcher._matcher, row) for row, matcher in enumerate(matchers)], masks
    )


def _compile(compiler: GrammarCompiler, backend: XGrammarBackend, engine: Engine, text: str) -> Any:
    if engine == "xgrammar":
        return backend.compile_structural_tag(text)
    return compiler.backend.compile_lark(text)


def _shipping(compiler: GrammarCompiler, backend: XGrammarBackend, turns: list[Turn]) -> None:
    times: dict[str, list[float]] = {"compile": [], "serialise": [], "deserialise": []}
    sizes = []
    for node, _ in turns:
        written = write_structure(node, dict(compiler.vocabulary.controls))
        if written.engine != "xgrammar":
            continue
        moments = [time.perf_counter()]
        grammar = backend.compile_structural_tag(written.text)
        moments.append(time.perf_counter())
        text = backend.serialized(grammar)
        moments.append(time.perf_counter())
        backend.deserialized(text)
        moments.append(time.perf_counter())
        for name, begin, end in zip(times, moments, moments[1:], strict=False):
            times[name].append(1e3 * (end - begin))
        sizes.append(len(text) / 1e3)
    print(f"\nxgrammar, {len(sizes)} turns{'ms p50':>23}{'mean':>8}{'p99':>8}")
    for name, values in times.items():
        print(f"  {name:38}{_row(values, 1)}")
    print(f"  {'size serialised, kB':38}{_row(sizes)}")


def _largest(compiler: GrammarCompiler, backend: XGrammarBackend, turn_of: Callable[[Any], Node]) -> None:
    """Schemas of the kinds that xgrammar is slow with, as large as it gets them."""
    print(f"\nlargest given to xgrammar ({MAX_XGRAMMAR_CHARS} characters){'compile ms':>14}")
    for name, make in LARGE.items():
        schema = max(
            (
                schema
                for count in range(1, 400, 3)
                if len(_compact(schema := closed(make(count)))) <= MAX_XGRAMMAR_CHARS
            ),
            key=lambda schema: len(_compact(schema)),
        )
        try:
            written = write_structure(turn_of(schema), dict(compiler.vocabulary.controls))
        except BaseMLXError as error:
            print(f"  {name:38}{error.message[:60]}")
            continue
        started = time.perf_counter()
        if written.engine == "xgrammar":
            backend.compile_structural_tag(written.text)
            print(f"  {name:38}{1e3 * (time.perf_counter() - started):14.1f}")
        else:
            print(f"  {name:38}{'llguidance':>14}")


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


LARGE: dict[str, Callable[[int], Any]] = {
    "optional properties of any kind": lambda count: _object({f"a{at}": {} for at in range(count)}),
    "optional strings": lambda count: _object({f"a{at}": {"type": "string"} for at in range(count)}),
    "bounded integers": lambda count: _object(
        {f"a{at}": {"type": "integer", "minimum": -123456789, "maximum": 987654321} for at in range(count)}
    ),
    "bounded lists": lambda count: _object(
        {
            f"a{at}": {"type": "array", "items": {"type": "string"}, "minItems": 900, "maxItems": 1000}
            for at in range(count)
        }
    ),
    "texts to choose from": lambda count: _object({"a": {"enum": [f"value {at}" for at in range(count)]}}),
}


def _compact(schema: Any) -> str:
    return json.dumps(schema, separators=(",", ":"))


def _row(values: Iterable[float], digits: int = 0) -> str:
    ordered = sorted(values)
    shown = ordered[len(ordered) // 2], sum(ordered) / len(ordered), ordered[int(len(ordered) * 0.99)]
    return "".join(f"{value:8.{digits}f}" for value in shown)
