"""How a model's hidden states become a vector, as the sentence-transformers files in its folder say.

    modules.json                        Transformer, Pooling and perhaps Normalize, in this order
    1_Pooling/config.json               which pooling
    sentence_bert_config.json           the longest input, lower-casing
    config_sentence_transformers.json   prompts by name, similarity, truncate_dim

Whatever is in there and not known (a Dense layer, weighted layers) is refused by name: leaving it out would give
vectors that look right and are not. Files come from strangers: read within bounds, paths never leave the folder.
Imports no MLX.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from basemlx.engine.errors import ModelCorrupt, ModelLoadFailed
from basemlx.engine.models.config import read_json_object, read_json_value
from basemlx.engine.models.purpose import ENCODER_TYPES, RECIPE_FILE

Pooling = Literal["cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]

# As 1_Pooling/config.json spells them: one flag each, or the short name under "pooling_mode".
_FLAGS: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_MODULES = ("Transformer", "Pooling", "Normalize")
_FOLDER = re.compile(r"[A-Za-z0-9_-]{1,64}")
MAX_PROMPTS = 64
MAX_PROMPT_CHARACTERS = 4096


@dataclass(frozen=True, slots=True)
class Recipe:
    """`pooling` in the order in which results are joined, mostly one. `max_tokens` None: as many as the model has
    positions. `prompts` are texts to put before an input, by name; `default_prompt` is the name of one or None.
    `truncate_dim` is how many dimensions a vector has unless more or fewer are asked for, None for all."""

    pooling: tuple[Pooling, ...]
    normalize: bool
    max_tokens: int | None = None
    lowercase: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    truncate_dim: int | None = None


ENCODER_DEFAULT = Recipe(pooling=("mean",), normalize=True)
"""For a bare encoder: sentence-transformers pools those by their mean too."""
DECODER_DEFAULT = Recipe(
    pooling=("lasttoken",),
    normalize=True,
    prompts={
        "query": "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:",
        "document": "",
    },
)
"""For a conversion of Qwen3-Embedding that lost its files: how it pools, and the prompts of its model card."""


def recipe_of(folder: Path, config: Mapping[str, Any]) -> Recipe:
    """The recipe of a model that embeds, with the default for its kind where its files say nothing. Raises
    ModelCorrupt, and ModelLoadFailed for what is not computed here."""
    if config["model_type"] in ENCODER_TYPES:
        return read_recipe(folder, ENCODER_DEFAULT)
    if config.get("is_causal") is False or config.get("use_bidirectional_attention"):
        raise ModelLoadFailed(
            "The model is a decoder whose attention was made to see both ways, which mlx-lm does not compute."
        )
    recipe = read_recipe(folder, DECODER_DEFAULT)
    if recipe.pooling != ("lasttoken",):
        raise ModelLoadFailed(
            "The model is not pooled by its last token. That is done for encoders alone "
            f"({', '.join(sorted(ENCODER_TYPES))}), and {config['model_type']!r} is none of them."
        )
    return recipe


def read_recipe(folder: Path, otherwise: Recipe | None) -> Recipe:
    """The recipe in `folder`; `otherwise` stands for the pooling, and for the prompts, where nothing is said of them
    (None: no pooling is an error).

    Raises ModelCorrupt for files that are broken or missing, ModelLoadFailed for steps that are not known here.
    """
    pooling, normalize = _read_modules(folder, otherwise)
    lengths = _optional(folder / "sentence_bert_config.json")
    settings = _optional(folder / "config_sentence_transformers.json")
    is_bare = not settings and not (folder / RECIPE_FILE).is_file()
    prompts = otherwise.prompts if otherwise is not None and is_bare else _read_prompts(settings)
    default_prompt = settings.get("default_prompt_name")
    if default_prompt is not None and default_prompt not in prompts:
        raise ModelCorrupt("config_sentence_transformers.json names a default prompt that it does not have.")
    return Recipe(
        pooling=pooling,
        normalize=normalize,
        max_tokens=_positive(lengths, "max_seq_length", "sentence_bert_config.json"),
        lowercase=lengths.get("do_lower_case") is True,
        prompts=prompts,
        default_prompt=default_prompt,
        truncate_dim=_positive(settings, "truncate_dim", "config_sentence_transformers.json"),
    )


def _read_modules(folder: Path, otherwise: Recipe | None) -> tuple[tuple[Pooling, ...], bool]:
    if not (folder / RECIPE_FILE).is_file():
        if otherwise is None:
            raise ModelLoadFailed(
                "The model's folder has no modules.json, which says how its vectors are made. Download the whole "
                "repository of the original model."
            )
        return otherwise.pooling, otherwise.normalize
    modules = read_json_value(folder / RECIPE_FILE)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ModelCorrupt("modules.json is not a list of modules.")
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    for kind in kinds:
        if kind not in _MODULES:
            raise ModelLoadFailed(
                f"modules.json has a step {kind[:64]!r}, which basemlx does not know; its vectors would be wrong."
            )
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ModelLoadFailed("modules.json has steps in an order that basemlx does not know.")
    if modules[0].get("path") not in ("", None):
        raise ModelLoadFailed(
            "modules.json puts the weights into a folder of their own, which is not supported."
        )
    name = modules[1].get("path")
    if not isinstance(name, str) or not _FOLDER.fullmatch(name):
        raise ModelCorrupt("modules.json names a folder that is none of the model's.")
    path = folder / name / "config.json"
    if path.is_file():
        return _read_pooling(read_json_object(path)), "Normalize" in kinds
    if otherwise is None or "lasttoken" not in otherwise.pooling:
        raise ModelCorrupt(
            f"{name}/config.json is missing, which says how hidden states are pooled. Download the whole repository."
        )
    return (
        otherwise.pooling,
        "Normalize" in kinds,
    )  # converters copy top-level files only; decoders pool one way


def _read_pooling(config: Mapping[str, Any]) -> tuple[Pooling, ...]:
    if config.get("include_prompt") is False:
        raise ModelLoadFailed("The model pools without its prompt (include_prompt), which is not supported.")
    named = config.get("pooling_mode")
    names = [named] if isinstance(named, str) else named
    if names is None:
        found = tuple(mode for flag, mode in _FLAGS.items() if config.get(flag) is True)
    else:
        known = {mode: mode for mode in _FLAGS.values()}
        if not isinstance(names, list) or any(name not in known for name in names):
            raise ModelLoadFailed("The model pools in a way that basemlx does not know (pooling_mode).")
        found = tuple(known[name] for name in names)
    if not found:
        raise ModelLoadFailed("The model's pooling config names no pooling that basemlx knows.")
    return found


def _read_prompts(settings: Mapping[str, Any]) -> dict[str, str]:
    prompts = settings.get("prompts") or {}
    valid = isinstance(prompts, dict) and len(prompts) <= MAX_PROMPTS
    if not valid or not all(
        isinstance(text, str) and len(text) <= MAX_PROMPT_CHARACTERS for text in prompts.values()
    ):
        raise ModelCorrupt("config_sentence_transformers.json has prompts that are not short texts by name.")
    return dict(prompts)


def _positive(settings: Mapping[str, Any], name: str, file: str) -> int | None:
    value = settings.get(name)
    if value is not None and (type(value) is not int or value < 1):
        raise ModelCorrupt(f"{file}: {name} must be a positive whole number.")
    return value


def _optional(path: Path) -> dict[str, Any]:
    return read_json_object(path) if path.is_file() else {}
