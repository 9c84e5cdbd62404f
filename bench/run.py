"""Measures basemlx against mlx-lm on the same weights in one run; prints a table with ratios and saves JSON.

    python bench/run.py [--quick] [--only NAME …] [--blas bundled|openblas|both] [--model FOLDER]

Each row says what must hold (the project's own targets) and whether it did.
"""

import argparse
import asyncio
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from load import environment, serving, stream_rate, throughput
from soak import soak

HERE = Path(__file__).parent
TINY = HERE.parent / "engine" / "tiny" / "model"
CLIENTS = (1, 4, 8, 16)
SLOW = {"tokens": 50, "runs": 2}  # for mlx-lm with bfloat16 scales: ten tokens a second on two cores
MUST_THROUGHPUT = {
    "bundled": {1: 1.0, 4: 1.2, 8: 1.3, 16: 1.5},
    "openblas": {1: 1.0, 4: 3.0, 8: 5.0, 16: 8.0},
}


@dataclass
class Row:
    """One line of the table. `must` reads like ">= 1.5" or "<= 0.25" and is about `value`."""

    what: str
    blas: str
    ours: str
    theirs: str
    value: float
    must: str

    @property
    def ok(self) -> bool:
        sign, limit = self.must.split()
        return self.value >= float(limit) if sign == ">=" else self.value <= float(limit)


class Bench:
    """The measurements. `quick` shortens them; figures are then only a smoke test."""

    def __init__(self, model: Path, quick: bool) -> None:
        self.model = str(model)
        self.tokens = 60 if quick else 200
        self.runs = 1 if quick else 3
        self.rounds = 1 if quick else 2
        self.rows: list[Row] = []
        self.raw: dict[str, Any] = {}
        generation = json.loads((model / "generation_config.json").read_text())
        ends = generation["eos_token_id"]
        self.ban = ends if isinstance(ends, list) else [ends]
        self._numbers = 0
        self._float32_folder = tempfile.mkdtemp(prefix="bench-f32-")
        self.model_f32 = _with_float32_scales(model, Path(self._float32_folder) / f"{model.name}-f32")

    def close(self) -> None:
        shutil.rmtree(self._float32_folder)

    def probe(self, name: str, blas: str, **arguments: Any) -> dict[str, Any]:
        command = [sys.executable, str(HERE / "probes.py"), name, json.dumps(arguments)]
        done = subprocess.run(command, env=environment(blas), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{name} failed: {done.stderr[-2000:]}")
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        self.raw.setdefault(f"{name}/{blas}", []).append(found)
        return found

    def add(self, what: str, blas: str, ours: str, theirs: str, value: float, must: str) -> None:
        self.rows.append(Row(what, blas, ours, theirs, value, must))
        row = self.rows[-1]
        print(
            f"  {what} [{blas}]: ours {ours}, theirs {theirs}: {value:.2f} (must {must})"
            f"{'' if row.ok else '  MISSED'}",
            flush=True,
        )

    # measurements

    def stream(self, blas: str) -> None:
        """One stream in this process, ours and theirs in turn."""
        ours, theirs, theirs_f32 = [], [], []
        for _ in range(self.rounds):
            options = {"tokens": self.tokens, "runs": self.runs}
            ours.append(self.probe("ours-stream", blas, model=self.model, **options)["tok_s"])
            theirs.append(self.probe("theirs-stream", blas, model=self.model, **SLOW)["tok_s"])
            theirs_f32.append(self.probe("theirs-stream", blas, model=self.model_f32, **options)["tok_s"])
        must = ">= 0.95" if blas == "bundled" else ">= 1.5"
        mine = statistics.median(ours)
        for label, figures in (("mlx_lm", theirs), ("mlx_lm float32 scales", theirs_f32)):
            other = statistics.median(figures)
            self.add(
                f"one stream, in-process, against {label}",
                blas,
                _rate(mine),
                _rate(other),
                mine / other,
                must,
            )

    def http_stream(self, blas: str) -> None:
        """One stream over HTTP against the same in-process."""
        inside, outside = [], []
        for _ in range(self.rounds):
            inside.append(
                self.probe("ours-stream", blas, model=self.model, tokens=self.tokens, runs=self.runs)["tok_s"]
            )
            with serving("ours", self.model, blas) as server:
                outside.append(asyncio.run(stream_rate(server, self.tokens, self.ban, self.runs))["tok_s"])
        mine, own = statistics.median(outside), statistics.median(inside)
        self.add(
            "one stream over HTTP, against in-process", blas, _rate(mine), _rate(own), mine / own, ">= 0.95"
        )

    def http_throughput(self, blas: str) -> None:
        """Clients at once against mlx_lm.server, as it comes and with float32 scales."""
        tokens = 30 if self.runs == 1 else 60
        results: dict[str, dict[int, list[float]]] = {}
        for round_ in range(self.rounds):
            for label, kind, model in (
                ("ours", "ours", self.model),
                ("mlx_lm.server", "theirs", self.model),
                ("mlx_lm.server float32 scales", "theirs", self.model_f32),
            ):
                if round_ and label == "mlx_lm.server":
                    continue  # a minute and a half a round on two cores, and far from any limit
                with serving(kind, model, blas) as server:
                    for clients in CLIENTS:
                        self._numbers += clients + 1
                        found = asyncio.run(throughput(server, clients, tokens, self.ban, self._numbers))
                        results.setdefault(label, {}).setdefault(clients, []).append(found["tok_s"])
        self.raw[f"http-throughput/{blas}"] = results
        for label in ("mlx_lm.server", "mlx_lm.server float32 scales"):
            for clients in CLIENTS:
                mine, other = (statistics.median(results[who][clients]) for who in ("ours", label))
                must = f">= {MUST_THROUGHPUT[blas][clients]}"
                self.add(
                    f"{clients} clients over HTTP, against {label}",
                    blas,
                    _rate(mine),
                    _rate(other),
                    mine / other,
                    must,
                )

    def prefix(self, blas: str) -> None:
        """Time to first token of a repeated prompt."""
        found = self.probe("prefix", blas, model=self.model, prompt_tokens=1000, runs=self.runs)
        ours, first = f"{1e3 * found['repeat_s']:.0f} ms", f"{1e3 * found['new_s']:.0f} ms"
        self.add(
            "time to first token, 1,000 tokens repeated, against new",
            blas,
            ours,
            first,
            found["ratio"],
            "<= 0.25",
        )

    def gaps(self, blas: str) -> None:
        """A running stream beside a long prefill."""
        found = self.probe("gaps", blas, model=self.model, prompt_tokens=3000)
        ours, normal = f"p99 {found['during_p99_ms']:.1f} ms", f"{found['normal_ms']:.1f} ms"
        what = "gaps beside a 3,000-token prefill, against"
        self.add(f"{what} those before", blas, ours, normal, found["ratio"], "<= 3.0")
        pace = f"{found['normal_ms']:.1f} to {found['normal_after_ms']:.1f} ms"
        self.add(f"{what} its own at each place", blas, ours, pace, found["ratio_own_pace"], "<= 3.0")

    def serve(self, blas: str) -> None:
        """Start, and memory after 200 mixed requests."""
        with serving("ours", "tiny", blas) as server:
            self.add("`serve`: ready after", blas, f"{server.ready_s:.2f} s", "-", server.ready_s, "<= 3.0")
            found = soak(server.url, server.rss_mb, requests=40 if self.runs == 1 else 200)
        self.raw[f"soak/{blas}"] = found
        self.add(
            "memory at rest after the requests, MB",
            blas,
            f"{found['rss_mb']:.0f} MB",
            f"busy {found['busy_rss_mb']:.0f} MB",
            found["rss_mb"],
            "<= 400",
        )
        growth = found["rss_mb"] - found["half_rss_mb"]
        self.add("growth over the second half, MB", blas, f"{growth:+.1f} MB", "-", growth, "<= 8")


MEASUREMENTS = {
    "stream": Bench.stream,
    "http-stream": Bench.http_stream,
    "http-throughput": Bench.http_throughput,
    "prefix": Bench.prefix,
    "gaps": Bench.gaps,
    "serve": Bench.serve,
}


def _rate(value: float) -> str:
    return f"{value:.1f} tok/s"


def _with_float32_scales(model: Path, target: Path) -> str:
    """A copy of the model whose floats are float32, the packed weights untouched: what mlx-lm runs fastest on a CPU."""
    shutil.copytree(model, target)
    script = (
        "import sys, mlx.core as mx; p = sys.argv[1]; w = mx.load(p); "
        "mx.save_safetensors(p, {k: v.astype(mx.float32) if mx.issubdtype(v.dtype, mx.floating) else v "
        "for k, v in w.items()}, metadata={'format': 'mlx'})"
    )
    subprocess.run([sys.executable, "-c", script, str(target / "model.safetensors")], check=True)
    return str(target)


def machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        cpu = names[0] if names else cpu
    packages = ("mlx", "mlx-lm", "basemlx")
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "system": platform.platform(terse=True),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def table(rows: list[Row], facts: dict[str, Any]) -> str:
    width = max(len(row.what) for row in rows)
    lines = [
        ", ".join(f"{key} {value}" for key, value in facts.items()),
        "",
        f"{'what':{width}}  {'BLAS':8}  {'ours':>16}  {'against':>14}  {'ratio':>7}  must",
    ]
    for row in rows:
        verdict = "ok" if row.ok else "MISSED"
        figures = f"{row.ours:>16}  {row.theirs:>14}  {row.value:7.2f}  {row.must:8}"
        lines.append(f"{row.what:{width}}  {row.blas:8}  {figures} {verdict}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="shorter runs: a smoke test, not a measurement")
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, default=list(MEASUREMENTS))
    parser.add_argument("--blas", choices=("bundled", "openblas", "both"), default="both")
    parser.add_argument("--model", type=Path, default=TINY, help="a model folder (default: the built-in one)")
    parser.add_argument(
        "--json", type=Path, help="where to save the figures (default: bench/results/DATE.json)"
    )
    options = parser.parse_args()
    facts = machine()
    settings = ("bundled", "openblas") if options.blas == "both" else (options.blas,)
    bench = Bench(options.model.resolve(), options.quick)
    try:
        for blas in settings:
            for name in options.only:
                MEASUREMENTS[name](bench, blas)
    finally:
        bench.close()
    print("\n" + table(bench.rows, facts))
    path = options.json or HERE / "results" / f"{facts['date'].replace(':', '')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    results = [asdict(row) | {"ok": row.ok} for row in bench.rows]
    path.write_text(json.dumps({"machine": facts, "rows": results, "raw": bench.raw}, indent=1))
    print(f"\nsaved {path}")
    return 0 if all(row.ok for row in bench.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
