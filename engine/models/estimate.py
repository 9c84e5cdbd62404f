"""How much memory a model will take, from its headers and its config: what decides whether it is loaded at all.

Three parts: the weights in the precision that the device gets, KV rows for a first answer, and the temporaries of the
largest prefill forward. Each errs on the high side where a config leaves it open. A model's full context is often
larger than any machine, so KV is counted for at most FIRST_ANSWER_TOKENS: what is left of the ceiling becomes the KV
budget, and a prompt that does not fit that is refused by name.

Imports no MLX, opens no file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from basemlx.engine.models.config import unsaid
from basemlx.engine.models.folder import ModelFolder
from basemlx.engine.models.packing import PACKED_DTYPE

Precision = Literal["stored", "dense", "cast"]
"""How weights are held in memory: `precision.py` says what each is and does it."""

FIRST_ANSWER_TOKENS = 4096
CPU_CHUNK_TOKENS = 1024
"""What a CPU computes of a prompt in the quarter of a second a forward may take; more only of the smallest models."""

_FLOAT_DTYPES = frozenset({"F16", "BF16", "F32"})
_FLOAT32_BYTES, _HALF_BYTES = 4, 2


_CACHES_LATENT = frozenset(
    {
        "bailing_hybrid",
        "bailing_moe_v3",
        "deepseek_v3",
        "deepseek_v32",
        "glm4_moe_lite",
        "glm_moe_dsa",
        "joyai_llm_flash",
        "kimi_k2",
        "kimi_k25",
        "kimi_k3",
        "kimi_linear",
        "kimi_vl",
        "longcat_flash",
        "longcat_flash_ngram",
        "mistral4",
    }
)
"""Models with latent attention (MLA) whose rows in mlx-lm hold the latent. Others with it (DeepSeek V2, MiniCPM 3,
Youtu), and such as are not known, hold the keys and values of every head that are computed from it."""


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What is decided of a model before it is loaded, once: how its weights are held, and the memory that it takes with
    them. `needs.plan_load` decides."""

    precision: Precision
    num_bytes: int


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes. `kv_token_bytes` is what one more position of one row takes."""

    weights_bytes: int
    kv_token_bytes: int
    kv_bytes: int
    prefill_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes + self.prefill_bytes


def estimate_memory(
    checked: ModelFolder,
    *,
    precision: Precision,
    context_tokens: int,
    prefill_chunk_tokens: int,
) -> MemoryEstimate:
    """ "dense" and "cast" are float32 on a CPU, "stored" is what the files hold."""
    part = language_part(checked.config)
    float_bytes = float_bytes_of(checked, precision)
    tokens = min(context_tokens, FIRST_ANSWER_TOKENS)
    kv_token_bytes = kv_token_values(part) * float_bytes
    chunk = min(prefill_chunk_tokens, tokens)
    prefill_bytes = chunk * activation_bytes(part, float_bytes)
    if precision != "stored":  # attention scores are whole matrices on a CPU, one layer's at a time
        rows = min(chunk, CPU_CHUNK_TOKENS)
        prefill_bytes += 3 * count(part, "num_attention_heads") * rows * tokens * _FLOAT32_BYTES
    return MemoryEstimate(
        weights_bytes=weights_bytes_of(checked, precision),
        kv_token_bytes=kv_token_bytes,
        kv_bytes=tokens * kv_token_bytes,
        prefill_bytes=prefill_bytes,
    )


def float_bytes_of(checked: ModelFolder, precision: Precision) -> int:
    """Of a number that is computed: activations, and keys and values. As stored, they are as wide as the weights, or
    the scales of packed ones; float32 norms alone make everything after them float32."""
    if precision != "stored":
        return _FLOAT32_BYTES
    wide = all_floats = 0
    for name, entry in checked.tensors.items():
        if entry.dtype in _FLOAT_DTYPES:
            size = _size(entry.shape)
            all_floats += size
            wide += size * (entry.dtype == "F32")
            if entry.dtype == "F32" and name.endswith("norm.weight"):
                return _FLOAT32_BYTES
    return _FLOAT32_BYTES if 2 * wide > all_floats else _HALF_BYTES


def activation_bytes(part: Mapping[str, Any], float_bytes: int) -> int:
    """Of one token in a forward, all layers' temporaries that live at once: six of the widest."""
    inner = count(part, "intermediate_size", "moe_intermediate_size", "n_inner")
    return 6 * max(inner, 2 * count(part, "hidden_size", "n_embd", "d_model")) * float_bytes


def weights_bytes_of(checked: ModelFolder, precision: str) -> int:
    if precision == "stored":
        return sum(entry.size_bytes for entry in checked.tensors.values())
    tensors = checked.tensors
    group_size = _group_size(checked.config)
    total = 0
    for name, entry in tensors.items():
        base, _, leaf = name.rpartition(".")
        scales = tensors.get(f"{base}.scales")
        if scales is not None and precision == "dense":
            if leaf == "weight" and entry.dtype == PACKED_DTYPE and scales.shape:
                # One scale for each group of weights along the last axis.
                total += _size(scales.shape) * group_size * _FLOAT32_BYTES
                continue
            if leaf in ("scales", "biases"):
                continue
        floats = entry.dtype in _FLOAT_DTYPES
        total += _size(entry.shape) * _FLOAT32_BYTES if floats else entry.size_bytes
    return total


def _group_size(config: Mapping[str, Any]) -> int:
    for key in ("quantization", "quantization_config"):
        settings = config.get(key)
        if isinstance(settings, dict) and type(settings.get("group_size")) is int:
            return max(1, min(int(settings["group_size"]), 1024))
    return 64  # mlx-lm's own default


def kv_token_values(part: Mapping[str, Any]) -> int:
    """Numbers that one position adds to a row: keys and values of each layer, or the latent that they come from."""
    layers = count(part, "num_hidden_layers", "n_layers", "n_layer", "num_layers")
    heads = count(part, "num_attention_heads", "n_head", "num_heads")
    latent = count(part, "kv_lora_rank")
    if latent:
        rope, model_type = count(part, "qk_rope_head_dim"), str(part.get("model_type"))
        if model_type in _CACHES_LATENT:
            attentions = 2 if model_type.startswith("longcat") else 1  # of one layer
            return layers * (attentions * (latent + rope) + 2 * count(part, "index_head_dim"))
        values = count(part, "v_head_dim") or count(part, "hidden_size") // max(heads, 1)
        return layers * heads * (count(part, "qk_nope_head_dim") + rope + values)
    kv_heads = count(part, "num_key_value_heads") or heads
    head_dim = count(part, "head_dim") or count(part, "hidden_size", "n_embd", "d_model") // max(heads, 1)
    return layers * 2 * kv_heads * head_dim


def language_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in ("text_config", "llm_config", "language_config"):
        if isinstance(config.get(key), dict):
            return {**unsaid(config), **config, **config[key]}
    return {**unsaid(config), **config}


def count(part: Mapping[str, Any], *keys: str) -> int:
    """The largest figure under any of the keys; some hybrids give one a layer."""
    figures = [0]
    for key in keys:
        value = part.get(key)
        figures += [item for item in (value if isinstance(value, list) else [value]) if type(item) is int]
    return max(figures)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size
