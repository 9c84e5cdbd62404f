"""What loading a model takes, and in which precision: its folder looked over, its memory estimated, and that remembered
while the folder stays as it is. The one place where that is decided; who loads is told.

On a CPU weights become dense float32 where models have room for it and stay packed elsewhere; other devices take them
as they are stored. Any thread; imports MLX only to ask which device there is.
"""

from functools import lru_cache
from pathlib import Path

from basemlx.engine.config import EngineConfig
from basemlx.engine.embeddings.estimate import estimate_embedder
from basemlx.engine.models import config as model_config
from basemlx.engine.models.adapter import check_adapter
from basemlx.engine.models.estimate import LoadPlan, Precision, estimate_memory
from basemlx.engine.models.folder import check_folder
from basemlx.engine.models.purpose import Purpose
from basemlx.engine.runtime import prepare

DENSE_SHARE = 0.6
"""Of the memory that models may have, the most that one model may take with dense weights."""


def plan_load(
    folder: Path,
    adapter: Path | None,
    config: EngineConfig,
    room_bytes: int,
    purpose: Purpose = "generate",
) -> LoadPlan:
    """How to load it and what that takes, on the high side. `room_bytes`: what all models together may have, as things
    are. Raises ModelCorrupt or ModelLoadFailed."""
    extra_bytes = 0 if adapter is None else 2 * check_adapter(adapter).size_bytes
    state = _state_of(folder)
    if prepare().device != "cpu":
        return LoadPlan("stored", extra_bytes + _estimated(folder, state, config, "stored", purpose))
    dense_bytes = extra_bytes + _estimated(folder, state, config, "dense", purpose)
    if dense_bytes <= DENSE_SHARE * room_bytes:
        return LoadPlan("dense", dense_bytes)
    return LoadPlan("cast", extra_bytes + _estimated(folder, state, config, "cast", purpose))


def _state_of(folder: Path) -> tuple[tuple[str, int, int], ...]:
    try:
        files = sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")])
        return tuple(
            (file.name, status.st_size, status.st_mtime_ns) for file in files for status in [file.stat()]
        )
    except OSError:
        return ()


@lru_cache(maxsize=128)
def _estimated(
    folder: Path,
    state: tuple[tuple[str, int, int], ...],
    config: EngineConfig,
    precision: Precision,
    purpose: Purpose,
) -> int:
    checked = check_folder(folder)
    context_tokens = model_config.context_tokens(checked.config, checked.tokenizer_config)
    context_tokens = min(context_tokens, config.max_context_tokens or context_tokens)
    if purpose == "embed":
        return estimate_embedder(checked, precision=precision, context_tokens=context_tokens).total_bytes
    estimate = estimate_memory(
        checked,
        precision=precision,
        context_tokens=context_tokens,
        prefill_chunk_tokens=config.prefill_chunk_tokens,
    )
    kv_bytes = estimate.kv_bytes
    if config.kv_budget_bytes is not None:
        kv_bytes = min(kv_bytes, config.kv_budget_bytes)
    return estimate.weights_bytes + kv_bytes + estimate.prefill_bytes
