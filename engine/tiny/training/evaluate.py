"""Measures the built-in model as a user meets it: the packaged 4-bit weights, greedily, through basemlx's own engine.

Rows are those of `cases`, on names and values that training never made; every other case is asked with thinking on. A
sixth row says how often the thoughts were as asked, over all cases. Then come the prompts of `prompts`, in both modes.
Exits with 1 if a row is below its bar or a prompt is not answered sensibly.

    python -m basemlx.engine.tiny.training.evaluate [--cases 500] [--row calls] [--model FOLDER] [--json FILE]
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from basemlx.engine.config import EngineConfig
from basemlx.engine.core.stream import GenerationStream
from basemlx.engine.engine import Engine
from basemlx.engine.runtime import prepare
from basemlx.engine.tiny import MODEL_DIR
from basemlx.engine.tiny.training.cases import ROWS, case
from basemlx.engine.tiny.training.data.dialogue import Sample
from basemlx.engine.tiny.training.judging import Answer, is_right, parsed, repeats, thinks_rightly
from basemlx.engine.tiny.training.prompts import PROMPTS
from basemlx.engine.tiny.training.rendering import render_prompt
from basemlx.engine.types import GenerationRequest, SamplingParams

BARS = {"call": 0.95, "calls": 0.90, "result": 0.95, "json": 0.90, "recall": 0.95, "thinks": 0.98}
ROWS_AT_ONCE = 16
PREFIX_CACHE_BYTES = 2**29
LONGEST_ANSWER = 400
"""Tokens. The longest right answer of a case has about 250."""


@dataclass(slots=True)
class Row:
    """Judged cases of one ability. `wrong` holds what was asked, written and wanted."""

    cases: int = 0
    right: int = 0
    wrong: list[dict[str, Any]] = field(default_factory=list)

    @property
    def share(self) -> float:
        return self.right / self.cases if self.cases else 0.0

    def interval(self) -> tuple[float, float]:
        """Wilson's, at 95 %."""
        if not self.cases:
            return 0.0, 1.0
        z, n, p = 1.96, self.cases, self.share
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return middle - half, middle + half

    def count(self, right: bool, **what: Any) -> None:
        self.cases += 1
        self.right += right
        if not right:
            self.wrong.append(what)


class Writer:
    """Has a loaded model continue prompts, many at once."""

    def __init__(self, engine: Engine, model: str) -> None:
        self._engine, self._model = engine, model
        self._tokenizer = engine.loaded(model).tokenizer
        self._number = 0

    def answers(self, prompts: Iterable[str], longest: int = LONGEST_ANSWER) -> Iterator[str]:
        """What follows each prompt, control tokens included, in the prompts' order."""
        waiting = iter(prompts)
        while wave := list(islice(waiting, 2 * ROWS_AT_ONCE)):
            # Prompts first, into the prefix cache, then answers: while nobody decodes, the engine need not ration
            # prompt tokens. A third faster in all.
            for stream in [self._begin(prompt, 1) for prompt in wave]:
                _text(stream)
            yield from map(_text, [self._begin(prompt, longest) for prompt in wave])

    def _begin(self, prompt: str, longest: int) -> GenerationStream:
        self._number += 1
        request = GenerationRequest(
            f"case-{self._number}",
            self._model,
            tuple(self._tokenizer.encode(prompt)),
            SamplingParams(temperature=0.0, max_tokens=longest),
            skip_special_tokens=False,
        )
        return self._engine.submit(request)


def _text(stream: GenerationStream) -> str:
    return "".join([delta.text for delta in stream])


def measured(
    writer: Writer, rows: Sequence[str], cases: int, first: int = 0, progress: bool = False
) -> dict[str, Row]:
    """Each row's cases judged, from number `first` on, and the row "thinks" over all of them."""
    found = {row: Row() for row in (*rows, "thinks")}
    for row in rows:
        samples = [case(row, number, thinking=number % 2 == 1) for number in range(first, first + cases)]
        for number, (sample, written) in enumerate(
            zip(samples, writer.answers(sample.prompt() for sample in samples), strict=True), 1
        ):
            _count(found, row, sample, written)
            if progress:
                print(
                    f"\r{row}: {number}/{cases}, {found[row].right} right ",
                    end="",
                    file=sys.stderr,
                    flush=True,
                )
        if progress:
            print(file=sys.stderr)
    return found


def _count(found: dict[str, Row], row: str, sample: Sample, written: str) -> None:
    answer = parsed(written)
    what = {
        "row": row,
        "thinking": sample.thinking,
        "said": [turn.message() for turn in sample.turns[:-1]],
        "written": written,
        "wanted": sample.answer(),
    }
    found[row].count(is_right(answer, sample), **what)
    found["thinks"].count(thinks_rightly(answer, sample.thinking), **what)


@dataclass(frozen=True, slots=True)
class Asked:
    """One of the named prompts and what became of it."""

    prompt: str
    thinking: bool
    written: str
    answer: Answer
    sensible: bool
    repeats: bool

    @property
    def ok(self) -> bool:
        return self.sensible and not self.repeats


def asked(writer: Writer, modes: Sequence[bool] = (False, True)) -> list[Asked]:
    """The named prompts with thinking off and on, 300 tokens each at most."""
    wanted = [(prompt, thinking) for thinking in modes for prompt in PROMPTS]
    texts = [
        render_prompt([{"role": "user", "content": prompt.text}], prompt.tools, thinking)
        for prompt, thinking in wanted
    ]
    results: list[Asked] = []
    for (prompt, thinking), written in zip(wanted, writer.answers(texts, longest=300), strict=True):
        answer = parsed(written)
        sensible = prompt.sensible(answer) and thinks_rightly(answer, thinking)
        results.append(Asked(prompt.text, thinking, written, answer, sensible, repeats(written)))
    return results


def table(found: dict[str, Row]) -> str:
    lines = ["row      cases  right   share   95 % interval   bar"]
    for name, row in found.items():
        low, high = row.interval()
        verdict = "" if row.share >= BARS[name] else "  below"
        lines.append(
            f"{name:8} {row.cases:5}  {row.right:5}  {100 * row.share:5.1f} %  {100 * low:5.1f} to {100 * high:5.1f}"
            f"   {100 * BARS[name]:.0f} %{verdict}"
        )
    return "\n".join(lines)


def _example(what: dict[str, Any]) -> str:
    asked_last = what["said"][-1]["content"][-400:]
    mode = " (thinking)" if what["thinking"] else ""
    return f"[{what['row']}{mode}] {asked_last}\n  wrote  {what['written']!r}\n  wanted {what['wanted']!r}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Evaluate the built-in model.")
    parser.add_argument("--cases", type=int, default=500, help="cases a row")
    parser.add_argument("--first", type=int, default=0, help="number of a row's first case")
    parser.add_argument(
        "--row", action="append", choices=list(ROWS), help="only this row; may be given again"
    )
    parser.add_argument("--model", type=Path, default=MODEL_DIR)
    parser.add_argument("--examples", type=int, default=3, help="wrong answers of each row to show")
    parser.add_argument("--json", type=Path, help="where to save everything that was wrong, and the table")
    options = parser.parse_args()

    runtime = prepare(stand_alone=True)
    start = time.monotonic()
    config = EngineConfig(
        max_num_sequences=ROWS_AT_ONCE, max_waiting=3 * ROWS_AT_ONCE, prefix_cache_bytes=PREFIX_CACHE_BYTES
    )
    with Engine(config) as engine:
        writer = Writer(engine, engine.load("evaluated", folder=options.model.resolve()).name)
        answers = asked(writer)
        found = measured(writer, options.row or list(ROWS), options.cases, options.first, progress=True)
    for one in answers:
        mode = "thinking" if one.thinking else ""
        print(f"{'ok ' if one.ok else 'BAD'} {mode:8} {one.prompt} -> {one.written!r}")
    for row in found.values():
        for what in row.wrong[: options.examples]:
            print(_example(what))
    print(f"\n{table(found)}")
    print(f"{sum(one.ok for one in answers)} of {len(answers)} prompts answered sensibly")
    print(f"{time.monotonic() - start:.0f} s on {runtime.device_name}, BLAS {runtime.blas or 'bundled'}")
    if options.json:
        saved = {
            "rows": {
                name: {"cases": row.cases, "right": row.right, "share": row.share, "wrong": row.wrong}
                for name, row in found.items()
            },
            "prompts": [
                {"prompt": one.prompt, "thinking": one.thinking, "written": one.written, "ok": one.ok}
                for one in answers
            ],
        }
        options.json.write_text(json.dumps(saved, ensure_ascii=False, indent=1) + "\n", "utf-8")
    return (
        0
        if all(row.share >= BARS[name] for name, row in found.items()) and all(one.ok for one in answers)
        else 1
    )


if __name__ == "__main__":
    sys.exit(main())
