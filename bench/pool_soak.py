"""Models in and out of one engine for a long time: does anything grow?

    .venv/bin/python bench/pool_soak.py --seconds 600

The built-in model and two small random-weight ones take turns under a ceiling that holds one or two of them, with
requests of all lengths, some given up halfway, explicit unloads and idle times of milliseconds. At quiet moments, with
every model unloaded: resident memory, MLX's active and cached bytes, open files, threads. The last quarter of the
samples is compared with the second: the exit code is 1 if something grew by more than its allowance.
"""

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from basemlx.engine.runtime import prepare

prepare(stand_alone=True)

from basemlx.engine.config import EngineConfig  # noqa: E402
from basemlx.engine.engine import Engine  # noqa: E402
from basemlx.engine.errors import BaseMLXError  # noqa: E402
from basemlx.engine.models.discovery import Discovery, ModelPlaces, built_in_folder  # noqa: E402
from basemlx.engine.models.needs import plan_load  # noqa: E402
from basemlx.engine.types import GenerationRequest, SamplingParams  # noqa: E402
from tests.model_zoo import write_model  # noqa: E402

MIB = 2**20


class Sample(NamedTuple):
    """What was held at a quiet moment. MB are 10^6 bytes."""

    elapsed_s: float
    rss_mb: float
    active_mb: float
    cache_mb: float
    files: int
    threads: int
    requests: int
    loads: int


ALLOWANCE = {"rss_mb": 12.0, "active_mb": 1.0, "files": 0, "threads": 0}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--callers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="basemlx-soak-"))
    try:
        return soak(folder, options.seconds, options.callers, options.seed)
    finally:
        shutil.rmtree(folder)


def soak(folder: Path, seconds: float, callers: int, seed: int) -> int:
    for name, kind in (("a", "qwen3"), ("b", "gemma3_text")):
        write_model(folder / "models" / name, kind, seed=seed)
    discovery = Discovery(ModelPlaces(built_in_folder(), folder / "no-cache", folders=(folder / "models",)))
    config = EngineConfig(
        max_num_sequences=4,
        kv_budget_bytes=32 * MIB,
        prefix_cache_bytes=4 * MIB,
        max_context_tokens=1024,
        idle_ttl_s=0.05,
    )
    names = [model.name for model in discovery.scan()]
    needs = [plan_load(model.folder, None, config, 2**32).num_bytes for model in discovery.scan()]
    config = EngineConfig(
        **{name: getattr(config, name) for name in config.__slots__}
        | {"max_memory_bytes": int(1.05 * max(needs))}
    )
    samples: list[Sample] = []
    with Engine(config, discovery=discovery) as engine:
        work = Work(engine, names, seed)
        began_s = time.monotonic()
        while (elapsed_s := time.monotonic() - began_s) < seconds or len(samples) < 4:
            work.run(callers, min(seconds / 12, 10.0))
            engine.check_integrity()
            for name in names:
                engine.unload(name)
            samples.append(measure(engine, elapsed_s, work))
            print(
                ("  ".join(f"{field}={value:g}" for field, value in samples[-1]._asdict().items())),
                flush=True,
            )
    return verdict(samples)


class Work:
    """Callers that ask, give up, unload; what one may be refused is counted, anything else ends the run."""

    def __init__(self, engine: Engine, names: list[str], seed: int) -> None:
        self._engine = engine
        self._names = names
        self._seed = seed
        self._rounds = 0
        self.requests = self.loads = 0
        self._was_loaded: set[str] = set()

    def run(self, callers: int, seconds: float) -> None:
        self._rounds += 1
        stop_s = time.monotonic() + seconds
        problems: list[BaseException] = []

        def call(number: int) -> None:
            rng = random.Random(f"{self._seed}-{self._rounds}-{number}")
            try:
                while time.monotonic() < stop_s:
                    self._once(rng, f"{self._rounds}-{number}-{self.requests}-{rng.random()}")
            except BaseException as error:
                problems.append(error)

        threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if problems:
            raise problems[0]

    def _once(self, rng: random.Random, request_id: str) -> None:
        name = rng.choice(self._names)
        if rng.random() < 0.05:
            self._engine.unload(name)
            return
        prompt = tuple(rng.randrange(3, 250) for _ in range(rng.choice([5, 40, 300])))
        sampling = SamplingParams(max_tokens=rng.choice([1, 8, 30]), ignore_eos=True, seed=rng.randrange(100))
        try:
            with self._engine.submit(GenerationRequest(request_id, name, prompt, sampling)) as stream:
                for count, _ in enumerate(stream):
                    if count > 3 and rng.random() < 0.05:
                        break
        except BaseMLXError as error:
            if error.code not in ("queue_full", "request_aborted"):
                raise
        self.requests += 1
        now = {info.name for info in self._engine.models() if info.loaded}
        self.loads += len(now - self._was_loaded)
        self._was_loaded = now


def measure(engine: Engine, elapsed_s: float, work: Work) -> Sample:
    import psutil

    process = psutil.Process()
    stats = engine.stats()
    return Sample(
        round(elapsed_s, 1),
        round(process.memory_info().rss / 1e6, 1),
        round(stats.active_bytes / 1e6, 3),
        round(stats.cache_bytes / 1e6, 1),
        min(settled(process.num_fds)),
        min(settled(process.num_threads)),
        work.requests,
        work.loads,
    )


def settled(count: Callable[[], int]) -> Iterator[int]:
    """Some readings: a thread of the engine may be looking at /proc while it is counted."""
    for _ in range(5):
        yield count()
        time.sleep(0.02)


def verdict(samples: list[Sample]) -> int:
    """Compares the last quarter with the second: the first is warming up."""
    quarter = max(1, len(samples) // 4)
    status = 0
    for name, allowance in ALLOWANCE.items():
        before = max(getattr(sample, name) for sample in samples[quarter : 2 * quarter])
        after = max(getattr(sample, name) for sample in samples[-quarter:])
        grew = after - before
        print(f"{name}: {before:g} -> {after:g} ({'GREW' if grew > allowance else 'ok'})")
        status |= grew > allowance
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
