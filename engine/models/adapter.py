"""LoRA adapters as mlx-lm writes them: a folder with adapter_config.json and adapters.safetensors.

Checked like a model before mlx-lm sees it: JSON within bounds, a whole safetensors header, an adapter's tensors only.
`check_adapter` imports no MLX; `apply_adapter` runs on the engine thread, on a model that is not evaluated yet.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basemlx.engine.errors import ModelCorrupt, ModelLoadFailed
from basemlx.engine.models.config import Config, read_json_object
from basemlx.engine.models.headers import read_header
from basemlx.engine.runtime import mlx_lm_module

if TYPE_CHECKING:
    from basemlx.engine.runtime import nn

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapters.safetensors"
PEFT_WEIGHTS_NAME = "adapter_model.safetensors"
MAX_RANK = 4096
_TENSOR_LEAVES = frozenset({"lora_a", "lora_b", "m"})
_KINDS = ("lora", "dora")


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter that passed. `size_bytes` is that of its weights."""

    folder: Path
    config: Config
    size_bytes: int


def check_adapter(folder: Path) -> Adapter:
    """Raises ModelCorrupt for what is missing or broken, ModelLoadFailed for other kinds of adapter."""
    if not folder.is_dir():
        raise ModelLoadFailed(
            "The adapter is not a folder with adapter_config.json and adapters.safetensors."
        )
    if not (folder / WEIGHTS_NAME).is_file():
        if (folder / PEFT_WEIGHTS_NAME).is_file():
            raise ModelLoadFailed(
                "The adapter is in PEFT's format; basemlx takes mlx-lm's. Train it with mlx_lm.lora, or fuse it into "
                "its model with PEFT and convert the result."
            )
        raise ModelCorrupt(f"The adapter's folder has no {WEIGHTS_NAME}.")
    if not (folder / CONFIG_NAME).is_file():
        raise ModelCorrupt(f"The adapter's folder has no {CONFIG_NAME}.")
    config = read_json_object(folder / CONFIG_NAME)
    if config.get("fine_tune_type", "lora") not in _KINDS:
        raise ModelLoadFailed(
            "The adapter holds a whole fine-tuned model. Fuse it with mlx_lm.fuse and load the result."
        )
    parameters = config.get("lora_parameters")
    layers = config.get("num_layers")
    if not isinstance(parameters, dict) or type(layers) is not int or not -1 <= layers <= 1024:
        raise ModelCorrupt(
            f"{CONFIG_NAME} names no num_layers and lora_parameters that could be an adapter's."
        )
    rank, scale = parameters.get("rank"), parameters.get("scale")
    if type(rank) is not int or not 1 <= rank <= MAX_RANK or type(scale) not in (int, float):
        raise ModelCorrupt(f"{CONFIG_NAME}: rank must be 1 to {MAX_RANK} and scale a number.")
    tensors = read_header(folder / WEIGHTS_NAME)
    strange = [name for name in tensors if name.rpartition(".")[2] not in _TENSOR_LEAVES]
    if strange or not tensors:
        raise ModelCorrupt(f"{WEIGHTS_NAME} holds no LoRA weights, or others beside them.")
    return Adapter(folder, config, sum(entry.size_bytes for entry in tensors.values()))


def apply_adapter(model: "nn.Module", adapter: Adapter) -> None:
    """Puts the adapter's layers into the model. Raises ModelCorrupt if they are not this model's."""
    load: Any = mlx_lm_module("tuner.utils").load_adapters
    try:
        load(model, str(adapter.folder))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        words = " ".join(str(error).replace(str(adapter.folder), "the adapter's folder").split())[:300]
        raise ModelCorrupt(f"The adapter does not fit the model: {words}") from None
    model.eval()
