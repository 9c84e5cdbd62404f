"""The plain data that crosses the engine's boundary: what is asked and what comes back.

Nothing here imports MLX. Requests are frozen; they hold token ids, never text that still has to be rendered.
Ranges are checked here too (`SamplingParams.__post_init__`), so that a caller in Python is refused as an HTTP one is.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from basemlx.engine.errors import InvalidRequest

if TYPE_CHECKING:
    from basemlx.engine.core.constraint import Constraint

FinishReason = Literal["stop", "length", "abort", "error"]

MAX_CHOICES = 8
MAX_TOP_LOGPROBS = 20
MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 256
MAX_LOGIT_BIAS_ENTRIES = 1024


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not math.isfinite(value) or not low <= value <= high:
        raise InvalidRequest(f"{name} must be between {low:g} and {high:g}, not {value!r}.", param=name)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen and when a choice ends. Field names and ranges are OpenAI's, vLLM's where OpenAI has none.

    `temperature` 0 is greedy. `top_k` 0 is off. `max_tokens` None means up to the context's end. `seed` None draws a
    fresh one. `stop` strings are not part of the text; a stop token id ends the choice as the model's own end does.
    `ignore_eos` goes on past the model's end tokens (for benchmarks). `n` choices share one prefill; choice i of a
    seeded request draws from its own stream of random numbers.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    n: int = 1

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InvalidRequest(f"max_tokens must be at least 1, not {self.max_tokens}.", param="max_tokens")
        _check_range("temperature", self.temperature, 0.0, 2.0)
        _check_range("top_p", self.top_p, 0.0, 1.0)
        _check_range("top_k", self.top_k, 0, 2**31 - 1)
        _check_range("min_p", self.min_p, 0.0, 1.0)
        if not (math.isfinite(self.repetition_penalty) and 0.0 < self.repetition_penalty <= 10.0):
            raise InvalidRequest(
                f"repetition_penalty must be above 0 and at most 10, not {self.repetition_penalty!r}.",
                param="repetition_penalty",
            )
        _check_range("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        if self.seed is not None and not -(2**63) <= self.seed < 2**64:
            raise InvalidRequest("seed must fit in 64 bits.", param="seed")
        _check_range("n", self.n, 1, MAX_CHOICES)
        _check_range("top_logprobs", self.top_logprobs, 0, MAX_TOP_LOGPROBS)
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs to be true.", param="top_logprobs")
        if len(self.logit_bias) > MAX_LOGIT_BIAS_ENTRIES:
            raise InvalidRequest(
                f"logit_bias takes at most {MAX_LOGIT_BIAS_ENTRIES} entries.", param="logit_bias"
            )
        for bias in self.logit_bias.values():
            _check_range("logit_bias", bias, -100.0, 100.0)
        if len(self.stop) > MAX_STOP_STRINGS:
            raise InvalidRequest(f"stop takes at most {MAX_STOP_STRINGS} strings.", param="stop")
        for text in self.stop:
            if not 1 <= len(text) <= MAX_STOP_CHARACTERS:
                raise InvalidRequest(
                    f"each stop string must have 1 to {MAX_STOP_CHARACTERS} characters.", param="stop"
                )


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt, already token ids, and what is wanted from it.

    `timeout_s` counts from submission, waiting included. A higher `priority` is admitted earlier. `cache_salt`
    keeps the prefix cache of callers with different salts apart. `skip_special_tokens` False keeps control tokens
    in the text (output parsers of some model families read them). Every choice stays within `constraint`, a grammar
    compiled for the model's vocabulary, and ends when it does.
    """

    request_id: str
    model: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams = SamplingParams()
    timeout_s: float | None = None
    priority: int = 0
    cache_salt: str = ""
    skip_special_tokens: bool = True
    constraint: "Constraint | None" = None

    def __repr__(self) -> str:
        """Without the prompt: a request may be logged, its text may not."""
        return (
            f"GenerationRequest(request_id={self.request_id!r}, model={self.model!r}, "
            f"prompt_tokens={len(self.prompt_token_ids)}, n={self.sampling.n})"
        )


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural log-probability of a sampled token under the model's own distribution (before temperature, penalties,
    bias and filters), and the `top` alternatives as (token id, log-probability), best first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class OutputDelta:
    """What one choice gained: text that is safe to show, the token ids behind it and the end, if this is it.

    Text can lag behind `token_ids` while a character or a possible stop string is incomplete; the last delta of a
    choice (the one with `finish_reason`) brings the rest. `stop_reason` is the stop string or stop token id that
    ended the choice, None for the model's own end.
    """

    index: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of a finished request, all choices together. `cached_tokens` of the prompt were not computed."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall-clock figures of a finished request, in milliseconds from submission; `ttft_ms` None if no token came."""

    queue_ms: float
    ttft_ms: float | None
    elapsed_ms: float
    tokens_per_s: float | None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a caller may know about a model. No path of the machine is in it.

    `source`: built-in, huggingface, lmstudio or folder. `capabilities`: chat, completion, tools, reasoning, embedding.
    `aliases`: shorter names it answers to. `problem`: why it cannot be loaded as it lies there. The rest is of loaded
    ones: what they take in memory, how many use them now, and when an idle one will leave.
    """

    name: str
    loaded: bool
    model_type: str
    context_tokens: int
    size_bytes: int
    quantization: str | None
    created_s: int
    source: str = "folder"
    capabilities: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    problem: str | None = None
    state: str = ""
    memory_bytes: int = 0
    users: int = 0
    pinned: bool = False
    expires_in_s: float | None = None
