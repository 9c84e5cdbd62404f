"""Encoders: BERT with absolute positions (MiniLM, BGE, E5), RoBERTa and XLM-R (multilingual E5, BGE-M3), nomic-bert.

All normalise after each sublayer (post-norm). What differs: where position comes from (a table, or rotary), what the
feed-forward is (two matrices with a GELU, or a gated one), and how published weights are called. After Devlin et al.
2018 (arXiv:1810.04805), Nussbaum et al. 2024 (arXiv:2402.01613), and transformers' modules of these names.

Knows token ids and lengths; pooling and everything after it are not its business.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from basemlx.engine.embeddings.numerics import activation, attention
from basemlx.engine.errors import ModelCorrupt, ModelLoadFailed
from basemlx.engine.models.config import Config
from basemlx.engine.runtime import mx, nn

_OFFSET_TYPES = frozenset({"roberta", "xlm-roberta", "camembert"})  # positions start after the padding's id


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """An encoder's dimensions. `rope_base` None: positions from a table of `num_positions`, from `first_position`."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    inner_size: int
    num_positions: int
    num_types: int
    norm_eps: float
    activation: str
    first_position: int = 0
    rope_base: float | None = None
    rope_dims: int = 0
    gated: bool = False
    attention_bias: bool = True
    inner_bias: bool = True

    @property
    def context_tokens(self) -> int:
        return self.num_positions - self.first_position


def encoder_shape(config: Config) -> EncoderShape:
    """Reads config.json. Raises ModelLoadFailed for variants that are not computed here, ModelCorrupt for nonsense."""
    shape = _nomic_shape(config) if config["model_type"] == "nomic_bert" else _bert_shape(config)
    if shape.hidden_size % shape.num_heads or shape.context_tokens < 1:
        raise ModelCorrupt("config.json has dimensions that do not fit each other.")
    return shape


def _bert_shape(config: Config) -> EncoderShape:
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise ModelLoadFailed("The model has relative positions, which basemlx does not know for encoders.")
    first_position = 0
    if config["model_type"] in _OFFSET_TYPES:
        first_position = _count(config, "pad_token_id", default=1, least=0) + 1
    return EncoderShape(
        vocab_size=_count(config, "vocab_size"),
        hidden_size=_count(config, "hidden_size"),
        num_layers=_count(config, "num_hidden_layers"),
        num_heads=_count(config, "num_attention_heads"),
        inner_size=_count(config, "intermediate_size"),
        num_positions=_count(config, "max_position_embeddings", default=512),
        num_types=_count(config, "type_vocab_size", default=2),
        norm_eps=_number(config, "layer_norm_eps", 1e-12),
        activation=config.get("hidden_act", "gelu"),
        first_position=first_position,
    )


def _nomic_shape(config: Config) -> EncoderShape:
    """Nomic's own config (n_embd …), or transformers' (hidden_size …)."""
    own = "n_embd" in config
    if own and (
        config.get("prenorm")
        or config.get("use_rms_norm")
        or config.get("rotary_emb_interleaved")
        or config.get("num_experts")
        or config.get("activation_function") not in ("swiglu", "gelu")
    ):
        raise ModelLoadFailed("The model is a variant of nomic-bert that basemlx does not know.")
    hidden_size = _count(config, "n_embd" if own else "hidden_size")
    num_heads = _count(config, "n_head" if own else "num_attention_heads")
    gated = config.get("activation_function") == "swiglu" if own else True
    head_dim = hidden_size // num_heads
    positions = _count(config, "n_positions" if own else "max_position_embeddings", default=2048)
    rope = config.get("rope_parameters")
    base = rope.get("rope_theta") if isinstance(rope, dict) else config.get("rotary_emb_base")
    return EncoderShape(
        vocab_size=_count(config, "vocab_size"),
        hidden_size=hidden_size,
        num_layers=_count(config, "n_layer" if own else "num_hidden_layers"),
        num_heads=num_heads,
        inner_size=_count(config, "n_inner" if own else "intermediate_size", default=4 * hidden_size),
        # Beyond what it was trained on, the reference rescales its rotation; nothing else is published for that length.
        num_positions=min(positions, _count(config, "max_trained_positions", default=2048)),
        num_types=_count(config, "type_vocab_size", default=2),
        norm_eps=_number(config, "layer_norm_epsilon" if own else "layer_norm_eps", 1e-12),
        activation="silu" if gated else "gelu",
        rope_base=_number({"base": base}, "base", 1000.0),
        rope_dims=int(head_dim * _number(config, "rotary_emb_fraction", 1.0)),
        gated=gated,
        attention_bias=bool(config.get("qkv_proj_bias", False)),
        inner_bias=bool(config.get("mlp_fc1_bias", False)),
    )


class Encoder(nn.Module):
    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.words = nn.Embedding(shape.vocab_size, shape.hidden_size)
        if shape.rope_base is None:
            self.positions = nn.Embedding(shape.num_positions, shape.hidden_size)
        if shape.num_types:
            self.types = nn.Embedding(shape.num_types, shape.hidden_size)
        self.norm = nn.LayerNorm(shape.hidden_size, eps=shape.norm_eps)
        self.layers = [_Layer(shape) for _ in range(shape.num_layers)]
        self._shape = shape

    def __call__(self, tokens: mx.array, lengths: mx.array) -> mx.array:
        """Hidden states [B, T, D] of right-padded rows `tokens` [B, T]; those of the padding mean nothing."""
        shape, width = self._shape, tokens.shape[1]
        hidden: mx.array = self.words(tokens)
        if shape.num_types:
            hidden = hidden + self.types(mx.zeros((1,), dtype=mx.int32))
        if shape.rope_base is None:
            hidden = hidden + self.positions(mx.arange(shape.first_position, shape.first_position + width))
        hidden = self.norm(hidden)
        mask = (mx.arange(width)[None] < lengths[:, None])[:, None, None]  # [B, 1, 1, T]
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return hidden


class _Layer(nn.Module):
    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        size, inner = shape.hidden_size, shape.inner_size
        self.qkv = nn.Linear(size, 3 * size, bias=shape.attention_bias)
        self.out = nn.Linear(size, size, bias=shape.attention_bias)
        self.norm1 = nn.LayerNorm(size, eps=shape.norm_eps)
        self.up = nn.Linear(size, inner, bias=shape.inner_bias)
        if shape.gated:
            self.gate = nn.Linear(size, inner, bias=shape.inner_bias)
        self.down = nn.Linear(inner, size, bias=shape.inner_bias)
        self.norm2 = nn.LayerNorm(size, eps=shape.norm_eps)
        self._shape = shape
        self._activation = activation(shape.activation)

    def __call__(self, hidden: mx.array, mask: mx.array) -> mx.array:
        hidden = self.norm1(hidden + self._attend(hidden, mask))
        normed: mx.array = self.norm2(hidden + self._feed_forward(hidden))
        return normed

    def _attend(self, hidden: mx.array, mask: mx.array) -> mx.array:
        batch, width, size = hidden.shape
        heads = self._shape.num_heads
        split = (
            self.qkv(hidden).reshape(batch, width, 3, heads, -1).transpose(2, 0, 3, 1, 4)
        )  # [3, B, H, T, D]
        queries, keys, values = split[0], split[1], split[2]
        if self._shape.rope_base is not None:
            queries, keys = self._rotated(queries), self._rotated(keys)
        seen = attention(queries, keys, values, mask)
        joined: mx.array = self.out(seen.transpose(0, 2, 1, 3).reshape(batch, width, size))
        return joined

    def _rotated(self, x: mx.array) -> mx.array:
        rotated: mx.array = mx.fast.rope(
            x, self._shape.rope_dims, traditional=False, base=self._shape.rope_base, scale=1.0, offset=0
        )
        return rotated

    def _feed_forward(self, hidden: mx.array) -> mx.array:
        inner = self._activation(self.gate(hidden) if self._shape.gated else self.up(hidden))
        out: mx.array = self.down(inner * self.up(hidden) if self._shape.gated else inner)
        return out


# Names of published weights, less prefix and layer number -> names here. q, k and v are joined afterwards.
_TOP = {
    "embeddings.word_embeddings": "words",
    "embeddings.position_embeddings": "positions",
    "embeddings.token_type_embeddings": "types",
    "embeddings.LayerNorm": "norm",
    "emb_ln": "norm",
}
_IN_LAYER = {
    "attention.self.query": "q",
    "attention.self.key": "k",
    "attention.self.value": "v",
    "attention.output.dense": "out",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "norm2",
    # nomic-bert's own
    "attn.Wqkv": "qkv",
    "attn.out_proj": "out",
    "mlp.fc1": "up",
    "mlp.fc11": "up",
    "mlp.fc12": "gate",
    "mlp.fc2": "down",
    "norm1": "norm1",
    "norm2": "norm2",
    # transformers' nomic_bert
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.o_proj": "out",
    "mlp.up_proj": "up",
    "mlp.gate_proj": "gate",
    "mlp.down_proj": "down",
    "post_attention_layernorm": "norm1",
    "post_mlp_layernorm": "norm2",
}
_PREFIX = re.compile(r"(?:bert|roberta|model)\.")
_NUMBERED = re.compile(r"(?:encoder\.)?layers?\.(\d+)\.(.+)")
_UNUSED = re.compile(r"embeddings\.position_ids|(?:pooler|cls|lm_head|classifier)\.")
_PARTS = {"gamma": "weight", "beta": "bias"}  # TensorFlow's names, in the oldest conversions


def own_names(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Published weights under the names of `Encoder`'s parameters; heads that are not needed are left out. A name that
    is not known stays as it is, for the strict loading to report."""
    found: dict[str, Any] = {}
    for full_name, value in weights.items():
        name = _PREFIX.sub("", full_name, count=1) if _PREFIX.match(full_name) else full_name
        if _UNUSED.match(name):
            continue
        stem, _, part = name.rpartition(".")
        part = _PARTS.get(part, part)
        if (match := _NUMBERED.fullmatch(stem)) and match[2] in _IN_LAYER:
            found[f"layers.{match[1]}.{_IN_LAYER[match[2]]}.{part}"] = value
        else:
            found[f"{_TOP.get(stem, stem)}.{part}"] = value
    return _joined(found)


def _joined(weights: dict[str, Any]) -> dict[str, Any]:
    """q, k and v as one matrix each, quantised or not: rows stay whole."""
    joined = {
        name: value for name, value in weights.items() if not re.fullmatch(r"layers\.\d+\.[qkv]\..+", name)
    }
    for name in weights:
        if match := re.fullmatch(r"(layers\.\d+)\.q\.(.+)", name):
            names = [f"{match[1]}.{which}.{match[2]}" for which in "qkv"]
            if any(part not in weights for part in names):
                raise ModelCorrupt(f"The weights of {match[1]} lack one of query, key and value.")
            joined[f"{match[1]}.qkv.{match[2]}"] = mx.concatenate([weights[part] for part in names], axis=0)
    return joined


def _count(config: Mapping[str, Any], name: str, *, default: int | None = None, least: int = 1) -> int:
    value = config.get(name)
    if value is None and default is not None:
        return default
    if type(value) is not int or not least <= value <= 10_000_000:
        raise ModelCorrupt(f"config.json: {name} must be a whole number from {least} up.")
    return value


def _number(config: Mapping[str, Any], name: str, default: float) -> float:
    value = config.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise ModelCorrupt(f"config.json: {name} must be a positive number.")
    return float(value)
