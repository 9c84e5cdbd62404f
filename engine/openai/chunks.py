"""What all chunks of a response share: identity, usage, and the protocol of whatever makes them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from basemlx.engine.types import ModelInfo, OutputDelta, Usage

Chunk = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Identity:
    """The fields that every chunk of one response repeats."""

    response_id: str
    object: str
    created_s: int
    model: str
    fingerprint: str

    def chunk(self, choices: list[Chunk]) -> Chunk:
        return {
            "id": self.response_id,
            "object": self.object,
            "created": self.created_s,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }


class ChunkMaker(Protocol):
    """Turns the deltas of a request into chunks. `include_usage` may be set until the first delta comes.
    `blocks_at_end`: a choice's last delta takes work that an event loop must not wait for."""

    include_usage: bool
    blocks_at_end: bool

    def push(self, prompt_index: int, delta: OutputDelta) -> list[Chunk]: ...
    def finish(self, usages: Sequence[Usage]) -> list[Chunk]:
        """The usage chunk, if it is wanted; `usages` has one entry a prompt."""
        ...


def usage_dict(usages: Sequence[Usage], num_reasoning_tokens: int | None = None) -> Chunk:
    """OpenAI's usage object, all prompts and choices together."""
    prompt_tokens = sum(usage.prompt_tokens for usage in usages)
    completion_tokens = sum(usage.completion_tokens for usage in usages)
    counts: Chunk = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in usages)},
    }
    if num_reasoning_tokens is not None:
        counts["completion_tokens_details"] = {"reasoning_tokens": num_reasoning_tokens}
    return counts


def fingerprint(info: ModelInfo) -> str:
    """Changes when another build of a model answers under the same name."""
    parts = (info.name, info.model_type, info.quantization, info.size_bytes, info.created_s)
    return "fp_" + hashlib.sha256(repr(parts).encode()).hexdigest()[:10]
