"""One measurement a process: `python bench/probes.py NAME '{"model": …}'` prints one JSON object on its last line.

A process measures one engine only, so that imports, BLAS and thread pools of the two never mix. Tokens are counted,
never assumed. Times are wall-clock seconds.
"""

import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROMPT = "Write a 200-word story."


BEFORE, AFTER = 80, 60
"""Tokens of the running stream whose gaps are its normal ones."""


def ours_stream(model: str, tokens: int, runs: int) -> dict[str, Any]:
    """Decode rate of one stream through Engine, end tokens ignored."""
    engine = _engine(model)
    prompt = _prompt_ids(engine)
    rates = []
    for run in range(runs + 1):  # the first is for nothing
        stream = engine.submit(_request(prompt, tokens, f"r{run}"))
        started_s = first_s = 0.0
        count = 0
        for delta in stream:
            count += len(delta.token_ids)
            if not first_s:
                first_s = started_s = time.perf_counter()
                count = 0
        rates.append(count / (time.perf_counter() - started_s))
    engine.close()
    return {"tok_s": statistics.median(rates[1:]), "all": rates[1:]}


def theirs_stream(model: str, tokens: int, runs: int) -> dict[str, Any]:
    """Decode rate of mlx_lm.stream_generate, as it comes: its own loading, precision and BLAS."""
    import mlx_lm

    loaded, tokenizer = mlx_lm.load(model)
    tokenizer._eos_token_ids = set()  # go on past the end, as ours does
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": PROMPT}], add_generation_prompt=True)
    rates = []
    for _ in range(runs + 1):
        started_s = 0.0
        count = 0
        for _response in mlx_lm.stream_generate(loaded, tokenizer, prompt, max_tokens=tokens):
            count += 1
            if not started_s:
                started_s = time.perf_counter()
                count = 0
        rates.append(count / (time.perf_counter() - started_s))
    return {"tok_s": statistics.median(rates[1:]), "all": rates[1:]}


def prefix(model: str, prompt_tokens: int, runs: int) -> dict[str, Any]:
    """Time to first token of a long prompt, new and repeated, through Engine."""
    engine = _engine(model)
    ratios, news, repeats = [], [], []
    for run in range(runs):
        prompt = _filler(prompt_tokens, run)
        times = []
        for again in range(2):
            started_s = time.perf_counter()
            with engine.submit(_request(prompt, 4, f"p{run}-{again}")) as stream:
                next(stream)
                times.append(time.perf_counter() - started_s)
                list(stream)
        news.append(times[0])
        repeats.append(times[1])
        ratios.append(times[1] / times[0])
    engine.close()
    return {
        "new_s": statistics.median(news),
        "repeat_s": statistics.median(repeats),
        "ratio": statistics.median(ratios),
    }


def gaps(model: str, prompt_tokens: int) -> dict[str, Any]:
    """Gaps between a running stream's tokens, before, while and after a long prompt is computed beside it.

    `ratio` is the 99th percentile meanwhile over the median before. The stream's own text grows meanwhile, by thousands
    of tokens where prompts are slow, and its normal gap with it: `ratio_own_pace` takes each gap over the normal one at
    that place, between the medians before and after.
    """
    engine = _engine(model)
    context = engine.models()[0].context_tokens
    warm = _filler(64, 1)
    list(engine.submit(_request(warm, 8, "warm")))
    stamps: list[float] = []
    stream = engine.submit(_request(_filler(32, 2), context - 64, "running"))
    for _ in range(BEFORE):
        next(stream)
        stamps.append(time.perf_counter())
    long_started_s = time.perf_counter()
    other = engine.submit(_request(_filler(prompt_tokens, 3), 1, "long"))
    for _delta in stream:
        stamps.append(time.perf_counter())
        if other.ended:
            break
    long_s = time.perf_counter() - long_started_s
    finished = other.ended
    count = len(stamps)
    for _delta in itertools.islice(stream, AFTER):
        stamps.append(time.perf_counter())
    stream.abort()
    engine.close()
    all_gaps = [b - a for a, b in itertools.pairwise(stamps)]
    before, during, after = all_gaps[10 : BEFORE - 1], all_gaps[BEFORE - 1 : count - 1], all_gaps[count + 4 :]
    first_s, last_s = statistics.median(before), statistics.median(after or before)
    own_pace = [
        gap / (first_s + (last_s - first_s) * place / len(during)) for place, gap in enumerate(during)
    ]
    return {
        "normal_ms": 1e3 * first_s,
        "normal_after_ms": 1e3 * last_s,
        "during_median_ms": 1e3 * statistics.median(during),
        "during_p99_ms": 1e3 * _p99(during),
        "during_max_ms": 1e3 * max(during),
        "gaps": len(during),
        "prefill_s": long_s,
        "prefill_finished": finished,
        "ratio": _p99(during) / first_s,
        "ratio_own_pace": _p99(own_pace),
    }


def _p99(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(0.99 * len(values)))]


def _engine(model: str) -> Any:
    from basemlx.engine.runtime import prepare

    prepare(stand_alone=True)
    from basemlx.engine.engine import Engine

    engine = Engine()
    engine.load("bench", folder=Path(model))
    return engine


def _prompt_ids(engine: Any) -> list[int]:
    loaded = engine.loaded("bench")
    text = loaded.template.render([{"role": "user", "content": PROMPT}])
    ids: list[int] = loaded.tokenizer.encode(text)
    return ids


def _filler(count: int, seed: int) -> list[int]:
    """Ordinary token ids, different for every seed from the first on."""
    return [300 + (31 * seed + 7 * i + i * i // 5) % 2000 for i in range(count)]


def _request(prompt: list[int], tokens: int, name: str) -> Any:
    from basemlx.engine.types import GenerationRequest, SamplingParams

    return GenerationRequest(
        name, "bench", tuple(prompt), SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
    )


PROBES: dict[str, Callable[..., dict[str, Any]]] = {
    "ours-stream": ours_stream,
    "theirs-stream": theirs_stream,
    "prefix": prefix,
    "gaps": gaps,
}

if __name__ == "__main__":
    result = PROBES[sys.argv[1]](**json.loads(sys.argv[2]))
    print(json.dumps(result))
