"""What is told of a finished request: the `gen done` log line and the record that metrics observe. Never its text."""

import logging
from dataclasses import dataclass

from basemlx.engine.core.sequence import Request
from basemlx.engine.memory import memory_use
from basemlx.engine.types import Timings, Usage

logger = logging.getLogger("basemlx.engine")


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """One request's figures; `finish_reasons` has one entry a choice."""

    request_id: str
    model: str
    usage: Usage
    timings: Timings
    finish_reasons: tuple[str, ...]


def log_finished(finished: FinishedRequest) -> None:
    """One line at INFO. Times in ms, memory in MB (10^6 bytes)."""
    if not logger.isEnabledFor(logging.INFO):
        return
    usage, timings, memory = finished.usage, finished.timings, memory_use()
    logger.info(
        "gen done id=%s model=%s prompt_tokens=%d cached_tokens=%d completion_tokens=%d ttft_ms=%s elapsed_ms=%.1f "
        "tok_s=%s finish=%s active_mb=%.1f cache_mb=%.1f peak_mb=%.1f",
        finished.request_id,
        finished.model,
        usage.prompt_tokens,
        usage.cached_tokens,
        usage.completion_tokens,
        "-" if timings.ttft_ms is None else f"{timings.ttft_ms:.1f}",
        timings.elapsed_ms,
        "-" if timings.tokens_per_s is None else f"{timings.tokens_per_s:.1f}",
        ",".join(finished.finish_reasons),
        memory.active_bytes / 1e6,
        memory.cache_bytes / 1e6,
        memory.peak_bytes / 1e6,
    )


def request_timings(request: Request, now_s: float) -> Timings:
    """The figures of a request that ends at `now_s`. The rate counts the tokens after each choice's first."""
    start_s, first_s = request.submitted_s, request.first_token_s
    admitted_s = request.admitted_s if request.admitted_s is not None else now_s
    later_tokens = request.num_completion_tokens - len(request.sequences)
    rate = None
    if first_s is not None and later_tokens > 0 and now_s > first_s:
        rate = later_tokens / (now_s - first_s)
    return Timings(
        queue_ms=(admitted_s - start_s) * 1e3,
        ttft_ms=None if first_s is None else (first_s - start_s) * 1e3,
        elapsed_ms=(now_s - start_s) * 1e3,
        tokens_per_s=rate,
    )
