"""Loads the built-in model and generates with it, as a server would: does it work, how fast, does it repeat itself?"""

import time
from dataclasses import dataclass

from basemlx.engine.config import EngineConfig
from basemlx.engine.engine import Engine
from basemlx.engine.models.discovery import BUILT_IN_NAME
from basemlx.engine.types import GenerationRequest, SamplingParams, Timings
from basemlx.server.diagnosis.report import Check, shareable

PREFILL_TOKENS = 512
DECODE_TOKENS = 64
BATCH = 4
MIN_TOKENS_PER_S = 1.0
REQUEST_TIMEOUT_S = 60.0
TEXT = "basemlx runs language models on MLX. "


@dataclass(frozen=True, slots=True)
class Generated:
    token_ids: tuple[int, ...]
    timings: Timings

    @property
    def tokens_per_s(self) -> float:
        return self.timings.tokens_per_s or 0.0


def selftest() -> Check:
    """Must come after MLX was found to work."""
    try:
        return _selftest()
    except Exception as error:  # whatever it is, it belongs into the report
        return Check(
            "Self-test", "FAIL", shareable(f"{BUILT_IN_NAME} failed: {type(error).__name__}: {error}")
        )


def _selftest() -> Check:
    # Without a prefix cache, so that the second time is computed as the first one was.
    config = EngineConfig(max_num_sequences=BATCH, max_waiting=BATCH, prefix_cache_bytes=0)
    with Engine(config) as engine:
        start_s = time.monotonic()
        context_tokens = engine.load(BUILT_IN_NAME).context_tokens
        load_s = time.monotonic() - start_s
        words = tuple(engine.loaded(BUILT_IN_NAME).tokenizer.encode(TEXT))
        num_prompt_tokens = min(PREFILL_TOKENS, context_tokens - 1)
        long_prompt = (words * (num_prompt_tokens // len(words) + 1))[:num_prompt_tokens]
        prefill = _generate(engine, [long_prompt], max_tokens=1)[0]
        prefill_rate = len(long_prompt) / ((prefill.timings.ttft_ms or 0.0) / 1e3 or float("inf"))
        first, second = (_generate(engine, [words], DECODE_TOKENS)[0] for _ in range(2))
        together = _generate(engine, [words] * BATCH, DECODE_TOKENS)
        engine.check_integrity()
    repeats = first.token_ids == second.token_ids
    is_same_together = all(one.token_ids == first.token_ids for one in together)
    decode_rate = max(first.tokens_per_s, second.tokens_per_s)
    batch_rate = sum(one.tokens_per_s for one in together)
    facts = {
        "load_s": round(load_s, 3),
        "prefill_tokens_per_s": round(prefill_rate, 1),
        "decode_tokens_per_s": round(decode_rate, 1),
        "batch": BATCH,
        "batch_tokens_per_s": round(batch_rate, 1),
        "greedy_repeats": repeats,
        "greedy_same_in_batch": is_same_together,
    }
    speed = (
        f"{BUILT_IN_NAME} loads in {load_s:.1f} s and runs: prefill {prefill_rate:,.0f} tok/s, one answer "
        f"{decode_rate:,.0f} tok/s, {BATCH} at once {batch_rate:,.0f} tok/s"
    )
    if not repeats:
        return Check(
            "Self-test", "FAIL", "the same greedy request gave two different answers", (speed,), facts
        )
    if decode_rate < MIN_TOKENS_PER_S:
        return Check("Self-test", "FAIL", f"less than {MIN_TOKENS_PER_S:g} token per second", (speed,), facts)
    if not is_same_together:
        note = f"The same greedy request gave other tokens in a batch of {BATCH}: this device rounds by batch size."
        return Check("Self-test", "note", speed, (note,), facts)
    return Check("Self-test", "ok", speed, ("Greedy answers repeat, alone and in a batch.",), facts)


def _generate(engine: Engine, prompts: list[tuple[int, ...]], max_tokens: int) -> list[Generated]:
    """Greedy, past the end token, all prompts at once. Raises BaseMLXError."""
    sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
    streams = [
        engine.submit(
            GenerationRequest(
                request_id=f"doctor-{index}",
                model=BUILT_IN_NAME,
                prompt_token_ids=prompt,
                sampling=sampling,
                timeout_s=REQUEST_TIMEOUT_S,
            )
        )
        for index, prompt in enumerate(prompts)
    ]
    results = []
    for stream in streams:
        token_ids = tuple(token for delta in stream for token in delta.token_ids)
        assert stream.timings is not None, "a stream that ended has timings"
        results.append(Generated(token_ids, stream.timings))
    return results
