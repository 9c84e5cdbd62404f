"""What has to be free before a model is loaded: its folder looked over, its memory estimated, remembered while the
folder stays as it is. Any thread; imports MLX only to ask which device there is."""

from functools import lru_cache
from pathlib import Path

from basemlx.engine.config import EngineConfig
from basemlx.engine.models import config as model_config
from basemlx.engine.models.adapter import check_adapter
from basemlx.engine.models.estimate import estimate_memory
from basemlx.engine.models.folder import check_folder
from basemlx.engine.runtime import prepare

DENSE_SHARE = 0.6
"""Of the memory that models may have, the most that one model's dense weights may take."""


def needed_bytes(folder: Path, adapter: Path | None, config: EngineConfig, max_memory_bytes: int) -> int:
    """An estimate on the high side. Raises ModelCorrupt or ModelLoadFailed."""
    extra_bytes = 0 if adapter is None else 2 * check_adapter(adapter).size_bytes
    return extra_bytes + _estimated(folder, _state_of(folder), config, max_memory_bytes, prepare().device)


def _state_of(folder: Path) -> tuple[tuple[str, int, int], ...]:
    try:
        files = sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")])
        return tuple(
            (file.name, status.st_size, status.st_mtime_ns) for file in files for status in [file.stat()]
        )
    except OSError:
        return ()


@lru_cache(maxsize=64)
def _estimated(
    folder: Path,
    state: tuple[tuple[str, int, int], ...],
    config: EngineConfig,
    max_memory_bytes: int,
    device: str,
) -> int:
    checked = check_folder(folder)
    context_tokens = model_config.context_tokens(checked.config, checked.tokenizer_config)
    context_tokens = min(context_tokens, config.max_context_tokens or context_tokens)

    def total_bytes(precision: str) -> int:
        estimate = estimate_memory(
            checked,
            precision=precision,  # type: ignore[arg-type]
            context_tokens=context_tokens,
            prefill_chunk_tokens=config.prefill_chunk_tokens,
        )
        kv_bytes = estimate.kv_bytes
        if config.kv_budget_bytes is not None:
            kv_bytes = min(kv_bytes, config.kv_budget_bytes)
        return estimate.weights_bytes + kv_bytes + estimate.prefill_bytes

    if device != "cpu":
        return total_bytes("stored")
    dense = total_bytes("dense")
    return dense if dense <= DENSE_SHARE * max_memory_bytes else total_bytes("cast")
