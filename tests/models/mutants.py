"""Models with something wrong in a safetensors header or in config.json, loaded one after the other in a process of
their own: what ends that process is found by its number, and the next process goes on behind it.

A mutant is made from (seed, number) alone. `python -m tests.models.mutants FOLDER… --seed --first --last` loads them.
"""

import argparse
import json
import logging
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]

ODD: list[Any] = [-1, 2**63, 2**64, 1e30, None, True, "0", [], {}, 0, 1, 10**400, float(2**53)]
SIZES: list[Any] = [0, 1, 2, 3, -1, 2**31, 2**32 + 1, 10**9, 2**63, "x", "64", None, True, 1.5, [], [1], {}]
WIDTHS = {
    "U8 I8 BOOL F8_E4M3 F8_E8M0 F8_E5M2": 1,
    "U16 I16 F16 BF16": 2,
    "U32 I32 F32": 4,
    "U64 I64 F64 C64": 8,
}
SIZE_WORDS = ("size", "dim", "heads", "layers", "experts", "bits", "quantization")
DEADLINE_S = 60


@dataclass(frozen=True, slots=True)
class Model:
    """A whole model's parts that mutants change."""

    header: Json
    data: bytes
    config: Json

    @classmethod
    def read(cls, folder: Path) -> "Model":
        raw = (folder / "model.safetensors").read_bytes()
        length = struct.unpack("<Q", raw[:8])[0]
        config = json.loads((folder / "config.json").read_text())
        return cls(json.loads(raw[8 : 8 + length]), raw[8 + length :], config)


# what may be wrong


def wrong_shape(header: Json, name: str, rng: random.Random) -> None:
    header[name]["shape"] = rng.choice([rng.choice(ODD), [rng.choice(ODD)], [2**32, 2**32], [1] * 40])


def wrong_offsets(header: Json, name: str, rng: random.Random) -> None:
    begin, end = header[name]["data_offsets"]
    moved = [begin + rng.randint(-9, 9), end + rng.randint(-9, 9)]
    header[name]["data_offsets"] = rng.choice([[rng.choice(ODD), rng.choice(ODD)], moved])


def wrong_dtype(header: Json, name: str, rng: random.Random) -> None:
    header[name]["dtype"] = rng.choice([*ODD, "F128", "f32", "I64"])


def wrong_entry(header: Json, name: str, rng: random.Random) -> None:
    header[name] = rng.choice(ODD)


def lost_entry(header: Json, name: str, rng: random.Random) -> None:
    del header[name]


def other_shape(header: Json, name: str, rng: random.Random) -> None:
    """As many values in other dimensions: nothing but the shape is wrong."""
    shape = header[name]["shape"]
    size, last = 1, shape[-1] if shape else 1
    for length in shape:
        size *= length
    half = [2 * size // last, last // 2] if last % 2 == 0 else [last, size // last]
    double = [size // (2 * last), 2 * last] if size % (2 * last) == 0 else [size]
    header[name]["shape"] = rng.choice(
        [[1, size], [1, size], [size, 1], [size], [1, *shape], [*shape, 1], shape[::-1], half, double]
    )


def other_dtype(header: Json, name: str, rng: random.Random) -> None:
    """One of the same width."""
    for dtypes in WIDTHS:
        if header[name]["dtype"] in dtypes.split():
            header[name]["dtype"] = rng.choice(dtypes.split())


def other_width(header: Json, name: str, rng: random.Random) -> None:
    """A dtype of another width, and as many values as then fit."""
    entry = header[name]
    dtypes, width = rng.choice(list(WIDTHS.items()))
    begin, end = entry["data_offsets"]
    if entry["shape"] and (end - begin) % (width * (rest := max(_product(entry["shape"][:-1]), 1))) == 0:
        entry["shape"] = [*entry["shape"][:-1], (end - begin) // width // rest]
        entry["dtype"] = rng.choice(dtypes.split())


def other_data(header: Json, name: str, rng: random.Random) -> None:
    """Two tensors under each other's name."""
    other = rng.choice([name for name in header if name != "__metadata__"])
    header[name], header[other] = header[other], header[name]


def other_name(header: Json, name: str, rng: random.Random) -> None:
    new = rng.choice(["", "a\0b", "\ud800", name + ".scales", name.replace("weight", "scales"), "x" * 70_000])
    header[new] = header.pop(name)


def other_metadata(header: Json, name: str, rng: random.Random) -> None:
    deep: Any = 1
    for _ in range(500):
        deep = {"a": deep}
    header["__metadata__"] = rng.choice([*ODD, deep, {"format": rng.choice(ODD)}, {"format": "np"}])


HEADER_CHANGES: list[Callable[[Json, str, random.Random], None]] = [
    wrong_shape,
    wrong_offsets,
    wrong_dtype,
    wrong_entry,
    lost_entry,
    *[other_shape] * 6,  # most of what follows is refused for plain reasons
    other_dtype,
    other_width,
    other_data,
    other_name,
    other_metadata,
]


def _product(shape: list[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def change_config(config: Json, rng: random.Random) -> None:
    keys = list(config)
    sizes = [key for key in keys if any(word in key for word in SIZE_WORDS)]
    key = rng.choice(sizes if sizes and rng.random() < 0.6 else keys)
    if isinstance(config[key], dict) and rng.random() < 0.8:
        change_config(config[key], rng)
        return
    if key in ("group_size", "bits") and rng.random() < 0.5:  # for one layer only
        layer = f"model.layers.{rng.randint(0, 2)}.mlp.up_proj"
        config[layer] = {"group_size": rng.choice([*SIZES, 16, 32]), "bits": rng.choice([*SIZES, 4, 8])}
        if rng.random() < 0.3:
            config[layer] = rng.choice(SIZES)
        return
    value = config[key]
    if isinstance(value, int) and rng.random() < 0.4:
        config[key] = rng.choice([2 * value, value // 2, value + 1, value - 1, value * 3, 1, 2, 3])
    else:
        config[key] = rng.choice(SIZES)
    if rng.random() < 0.1:
        del config[key]


def file_of(header: Json, data: bytes, rng: random.Random, *, spoilt: bool) -> bytes:
    text = json.dumps(header).encode()
    length = struct.pack("<Q", len(text))
    if not spoilt:
        return length + text + data
    if rng.random() < 0.3:
        length = struct.pack("<Q", rng.choice([0, 1, len(text) - 1, len(text) + 1, 2**40, 2**64 - 1]))
    whole = bytearray(length + text + data)
    if rng.random() < 0.5:
        for _ in range(rng.randint(1, 8)):
            whole[rng.randrange(8 + len(text))] = rng.randrange(256)
    else:
        del whole[rng.randrange(len(whole)) :]
    return bytes(whole)


def write_mutant(model: Model, folder: Path, rng: random.Random) -> str:
    """Into a folder that has the rest of the model. Returns what is wrong, for people."""
    header, config = json.loads(json.dumps(model.header)), json.loads(json.dumps(model.config))
    kind = rng.choices(["header", "config", "bytes"], [5, 4, 1])[0]
    if kind == "header":
        change = rng.choice(HEADER_CHANGES)
        names = [name for name in header if name != "__metadata__"]
        scales = [name for name in names if name.endswith(".scales")]
        name = rng.choice(scales if scales and rng.random() < 0.4 else names)
        before = str(header[name])
        change(header, name, rng)
        kind = f"{change.__name__} of {name}: {before} now {str(header.get(name))[:100]}"
    elif kind == "config":
        change_config(config, rng)
        changed = {key: value for key, value in config.items() if model.config.get(key) != value}
        kind = f"config.json: {str(changed)[:300]}, without {set(model.config) - set(config)}"
    (folder / "model.safetensors").write_bytes(file_of(header, model.data, rng, spoilt=kind == "bytes"))
    (folder / "config.json").write_text(json.dumps(config))
    return kind


# the process that loads them


def load_mutants(sources: list[Path], seed: int, first: int, last: int, killed: list[int]) -> None:
    """Prints a line "number: what is wrong" before each load and one with what came of it after."""
    from basemlx.engine.runtime import prepare

    prepare(stand_alone=True)
    from basemlx.engine.config import EngineConfig
    from basemlx.engine.engine import Engine
    from basemlx.engine.errors import BaseMLXError
    from basemlx.engine.models.folder import check_folder

    logging.disable(logging.CRITICAL)
    models = [Model.read(source) for source in sources]
    config = EngineConfig(
        max_num_sequences=1, kv_budget_bytes=4 << 20, prefix_cache_bytes=0, max_memory_bytes=1 << 30
    )
    with tempfile.TemporaryDirectory() as scratch, Engine(config) as engine:
        folders = [Path(scratch) / str(index) for index in range(len(sources))]
        for source, folder in zip(sources, folders, strict=True):
            shutil.copytree(source, folder)
        for number in range(first, last):
            signal.alarm(DEADLINE_S)  # what hangs ends the process, too
            rng = random.Random(f"{seed} {number}")
            index = rng.randrange(len(sources))
            wrong = write_mutant(models[index], folders[index], rng)
            print(f"{number}: {sources[index].name} {wrong}".encode("ascii", "replace").decode(), flush=True)
            if number in killed:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                check_folder(folders[index])
            except BaseMLXError as error:
                came = f"refused {error.message}"
            else:
                try:
                    engine.load("mutant", folder=folders[index])
                    engine.unload("mutant")
                    came = "loaded"
                except BaseMLXError as error:
                    came = f"failed {error.message}"
            assert scratch not in came, came
            print(came.encode("ascii", "replace").decode().replace("\n", " "), flush=True)


@dataclass(slots=True)
class Outcome:
    """`counts` of mutants refused by the check, failed in the load and loaded; `deaths` say which ended the process."""

    counts: Counter[str] = field(default_factory=Counter)
    deaths: list[str] = field(default_factory=list)
    longest: int = 0


def try_mutants(
    sources: list[Path], *, seed: int, count: int, most_deaths: int = 10, killed: tuple[int, ...] = ()
) -> Outcome:
    """`killed`: numbers that end their process whatever comes of them, to see that it is seen."""
    outcome = Outcome()
    first = 0
    while first < count and len(outcome.deaths) < most_deaths:
        arguments = [*map(str, sources), "--seed", str(seed), "--first", str(first), "--last", str(count)]
        arguments += [f"--killed={number}" for number in killed]
        ran = subprocess.run(
            [sys.executable, "-m", "tests.models.mutants", *arguments],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
        wrong = "before the first"
        for line in ran.stdout.splitlines():
            number, colon, rest = line.partition(": ")
            if colon and number.isdigit():
                first, wrong = int(number) + 1, rest
            else:
                outcome.counts[line.partition(" ")[0]] += 1
                outcome.longest = max(outcome.longest, len(line))
        if ran.returncode != 0:
            tail = ran.stderr.strip().splitlines()[-1:] or [""]
            outcome.deaths.append(f"exit {ran.returncode} at {first - 1}: {wrong} {tail[0][:300]}")
            if wrong == "before the first":
                break
    return outcome


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("sources", type=Path, nargs="+")
    for name in ("--seed", "--first", "--last"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--killed", type=int, action="append", default=[])
    options = parser.parse_args()
    load_mutants(options.sources, options.seed, options.first, options.last, options.killed)
