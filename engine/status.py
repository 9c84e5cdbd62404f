"""What an engine tells of itself: whether it serves, and what it has done. Plain data."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Health:
    """Whether requests are served. `reason` says why not; `heartbeat_age_s` is 0 while there is nothing to do; `stuck`:
    a step takes longer than any should."""

    ok: bool
    reason: str | None
    heartbeat_age_s: float
    running: int
    waiting: int
    stuck: bool = False


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counts since the start, and what is held now. Bytes of MLX's own allocations."""

    running: int = 0
    waiting: int = 0
    models_loaded: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    finished: dict[str, int] = field(default_factory=dict)
    kv_bytes: int = 0
    prefix_cache_bytes: int = 0
    prefix_cache_entries: int = 0
    active_bytes: int = 0
    cache_bytes: int = 0
    peak_bytes: int = 0
