"""Small random-weight embedding models on disk, named and laid out as published ones are, and what they compute written
again in plain numpy, one input at a time: no padding, no batching, no MLX."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from basemlx.engine.runtime import mx

Array = NDArray[np.float64]
Weights = dict[str, NDArray[np.float32]]

VOCAB_SIZE = 200
HIDDEN = 32
HEADS = 4
INNER = 64
LAYERS = 2
POSITIONS = 64

BERT: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "max_position_embeddings": POSITIONS,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "pad_token_id": 0,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": BERT,
    "xlm-roberta": BERT | {"model_type": "xlm-roberta", "pad_token_id": 1, "type_vocab_size": 1},
    "nomic_bert": {
        "model_type": "nomic_bert",
        "vocab_size": VOCAB_SIZE,
        "n_embd": HIDDEN,
        "n_layer": LAYERS,
        "n_head": HEADS,
        "n_inner": INNER,
        "n_positions": 8192,
        "max_trained_positions": POSITIONS,
        "type_vocab_size": 2,
        "layer_norm_epsilon": 1e-12,
        "activation_function": "swiglu",
        "rotary_emb_base": 1000,
        "rotary_emb_fraction": 1.0,
        "prenorm": False,
        "qkv_proj_bias": False,
        "mlp_fc1_bias": False,
    },
}
CORPUS = [
    "the quick brown fox jumps over the lazy dog and runs away",
    "a small model answers in small words, token by token",
    "what is the weather in tokyo today? naïve café",
]


def write_encoder(
    folder: Path,
    kind: str = "bert",
    *,
    pooling: dict[str, Any] | None = None,
    normalize: bool = True,
    files: dict[str, Any] | None = None,
    prefix: str = "",
    seed: int = 0,
    **config: Any,
) -> Weights:
    """Writes a whole sentence-transformers folder; returns its weights as stored. `files` are further JSON files."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = CONFIGS[kind] | config
    weights = make_weights(settings, seed)
    stored = {prefix + name: mx.array(value) for name, value in weights.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), stored, metadata={"format": "pt"})
    write_word_pieces(folder)
    write_recipe(folder, pooling or {"pooling_mode_mean_tokens": True}, normalize)
    for name, content in {"config.json": settings, **(files or {})}.items():
        (folder / name).write_text(json.dumps(content))
    return weights


def write_recipe(folder: Path, pooling: dict[str, Any], normalize: bool) -> None:
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {
            "idx": index,
            "name": str(index),
            "path": paths[index],
            "type": f"sentence_transformers.models.{kind}",
        }
        for index, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def write_word_pieces(folder: Path) -> None:
    """BERT's scheme, saved with truncation and padding on, as many published ones are."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=160, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    ends = [("[CLS]", tokenizer.token_to_id("[CLS]")), ("[SEP]", tokenizer.token_to_id("[SEP]"))]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def make_weights(config: dict[str, Any], seed: int) -> Weights:
    """Large enough that every layer, position and neighbour shows in the result."""
    generator = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        return (generator.normal(size=(rows, columns)) * 1.5 / math.sqrt(columns)).astype(np.float32)

    def vector(size: int, around: float = 0.0) -> NDArray[np.float32]:
        return (around + 0.2 * generator.normal(size=size)).astype(np.float32)

    nomic = config["model_type"] == "nomic_bert"
    weights: Weights = {
        "embeddings.word_embeddings.weight": 4 * matrix(VOCAB_SIZE, HIDDEN),
        "embeddings.token_type_embeddings.weight": matrix(config["type_vocab_size"], HIDDEN),
    }
    if not nomic:
        weights["embeddings.position_embeddings.weight"] = 4 * matrix(POSITIONS, HIDDEN)
        weights["pooler.dense.weight"] = matrix(HIDDEN, HIDDEN)
    norms = ["emb_ln"] if nomic else ["embeddings.LayerNorm"]
    for layer in range(LAYERS):
        if nomic:
            stem = f"encoder.layers.{layer}."
            sizes = {
                "attn.Wqkv": (3 * HIDDEN, HIDDEN),
                "attn.out_proj": (HIDDEN, HIDDEN),
                "mlp.fc11": (INNER, HIDDEN),
                "mlp.fc12": (INNER, HIDDEN),
                "mlp.fc2": (HIDDEN, INNER),
            }
            norms += [stem + "norm1", stem + "norm2"]
        else:
            stem = f"encoder.layer.{layer}."
            sizes = {f"attention.self.{name}": (HIDDEN, HIDDEN) for name in ("query", "key", "value")}
            sizes |= {
                "attention.output.dense": (HIDDEN, HIDDEN),
                "intermediate.dense": (INNER, HIDDEN),
                "output.dense": (HIDDEN, INNER),
            }
            norms += [stem + "attention.output.LayerNorm", stem + "output.LayerNorm"]
        for name, (rows, columns) in sizes.items():
            weights[f"{stem}{name}.weight"] = matrix(rows, columns)
            if not nomic:
                weights[f"{stem}{name}.bias"] = vector(rows)
    for name in norms:
        weights[f"{name}.weight"] = vector(HIDDEN, around=1.0)
        weights[f"{name}.bias"] = vector(HIDDEN)
    return weights


def hidden_states(weights: Weights, config: dict[str, Any], token_ids: list[int]) -> Array:
    """[T, D] of one input, in float64."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    nomic = config["model_type"] == "nomic_bert"
    first = config["pad_token_id"] + 1 if config["model_type"] == "xlm-roberta" else 0
    x = w["embeddings.word_embeddings.weight"][token_ids] + w["embeddings.token_type_embeddings.weight"][0]
    if not nomic:
        x = x + w["embeddings.position_embeddings.weight"][first : first + len(token_ids)]
    x = _norm(x, w, "emb_ln" if nomic else "embeddings.LayerNorm")
    for layer in range(LAYERS):
        if nomic:
            stem = f"encoder.layers.{layer}."
            q, k, v = np.split(_linear(x, w, stem + "attn.Wqkv"), 3, axis=-1)
            seen = _attention(q, k, v, rotate=config["rotary_emb_base"])
            x = _norm(x + _linear(seen, w, stem + "attn.out_proj"), w, stem + "norm1")
            gate = _linear(x, w, stem + "mlp.fc12")
            inner = _linear(x, w, stem + "mlp.fc11") * gate / (1 + np.exp(-gate))
            x = _norm(x + _linear(inner, w, stem + "mlp.fc2"), w, stem + "norm2")
        else:
            stem = f"encoder.layer.{layer}."
            q, k, v = (_linear(x, w, f"{stem}attention.self.{name}") for name in ("query", "key", "value"))
            seen = _linear(_attention(q, k, v), w, stem + "attention.output.dense")
            x = _norm(x + seen, w, stem + "attention.output.LayerNorm")
            inner = _linear(x, w, stem + "intermediate.dense")
            inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
            x = _norm(x + _linear(inner, w, stem + "output.dense"), w, stem + "output.LayerNorm")
    return x


def unit(vector: Array) -> Array:
    return vector / np.linalg.norm(vector)


def _linear(x: Array, w: dict[str, Array], name: str) -> Array:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", np.zeros(1))


def _norm(x: Array, w: dict[str, Array], name: str) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True)) * w[f"{name}.weight"] + w[f"{name}.bias"]


def _attention(q: Array, k: Array, v: Array, rotate: float | None = None) -> Array:
    parts = []
    for q1, k1, v1 in zip(*(np.split(x, HEADS, axis=-1) for x in (q, k, v)), strict=True):
        if rotate is not None:
            q1, k1 = _rotated(q1, rotate), _rotated(k1, rotate)
        scores = q1 @ k1.T / math.sqrt(q1.shape[1])
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        parts.append(scores / scores.sum(-1, keepdims=True) @ v1)
    return np.concatenate(parts, axis=-1)


def _rotated(x: Array, base: float) -> Array:
    """Halves are rotated against each other (GPT-NeoX's way)."""
    half = x.shape[1] // 2
    angles = np.outer(np.arange(len(x)), base ** (-np.arange(half) / half))
    a, b = x[:, :half], x[:, half:]
    return np.concatenate(
        [a * np.cos(angles) - b * np.sin(angles), a * np.sin(angles) + b * np.cos(angles)], -1
    )
