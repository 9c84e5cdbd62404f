"""What a model's JSON files say: read within bounds, then the few facts the engine needs from them.

config.json and generation_config.json come from strangers. They are size-limited, must be plain JSON objects, and
every dimension that could make mlx-lm build a monster is bounded before mlx-lm sees it. Multimodal configs nest the
language model's part under `text_config`; lookups here try that part first. Imports no MLX.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from basemlx.engine.errors import ModelCorrupt, ModelLoadFailed

MAX_JSON_BYTES = 8 * 2**20
FALLBACK_CONTEXT_TOKENS = 8192  # for models that name no limit, as purely recurrent ones

Config = dict[str, Any]

# The largest published figure of each, times four or more.
_BOUNDS = {
    "num_hidden_layers": 1024,
    "n_layer": 1024,
    "n_layers": 1024,
    "num_layers": 1024,
    "num_nextn_predict_layers": 64,
    "hidden_size": 131_072,
    "n_embd": 131_072,
    "d_model": 131_072,
    "intermediate_size": 1_048_576,
    "moe_intermediate_size": 1_048_576,
    "num_attention_heads": 4096,
    "num_key_value_heads": 4096,
    "num_experts": 16_384,
    "n_routed_experts": 16_384,
    "num_local_experts": 16_384,
    "head_dim": 16_384,
    "vocab_size": 8_388_608,
    "max_position_embeddings": 1_000_000_000,
    "sliding_window": 1_000_000_000,
    "state_size": 16_384,
}
MAX_EXPERTS_IN_ALL = 262_144
_EXPERT_KEYS = ("num_experts", "n_routed_experts", "num_local_experts")
_MODEL_TYPE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "max_seq_len",
    "n_ctx",
    "seq_length",
)


# What published configs leave to the defaults of transformers and mlx-lm, as Gemma 3's multimodal ones do.
_UNSAID: dict[str, Mapping[str, int]] = {
    "gemma3": {
        "max_position_embeddings": 131_072,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
    },
}


def read_json_object(path: Path) -> Config:
    """A JSON object from a file, at most MAX_JSON_BYTES of it. Raises ModelCorrupt, which names the file."""
    value = read_json_value(path)
    if not isinstance(value, dict):
        raise ModelCorrupt(f"{path.name} is not a JSON object.")
    return value


def read_json_value(path: Path) -> Any:
    """Whatever JSON is in a file, within the same bounds."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ModelCorrupt(f"{path.name} is larger than {MAX_JSON_BYTES // 2**20} MiB.")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelCorrupt(f"{path.name} cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError):
        raise ModelCorrupt(f"{path.name} is not valid JSON.") from None


def check_config(config: Mapping[str, Any]) -> None:
    """Raises ModelCorrupt for dimensions out of bounds, ModelLoadFailed where a model wants its own code run."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not _MODEL_TYPE.fullmatch(model_type):
        raise ModelCorrupt("config.json names no model_type that could be a model's.")
    for part in _parts(config):
        if part.get("model_file") is not None:
            raise ModelLoadFailed(
                "config.json asks for code of its own (model_file) to be run, which basemlx never does. "
                "Use a conversion of this model for an architecture that mlx-lm has."
            )
        for key, most in _BOUNDS.items():
            value = part.get(key)
            if value is None or isinstance(value, list):  # some hybrids give one figure a layer
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value <= most:
                raise ModelCorrupt(f"config.json: {key} must be a whole number up to {most:,}.")
        experts = max(_count(part.get(key)) for key in _EXPERT_KEYS)
        if experts * _count(part.get("num_hidden_layers")) > MAX_EXPERTS_IN_ALL:
            raise ModelCorrupt("config.json names more experts in all layers together than any model has.")


def layer_count(config: Mapping[str, Any]) -> int:
    """Layers as stated, 0 where the config does not say."""
    return max(
        _count(part.get(key))
        for part in _parts(config)
        for key in ("num_hidden_layers", "n_layer", "n_layers")
    )


def wants_own_code(config: Mapping[str, Any]) -> bool:
    """Whether `auto_map` points at code in the repository. basemlx never runs it; a model whose architecture mlx-lm
    has itself does without."""
    return any(part.get("auto_map") for part in _parts(config))


def context_tokens(config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> int:
    """The most positions the model was made for. YaRN's factor counts from `original_max_position_embeddings`, as some
    configs (Qwen's) leave max_position_embeddings at the original; other scalings state the scaled figure."""
    for part in [*_parts(config, text_first=True), unsaid(config)]:
        for key in _CONTEXT_KEYS:
            limit = _count(part.get(key))
            if limit > 0:
                return max(limit, _yarn_tokens(part))
    limit = _count(tokenizer_config.get("model_max_length"))  # transformers writes 10**30 for "no limit"
    return limit if 0 < limit <= _BOUNDS["max_position_embeddings"] else FALLBACK_CONTEXT_TOKENS


def unsaid(config: Mapping[str, Any]) -> Mapping[str, int]:
    """Figures that hold for a model of this type where its config does not state them."""
    return _UNSAID.get(str(config.get("model_type")), {})


def eos_token_ids(*configs: Mapping[str, Any]) -> frozenset[int]:
    """Every token id that one of the configs calls the end; each may give one id or a list."""
    found: set[int] = set()
    for config in configs:
        for part in _parts(config):
            value = part.get("eos_token_id")
            ids = value if isinstance(value, list) else [value]
            found |= {item for item in ids if type(item) is int and item >= 0}
    return frozenset(found)


def generation_defaults(generation_config: Mapping[str, Any]) -> dict[str, float | int]:
    """Sampling settings that the model's makers recommend, named as in SamplingParams; odd values are left out."""
    ranges: dict[str, tuple[float, float]] = {
        "temperature": (0.0, 2.0),
        "top_p": (0.0, 1.0),
        "top_k": (0, 2**31 - 1),
        "min_p": (0.0, 1.0),
        "repetition_penalty": (1e-3, 10.0),
    }
    defaults: dict[str, float | int] = {}
    for name, (low, high) in ranges.items():
        value = generation_config.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            continue
        if low <= value <= high:
            defaults[name] = int(value) if name == "top_k" else float(value)
    return defaults


def quantization_name(config: Mapping[str, Any]) -> str | None:
    """How the weights are stored, for people: "4-bit", "mxfp4", "awq 4-bit"; None for plain floats."""
    for part in _parts(config):
        for key in ("quantization", "quantization_config"):
            settings = part.get(key)
            if isinstance(settings, dict):
                method = settings.get("quant_method") or settings.get("mode")
                words = [] if method in (None, "affine") else [str(method)[:32]]
                if type(settings.get("bits")) is int:
                    words.append(f"{settings['bits']}-bit")
                return " ".join(words) or "quantized"
    return None


def _parts(config: Mapping[str, Any], *, text_first: bool = False) -> Iterator[Mapping[str, Any]]:
    """The config and the language model's part of it, where that is nested."""
    nested: Iterable[Any] = (
        config.get("text_config"),
        config.get("llm_config"),
        config.get("language_config"),
    )
    parts = [part for part in nested if isinstance(part, dict)]
    yield from [*parts, config] if text_first else [config, *parts]


def _yarn_tokens(part: Mapping[str, Any]) -> int:
    for key in ("rope_scaling", "rope_parameters"):
        scaling = part.get(key)
        if not isinstance(scaling, dict) or scaling.get("rope_type", scaling.get("type")) != "yarn":
            continue
        factor, original = scaling.get("factor"), _count(scaling.get("original_max_position_embeddings"))
        if isinstance(factor, int | float) and 1 <= factor <= 1024:
            return int(original * factor)
    return 0


def _count(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0
