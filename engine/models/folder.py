"""Looks a model folder over before anything of it is loaded, and says in one sentence what is missing or refused.

Needed: config.json, tokenizer.json, and weights as model*.safetensors, all shards of them and each whole. Refused:
folders with only pickled or GGUF weights, and models that need their own code. Messages carry file names, never paths.
Reads JSON and safetensors headers; imports no MLX.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from basemlx.engine.errors import ModelCorrupt, ModelLoadFailed
from basemlx.engine.models.config import Config, check_config, layer_count, read_json_object
from basemlx.engine.models.headers import TensorEntry, read_header
from basemlx.engine.models.packing import check_settings, check_tensors
from basemlx.engine.models.purpose import check_architecture

INDEX_NAME = "model.safetensors.index.json"
_SHARD_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.safetensors")
_PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".pkl", ".ckpt", ".npz"}
_NAMES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder that passed. `tensors` are as stored; `size_bytes` is that of the weight files."""

    folder: Path
    config: Config
    generation_config: Config
    tokenizer_config: Config
    tensors: dict[str, TensorEntry]
    size_bytes: int
    created_s: int


def check_folder(folder: Path) -> ModelFolder:
    """Raises ModelCorrupt for what is missing or broken, ModelLoadFailed for what basemlx does not load."""
    try:
        return _checked(folder)
    except OSError as error:  # no permission, a disk that fails, a file that was just removed
        raise ModelCorrupt(f"The model's folder cannot be read ({error.strerror}).") from None


def _checked(folder: Path) -> ModelFolder:
    if not folder.is_dir():
        raise ModelCorrupt(
            "The model is not a folder with config.json, tokenizer.json and safetensors weights."
        )
    if not (folder / "config.json").is_file():
        if any(folder.glob("*.gguf")):
            raise _gguf_refused()
        raise ModelCorrupt("The model's folder has no config.json; download or convert the model again.")
    config = read_json_object(folder / "config.json")
    check_config(config)
    check_architecture(config)
    check_settings(config)
    files = _weight_files(folder)
    if not (folder / "tokenizer.json").is_file():
        raise ModelCorrupt(
            "The model's folder has no tokenizer.json. Take it from the original model, or convert its tokenizer "
            "with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...)."
        )
    tensors: dict[str, TensorEntry] = {}
    for file in files:
        tensors |= read_header(file)
    _check_index_tensors(folder, tensors)
    check_tensors(tensors)
    if layer_count(config) > len(tensors):
        raise ModelCorrupt(
            f"config.json names {layer_count(config)} layers, but the weight files hold only {len(tensors)} tensors."
        )
    return ModelFolder(
        folder=folder,
        config=config,
        generation_config=_optional_json(folder / "generation_config.json"),
        tokenizer_config=_optional_json(folder / "tokenizer_config.json"),
        tensors=tensors,
        size_bytes=sum(file.stat().st_size for file in files),
        created_s=int((folder / "config.json").stat().st_mtime),
    )


def _weight_files(folder: Path) -> list[Path]:
    """The files that mlx-lm will read, complete by the index's word and by their own numbering."""
    files = sorted(folder.glob("model*.safetensors"))
    present = {file.name for file in files}
    expected = set(_index(folder).values())
    expected |= shards_of(present | expected)
    missing = sorted(expected - present)
    if missing and (files or expected):
        raise ModelCorrupt(
            f"{len(missing)} of the model's {len(expected)} weight files are missing: {_some(missing)}. "
            "Download the model again."
        )
    if files:
        return files
    if any(folder.glob("*.gguf")):
        raise _gguf_refused()
    if any(file.suffix in _PICKLE_SUFFIXES for file in folder.iterdir()):
        raise ModelLoadFailed(
            "The model's weights are pickled (.bin, .pt and the like), which can run code and is never opened. "
            "Convert the model to safetensors, for instance with mlx_lm.convert on a machine where you trust it."
        )
    raise ModelCorrupt("The model's folder has no weights (model*.safetensors); download the model again.")


def shards_of(names: Collection[str]) -> set[str]:
    """All files of the sharded models that some of the names belong to, by their numbering."""
    shards: set[str] = set()
    for name in names:
        if name not in shards and (match := _SHARD_NAME.fullmatch(name)):
            stem, _, count = match.groups()
            shards |= {f"{stem}-{shard:05d}-of-{count}.safetensors" for shard in range(1, int(count) + 1)}
    return shards


def _gguf_refused() -> ModelLoadFailed:
    return ModelLoadFailed(
        "The model is in GGUF format, which basemlx does not load. Use its MLX or safetensors version."
    )


def _index(folder: Path) -> dict[str, str]:
    """Tensor name to file name, from the index of a sharded model; empty where there is none."""
    path = folder / INDEX_NAME
    if not path.is_file():
        return {}
    weight_map = read_json_object(path).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ModelCorrupt(f"{INDEX_NAME} has no weight_map.")
    for file_name in weight_map.values():
        if not isinstance(file_name, str) or not re.fullmatch(r"[\w.-]{1,128}\.safetensors", file_name):
            raise ModelCorrupt(f"{INDEX_NAME} names a weight file outside the model's folder.")
    if len(weight_map) > 1_000_000 or len(set(weight_map.values())) > 10_000:
        raise ModelCorrupt(f"{INDEX_NAME} names more tensors or files than any model has.")
    return weight_map


def _check_index_tensors(folder: Path, tensors: dict[str, TensorEntry]) -> None:
    missing = sorted(set(_index(folder)) - set(tensors))
    if missing:
        raise ModelCorrupt(
            f"The weight files lack {len(missing)} tensors that {INDEX_NAME} names. Download the model again."
        )


def _optional_json(path: Path) -> Config:
    return read_json_object(path) if path.is_file() else {}


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown} and {len(names) - _NAMES_SHOWN} more"
