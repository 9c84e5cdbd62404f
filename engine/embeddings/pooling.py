"""Hidden states [B, T, D] of right-padded rows to one vector a row, in float32. As sentence-transformers' Pooling."""

from basemlx.engine.embeddings.recipe import Pooling
from basemlx.engine.runtime import mx

TINY = 1e-9


def pool(hidden: mx.array, lengths: mx.array, modes: tuple[Pooling, ...]) -> mx.array:
    """`lengths` [B] counts the real tokens of each row. Returns [B, D · len(modes)]."""
    hidden = hidden.astype(mx.float32)
    real = (mx.arange(hidden.shape[1])[None] < lengths[:, None]).astype(mx.float32)[..., None]  # [B, T, 1]
    parts = [_pool(hidden, lengths, real, mode) for mode in modes]
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=-1)


def _pool(hidden: mx.array, lengths: mx.array, real: mx.array, mode: Pooling) -> mx.array:
    if mode == "cls":
        return hidden[:, 0]
    if mode == "lasttoken":
        return mx.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]
    if mode == "max":
        return mx.where(real > 0, hidden, -mx.inf).max(axis=1)
    if mode == "weightedmean":
        real = real * mx.arange(1, hidden.shape[1] + 1)[None, :, None]
    sums, weights = (hidden * real).sum(axis=1), mx.maximum(real.sum(axis=1), TINY)
    return sums / (mx.sqrt(weights) if mode == "mean_sqrt_len_tokens" else weights)


def normalized(vectors: mx.array) -> mx.array:
    """Vectors of length 1; a vector of zeros stays one."""
    return vectors / mx.maximum(mx.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
