"""Is what was asked for what comes? Every cell of the API's options, sampled from the built-in model at temperature 1.

    .venv/bin/python bench/matrix.py                      # a round alone and two in batches of eight: some minutes
    .venv/bin/python bench/matrix.py --rounds 0 --mixed 1 --seed 7
    .venv/bin/python bench/matrix.py --only "named / one call / json_object" --rounds 20

Cells are tool_choice × parallel_tool_calls × response_format × stream × thinking × n: 512. A round asks a real server
for each over HTTP, with conversations that invite the model to break the rules, and an independent judge reads the
answers: jsonschema for documents and arguments, OpenAI's documentation for the rest (tests/matrix/judge.py). Streamed
and whole have to come to the same, and what was cut off has to be the beginning of what it would have become (but for
near ties: tests/matrix/run.py). Prints a table; exit code 1 if anything is not as asked.
"""

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.matrix.cells import ANSWERS, TOOL_CHOICES, Request, every_cell, requests
from tests.matrix.run import CALLERS, TIMEOUT_S, Runner, Tally
from tests.serving import ServerProcess

MAX_SHOWN = 20


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=1, help="rounds of one request at a time")
    parser.add_argument("--mixed", type=int, default=2, help="rounds of eight requests at once")
    parser.add_argument("--seed", type=int, default=1, help="what is asked; further rounds count up from it")
    parser.add_argument(
        "--only", default="", help="cells whose name has this text; see the failures for names"
    )
    parser.add_argument("--part", default="1/1", help="1/3 is the first third of each round, 2/3 the second")
    parser.add_argument("--seconds", type=float, default=1e9, help="start no further request after so long")
    parser.add_argument("--model", default="tiny", help="a model to serve under that name: see basemlx serve")
    options = parser.parse_args()
    tally, started_s = Tally(), time.monotonic()
    rounds = range(options.seed, options.seed + options.rounds + options.mixed)
    with (
        ServerProcess(
            "--model", options.model, "--max-num-sequences", str(CALLERS), BASEMLX_OPENBLAS=""
        ) as server,
        httpx.Client(base_url=server.url, timeout=TIMEOUT_S) as client,
    ):
        runner = Runner(client, tally, seconds=options.seconds)
        for seed in rounds[: options.rounds]:
            runner.alone(_chosen(requests(seed), options.only, options.part), seed)
        with Rows(client) as rows:
            for seed in rounds[options.rounds :]:
                runner.mixed(_chosen(requests(seed), options.only, options.part), seed)
        if not options.only:
            runner.refusals()
        status = server.stop()
    print_tally(tally)
    elapsed_s = time.monotonic() - started_s
    print(f"\n{elapsed_s:.0f} s, {rows}, server's exit code {status}")
    return 1 if tally.failures or tally.near_ties > tally.most_near_ties or status else 0


def _chosen(found: Iterable[Request], only: str, part: str) -> list[Request]:
    number, parts = map(int, part.split("/"))
    return [request for request in found if only in str(request.cell)][number - 1 :: parts]


class Rows:
    """Looks at how many rows run together, now and then, while its `with` lasts."""

    def __init__(self, client: httpx.Client) -> None:
        self.seen: list[int] = []
        self._client = client
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._stop.wait(0.5):
            self.seen.append(self._client.get("/health").json()["running"])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def __str__(self) -> str:
        return (
            f"{statistics.mean(self.seen):.1f} of {CALLERS} rows ran together" if self.seen else "no batches"
        )


def print_tally(tally: Tally) -> None:
    """Samples by tool_choice and response_format, each with how many of its cells failed."""
    print(f"{'tool_choice':18}" + "".join(f"{answer:>18}" for answer in ANSWERS))
    for tool_choice in TOOL_CHOICES:
        row = f"{tool_choice:18}"
        for answer in ANSWERS:
            cells = [
                cell for cell in every_cell() if (cell.tool_choice, cell.answer) == (tool_choice, answer)
            ]
            samples = sum(tally.samples[cell] for cell in cells)
            bad = sum(cell in tally.failed for cell in cells)
            row += f"{f'{samples}' + (f' ({bad} bad)' if bad else ''):>18}"
        print(row)
    print(
        f"\n{tally.num_samples} samples in {len(tally.samples)} of {len(every_cell())} cells; "
        f"{tally.pairs} requests streamed and whole; {tally.grown} cut off and asked again with more room; "
        f"{tally.near_ties} near ties"
    )
    print(", ".join(f"{name} {count}" for name, count in sorted(tally.ends.items())))
    if tally.refused:
        print(f"\nrefused by the field's name, {tally.refused.total()} times:")
        for name, count in tally.refused.items():
            print(f"  {name}: {count}")
    if tally.failures:
        print(f"\n{len(tally.failures)} FAILURES in {len(tally.failed)} cells")
        for failure in tally.failures[:MAX_SHOWN]:
            print(f"- {failure}")


if __name__ == "__main__":
    sys.exit(main())
