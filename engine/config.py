"""Engine settings: frozen data, built at the edge (CLI, tests, callers in Python) and passed down.

It reads no environment and no file. None means "decide from the machine and the model", which is done where the
figure is needed and printed by `basemlx doctor`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Limits and budgets of one engine. Sizes in bytes, times in seconds.

    `max_num_sequences`: rows decoded together. `max_waiting`: requests queued beyond those before QueueFull.
    `max_context_tokens`: an upper bound over the model's own. `kv_budget_bytes`: KV rows of running sequences.
    `prefix_cache_bytes`: computed prefixes kept for reuse; 0 turns the cache off. `prefill_chunk_tokens`: the most
    prompt tokens one forward takes. `request_timeout_s`: a request's deadline when it brings none, and the
    longest that it may bring where it is OpenAI's (engine.openai).
    `stall_timeout_s`: with work to do and no step finished for this long, `health()` reports the engine as stuck.
    `max_memory_bytes`: what all models may take together, weights, KV rows and prefixes. `load_on_demand`: a request
    loads the model it names if that is on this machine; `idle_ttl_s`: such a model leaves after so long without a
    request (None: never). Models that were loaded explicitly stay until another needs their room. `tool_formats`: by
    model name, the wire format of tool calls to use instead of what the model's chat template shows (`chat.formats`).
    """

    max_num_sequences: int = 16
    max_waiting: int = 64
    max_context_tokens: int | None = None
    kv_budget_bytes: int | None = None
    prefix_cache_bytes: int | None = None
    prefill_chunk_tokens: int = 2048
    request_timeout_s: float = 600.0
    stall_timeout_s: float = 60.0
    warm_up: bool = True
    max_memory_bytes: int | None = None
    load_on_demand: bool = True
    idle_ttl_s: float | None = 3600.0
    tool_formats: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def max_open(self) -> int:
        """Choices that may be running and waiting together."""
        return self.max_num_sequences + self.max_waiting
