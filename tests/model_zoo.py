"""Small random-weight models on disk, as mlx-lm's converter would have written them, for tests that need a real one.

Each has real layers of its architecture, a real byte-level BPE tokenizer, a chat template, config.json,
generation_config.json and safetensors; none is larger than 1 MB and each takes well under a second to write. Logits are
wider than the tokenizer (VOCAB_SIZE against about 300 entries), as in most published models. What they say is noise,
but deterministic noise: weights come from `seed`.
"""

import importlib
import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from basemlx.engine.runtime import mlx_lm_module, mx, nn

VOCAB_SIZE = 384
CONTEXT_TOKENS = 2048
SLIDING_WINDOW_TOKENS = 32
GAIN = 5.0

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CORPUS = (
    "The quick brown fox jumps over the lazy dog. What is the weather in Tokyo today?",
    "A small model answers in small words, token by token, and stops when it is done.",
    '{"name": "Ada", "age": 36, "likes": ["tea", "numbers"]} — naïve café, 東京, 🙂',
)

_ATTENTION: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
_EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 64,
    "norm_topk_prob": True,
}

# kind -> what its config.json says beyond vocabulary, context and special tokens
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3": _ATTENTION | {"model_type": "qwen3"},
    "llama": _ATTENTION | {"model_type": "llama", "tie_word_embeddings": False},
    "qwen3_moe": _ATTENTION | _EXPERTS | {"model_type": "qwen3_moe"},
    # sliding-window layers: window, window, full
    "gemma3_text": _ATTENTION
    | {
        "model_type": "gemma3_text",
        "query_pre_attn_scalar": 32,
        "sliding_window": SLIDING_WINDOW_TOKENS,
        "sliding_window_pattern": 3,
    },
    # hybrid: gated delta, gated delta, full attention; experts
    "qwen3_next": _ATTENTION
    | _EXPERTS
    | {
        "model_type": "qwen3_next",
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "linear_conv_kernel_dim": 4,
        "shared_expert_intermediate_size": 64,
        "partial_rotary_factor": 0.5,
        "full_attention_interval": 3,
    },
    # hybrid: short convolutions and full attention
    "lfm2": {
        "model_type": "lfm2",
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "norm_eps": 1e-6,
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_dim": 64,
        "block_ff_dim": 128,
        "block_multiple_of": 64,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "layer_types": ["conv", "full_attention", "conv"],
        "tie_word_embeddings": True,
    },
    # purely recurrent
    "mamba2": {
        "model_type": "mamba2",
        "num_heads": 4,
        "head_dim": 32,
        "hidden_size": 64,
        "intermediate_size": 128,
        "state_size": 32,
        "num_hidden_layers": 3,
        "layer_norm_epsilon": 1e-6,
        "conv_kernel": 4,
        "n_groups": 1,
        "use_bias": False,
        "use_conv_bias": True,
        "tie_word_embeddings": True,
        "time_step_limit": [0.001, 100.0],
        "time_step_rank": "auto",
    },
}


def write_model(
    folder: Path,
    kind: str,
    *,
    bits: int | None = None,
    dtype: str = "float32",
    shards: int = 1,
    seed: int = 0,
    **config_overrides: Any,
) -> Path:
    """Writes a model of one of CONFIGS into `folder` (made if missing) and returns it.

    `bits` 4 or 8 quantises (group size 32) as published models are; `dtype` is that of the weights, or of the scales
    and norms of a quantised model ("bfloat16" is what is published); `shards` above 1 splits the weights and writes an
    index.
    """
    folder.mkdir(parents=True, exist_ok=True)
    eos_token_id = write_tokenizer(folder)
    config = CONFIGS[kind] | {
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": CONTEXT_TOKENS,
        "eos_token_id": eos_token_id,
        "torch_dtype": dtype,
    }
    config |= config_overrides
    architecture = mlx_lm_module(f"models.{config['model_type']}")
    mx.random.seed(seed)
    model = architecture.Model(architecture.ModelArgs.from_dict(config))
    _make_talkative(model)
    model.set_dtype(getattr(mx, dtype))
    if bits is not None:
        nn.quantize(model, group_size=32, bits=bits)
        config["quantization"] = {"group_size": 32, "bits": bits}
    _write_weights(
        folder, dict(importlib.import_module("mlx.utils").tree_flatten(model.parameters())), shards
    )
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    generation_config = {"eos_token_id": [eos_token_id, 0], "temperature": 0.7, "top_p": 0.8, "top_k": 20}
    (folder / "generation_config.json").write_text(json.dumps(generation_config))
    return folder


def write_tokenizer(folder: Path) -> int:
    """A byte-level BPE tokenizer with ChatML control tokens; returns the id of <|im_end|>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "model_max_length": CONTEXT_TOKENS,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    eos_token_id = tokenizer.token_to_id("<|im_end|>")
    assert eos_token_id is not None
    return int(eos_token_id)


def _make_talkative(model: Any) -> None:
    """Scales a fresh model's layers up, so that each token depends on all before it: left as initialised, layers add
    little to the embedding, the model repeats one token, and a wrong position or mask would go unseen."""
    tree_map_with_path = importlib.import_module("mlx.utils").tree_map_with_path

    def scaled(path: str, weight: Any) -> Any:
        if weight.ndim < 2 or "conv" in path or "embed" in path or path.endswith("lm_head.weight"):
            return weight
        return weight * GAIN

    model.update(tree_map_with_path(scaled, model.parameters()))


def _write_weights(folder: Path, weights: dict[str, Any], shards: int) -> None:
    if shards == 1:
        mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
        return
    names = sorted(weights)
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        file_name = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: weights[name] for name in names[shard::shards]}
        mx.save_safetensors(str(folder / file_name), part, metadata={"format": "mlx"})
        weight_map |= dict.fromkeys(part, file_name)
    total = sum(int(weight.nbytes) for weight in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
