"""Decoders that were trained to embed (Qwen3-Embedding and its kind): mlx-lm's model without its head, and the hidden
state of each row's last token.

Attention is causal, so right padding is never seen and needs no mask. Long inputs go in chunks through mlx-lm's KV
cache, so that attention scores stay within bounds.
"""

import sys
from pathlib import Path
from typing import Any

from basemlx.engine.embeddings.types import MAX_SCORES_BYTES, MIN_CHUNK_TOKENS
from basemlx.engine.errors import ModelLoadFailed
from basemlx.engine.models import cpu_attention
from basemlx.engine.models.config import Config
from basemlx.engine.models.packing import checked_classes
from basemlx.engine.runtime import mlx_lm_module, mx, nn


def load_decoder(folder: Path, config: Config) -> nn.Module:
    """The body of the model in `folder`, weights not yet read. Raises ModelLoadFailed, and what mlx-lm raises."""
    utils = mlx_lm_module("utils")
    try:
        utils._get_classes(config)
    except (ValueError, AttributeError):
        raise ModelLoadFailed(
            f"The architecture {config['model_type']!r} is not one that the installed mlx-lm has, nor one of basemlx's "
            "encoders."
        ) from None

    def headless(config: Config) -> tuple[type, type]:
        model_class, args_class = utils._get_classes(config)
        cpu_attention.use_in(sys.modules[model_class.__module__])
        return _without_head(model_class), args_class

    model, _ = utils.load_model(
        folder,
        lazy=True,
        strict=True,
        trust_remote_code=False,
        get_model_classes=checked_classes(headless),
    )
    body = getattr(model, "model", None)
    if not isinstance(body, nn.Module) or "embed_tokens" not in body:
        raise ModelLoadFailed(
            f"basemlx does not know how to take vectors from a {config['model_type']!r} model."
        )
    _check_calls(body, str(config["model_type"]))
    return body


def _check_calls(body: Any, model_type: str) -> None:
    """Whether the model takes inputs as they are given to it here: whole, without a cache, and in chunks with a plain
    one. Recurrent and hybrid ones want caches of their own. Nothing is computed but shapes."""
    tokens = mx.zeros((1, 2), dtype=mx.int32)
    try:
        body(tokens)
        body(tokens, mlx_lm_module("models.cache").make_prompt_cache(body))
    except (TypeError, AttributeError):
        raise ModelLoadFailed(
            f"mlx-lm does not compute a {model_type!r} model without a cache of its own kind, which embeddings need."
        ) from None


def _without_head(model_class: Any) -> type:
    """The architecture without its vocabulary head. Embedding models are published without one, and often with the
    body's names bare ("layers.0…" for "model.layers.0…")."""

    class Headless(model_class):  # type: ignore[misc]
        def __init__(self, args: Any) -> None:
            super().__init__(args)
            self.pop("lm_head", None)

        def sanitize(self, weights: dict[str, Any]) -> dict[str, Any]:
            if "embed_tokens.weight" in weights:
                weights = {f"model.{name}": value for name, value in weights.items()}
            if hasattr(model_class, "sanitize"):
                weights = super().sanitize(weights)
            return {name: value for name, value in weights.items() if not name.startswith("lm_head.")}

    return Headless


def last_hidden(body: Any, tokens: mx.array, lengths: list[int], num_heads: int) -> mx.array:
    """Hidden states [B, D] of the last real token of right-padded rows `tokens` [B, T]."""
    batch, width = tokens.shape
    chunk = max(MAX_SCORES_BYTES // (batch * num_heads * width * 4), MIN_CHUNK_TOKENS)
    if chunk >= width:
        at = mx.array(lengths)[:, None, None] - 1
        return mx.take_along_axis(body(tokens), at, axis=1)[:, 0]
    cache = mlx_lm_module("models.cache").make_prompt_cache(body)
    found: dict[int, mx.array] = {}
    for start in range(0, width, chunk):
        hidden = body(tokens[:, start : start + chunk], cache)
        rows = [row for row, length in enumerate(lengths) if start < length <= start + hidden.shape[1]]
        for row in rows:
            found[row] = hidden[row, lengths[row] - 1 - start]
        mx.eval(*(found[row] for row in rows), *(array for layer in cache for array in layer.state))
    return mx.stack([found[row] for row in range(batch)])
