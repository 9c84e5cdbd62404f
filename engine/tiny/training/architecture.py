"""The shape of the built-in model, and its configuration as mlx-lm and transformers read it.

Qwen3: grouped-query attention with normalised queries and keys, rotary positions, SwiGLU, RMS norms, tied embeddings.
14.2 million parameters. Chosen by what two CPU cores decode at 60 tokens a second with MLX's own BLAS.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Shape:
    vocab_size: int = 4096
    layers: int = 8
    hidden: int = 384
    intermediate: int = 1024
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 64
    rope_base: float = 50_000.0
    norm_epsilon: float = 1e-6
    context_tokens: int = 8192


SHAPE = Shape()
GROUP_SIZE = 64
BITS = 4


def config(end_of_turn: int, end_of_text: int, shape: Shape = SHAPE) -> dict[str, Any]:
    """config.json of the exported model."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_turn,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": shape.context_tokens,
        "model_type": "qwen3",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "quantization": {"group_size": GROUP_SIZE, "bits": BITS},
        "rms_norm_eps": shape.norm_epsilon,
        "rope_scaling": None,
        "rope_theta": shape.rope_base,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": shape.vocab_size,
    }


def parameter_shapes(shape: Shape = SHAPE) -> dict[str, tuple[int, ...]]:
    """Every weight by the name that mlx-lm and transformers give it; matrices are [out, in]."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocab_size, shape.hidden)}
    for layer in range(shape.layers):
        at = f"model.layers.{layer}."
        shapes[at + "self_attn.q_proj.weight"] = (shape.heads * shape.head_dim, shape.hidden)
        shapes[at + "self_attn.k_proj.weight"] = (shape.kv_heads * shape.head_dim, shape.hidden)
        shapes[at + "self_attn.v_proj.weight"] = (shape.kv_heads * shape.head_dim, shape.hidden)
        shapes[at + "self_attn.o_proj.weight"] = (shape.hidden, shape.heads * shape.head_dim)
        shapes[at + "self_attn.q_norm.weight"] = (shape.head_dim,)
        shapes[at + "self_attn.k_norm.weight"] = (shape.head_dim,)
        shapes[at + "mlp.gate_proj.weight"] = (shape.intermediate, shape.hidden)
        shapes[at + "mlp.up_proj.weight"] = (shape.intermediate, shape.hidden)
        shapes[at + "mlp.down_proj.weight"] = (shape.hidden, shape.intermediate)
        shapes[at + "input_layernorm.weight"] = (shape.hidden,)
        shapes[at + "post_attention_layernorm.weight"] = (shape.hidden,)
    shapes["model.norm.weight"] = (shape.hidden,)
    return shapes


def parameter_count(shape: Shape = SHAPE) -> int:
    total = 0
    for dimensions in parameter_shapes(shape).values():
        size = 1
        for dimension in dimensions:
            size *= dimension
        total += size
    return total
