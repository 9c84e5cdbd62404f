"""What rows take, against the caches that mlx-lm fills for models of each kind."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from basemlx.engine.models.estimate import float_bytes_of, kv_token_values
from basemlx.engine.models.folder import check_folder
from basemlx.engine.runtime import mlx_lm_module, mx, tree_flatten
from tests.model_zoo import CONFIGS

TOKENS = 256  # of which caches keep room for whole numbers
_SIZES = {"vocab_size": 512, "max_position_embeddings": 2048}
_LATENT: dict[str, Any] = _SIZES | {
    "hidden_size": 128,
    "intermediate_size": 64,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "n_shared_experts": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "kv_lora_rank": 96,
    "q_lora_rank": 48,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 24,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "attention_bias": False,
}
_YARN = {
    "type": "yarn",
    "factor": 1.0,
    "original_max_position_embeddings": 2048,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "beta_fast": 32,
    "beta_slow": 1,
}
_FACTORS = {"original_max_position_embeddings": 2048, "short_factor": [1.0] * 8, "long_factor": [1.0] * 8}
KINDS: dict[str, dict[str, Any]] = {
    "qwen3": CONFIGS["qwen3"] | _SIZES,
    "llama": CONFIGS["llama"] | _SIZES,
    "deepseek_v2": _LATENT | {"rope_scaling": _YARN, "routed_scaling_factor": 1.0, "topk_method": "greedy"},
    "minicpm3": _LATENT
    | {
        "dim_model_base": 64,
        "scale_depth": 1.4,
        "scale_emb": 12,
        "rope_scaling": _FACTORS,
        "v_head_dim": None,
    },
    "youtu_llm": _LATENT,
    "deepseek_v3": _LATENT | {"rope_scaling": _YARN},
    "deepseek_v32": _LATENT | {"index_head_dim": 32, "index_n_heads": 4, "index_topk": 64},
    "glm4_moe_lite": _LATENT,
    "longcat_flash": _LATENT
    | {
        "ffn_hidden_size": 64,
        "expert_ffn_hidden_size": 64,
        "moe_topk": 2,
        "zero_expert_num": 1,
        "zero_expert_type": "identity",
        "attention_method": "MLA",
        "routed_scaling_factor": 1.0,
        "mla_scale_q_lora": True,
        "mla_scale_kv_lora": True,
        "num_layers": 2,
    },
    "mistral4": _LATENT
    | {
        "rope_parameters": _YARN | {"rope_theta": 1e4, "llama_4_scaling_beta": 0.1},
        "head_dim": 48,
        "routed_scaling_factor": 1.0,
        "norm_topk_prob": True,
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_values_of_a_position_are_what_mlx_lm_keeps_of_it(kind: str) -> None:
    config = {key: value for key, value in KINDS[kind].items() if value is not None} | {"model_type": kind}
    model_class, args_class = mlx_lm_module("utils")._get_classes(config)
    model = model_class(args_class.from_dict(config))
    cache = mlx_lm_module("models.cache").make_prompt_cache(model)
    mx.eval(model(mx.zeros((1, TOKENS), dtype=mx.int32), cache=cache))
    kept = [layer.state for layer in cache]
    assert kv_token_values(config) * TOKENS == sum(
        value.size for _, value in tree_flatten(kept) if isinstance(value, mx.array)
    )


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_numbers_are_as_wide_as_mlx_computes_them_from_weights_as_stored(
    zoo: Callable[..., Path], dtype: str, bits: int | None
) -> None:
    folder = zoo("qwen3", bits=bits, dtype=dtype)
    model, _ = mlx_lm_module("utils").load_model(folder)
    cache = mlx_lm_module("models.cache").make_prompt_cache(model)
    model(mx.zeros((1, 4), dtype=mx.int32), cache=cache)
    checked = check_folder(folder)
    assert float_bytes_of(checked, "stored") == cache[0].keys.dtype.size
    assert float_bytes_of(checked, "cast") == 4


def test_norms_in_float32_make_all_numbers_as_wide(zoo: Callable[..., Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(zoo("qwen3", dtype="bfloat16"), tmp_path / "m"))
    weights: Any = mx.load(str(folder / "model.safetensors"))
    wide = {
        name: value.astype(mx.float32) if name.endswith("norm.weight") else value
        for name, value in weights.items()
    }
    mx.eval(list(wide.values()))
    mx.save_safetensors(str(folder / "model.safetensors"), wide)
    model, _ = mlx_lm_module("utils").load_model(folder)
    cache = mlx_lm_module("models.cache").make_prompt_cache(model)
    model(mx.zeros((1, 4), dtype=mx.int32), cache=cache)
    assert float_bytes_of(check_folder(folder), "stored") == cache[0].keys.dtype.size == 4
