"""What a grammar costs while a model decodes: free and constrained rows in one engine, in turns, in one run.

The same prompts, seeds and settings; only the constraint differs. `any text` and `JSON string` leave every choice
open, so that what is measured is the grammar's cost; `forced schema` has long names and few choices, which free text is
compared with by tokens a second. End tokens are kept out until the token limit: in free rows by `ignore_eos`, in
constrained ones by the grammar.
"""

import statistics
import time
from pathlib import Path
from typing import Any

from basemlx.engine.config import EngineConfig
from basemlx.engine.core.constraint import Constraint
from basemlx.engine.engine import Engine
from basemlx.engine.grammar import GrammarCompiler
from basemlx.engine.types import GenerationRequest, SamplingParams

TOKENS = 120
PROMPT = "Describe the harbour in the morning, the people who work there, and what they carry."
ANY_TEXT = r"[\s\S]*\x01\x01\x01"  # no text ends: nobody writes three of these
JSON_STRING: dict[str, Any] = {"type": "string", "minLength": 100_000}
FORCED: dict[str, Any] = {
    "type": "object",
    "properties": {
        f"{name}_{part}": kind
        for name in ("harbour_description", "morning_temperature", "number_of_people")
        for part, kind in (
            ("identifier_of_the_record", {"const": "unknown and therefore left out"}),
            ("has_been_confirmed_by_somebody", {"type": "boolean"}),
            ("kind_of_measurement", {"enum": ["estimated value", "measured value"]}),
        )
    },
    "additionalProperties": False,
}
FORCED["required"] = list(FORCED["properties"])


def decode(folder: Path, rounds: int) -> None:
    """Prints a row for each constraint and number of rows. `folder` holds the model."""
    with Engine(EngineConfig(max_num_sequences=8)) as engine:
        engine.load("bench", folder=folder)
        loaded = engine.loaded("bench")
        prompt = tuple(loaded.tokenizer.encode(PROMPT))
        width = loaded.vocab_size
        with GrammarCompiler.from_tokenizer_file(folder / "tokenizer.json", width) as compiler:
            constraints: dict[str, Constraint] = {
                "any text": compiler.compile_regex(ANY_TEXT),
                "JSON string": compiler.compile_json_schema(JSON_STRING, strict=True),
                "forced schema": compiler.compile_json_schema(FORCED, strict=True),
            }
            print(f"\ndecoding with {folder.parent.name}, {width} ids, medians of {rounds} rounds")
            print(f"{'constraint':16}{'rows':>5}{'tokens':>8}{'free ms/token':>15}{'grammar':>9}{'cost':>8}")
            for name, constraint in constraints.items():
                for rows in (1, 8):
                    _measure(engine, prompt, name, constraint, rows, rounds)


def _measure(
    engine: Engine, prompt: tuple[int, ...], name: str, constraint: Constraint, rows: int, rounds: int
) -> None:
    _, tokens = _seconds(engine, prompt, constraint, rows, 0)
    free: list[float] = []
    held: list[float] = []
    for seed in range(1, rounds + 1):
        for is_free in (False, True) if seed % 2 else (True, False):  # whoever comes second may be better off
            asked = (None, rows, seed, tokens // rows) if is_free else (constraint, rows, seed)
            seconds, count = _seconds(engine, prompt, *asked)
            (free if is_free else held).append(seconds / count)
            tokens = tokens if is_free else count
    ratios = [with_grammar / without for with_grammar, without in zip(held, free, strict=True)]
    print(f"{name:16}{rows:5}{tokens:8}{1e3 * statistics.median(free):15.3f}", end="")
    print(f"{1e3 * statistics.median(held):9.3f}{100 * (statistics.median(ratios) - 1):+7.1f}%", flush=True)


def _seconds(
    engine: Engine,
    prompt: tuple[int, ...],
    constraint: Constraint | None,
    rows: int,
    seed: int,
    max_tokens: int = TOKENS,
) -> tuple[float, int]:
    """From the first token to the last, with `rows` requests at a time; how many tokens that were."""
    streams = [
        engine.submit(
            GenerationRequest(
                f"decode-{constraint is None}-{rows}-{seed}-{row}-{time.monotonic_ns()}",
                "bench",
                prompt,
                SamplingParams(max_tokens=max_tokens, seed=100 * seed + row, ignore_eos=True),
                constraint=constraint,
            )
        )
        for row in range(rows)
    ]
    first_s, count = None, 0
    for stream in streams:
        for delta in stream:
            first_s = first_s or time.perf_counter()
            count += len(delta.token_ids)
    assert first_s is not None
    return time.perf_counter() - first_s, count
