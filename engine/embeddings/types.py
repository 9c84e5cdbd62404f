"""What is asked of an embedding model and what comes back, and what one forward may take: plain data, no MLX."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

MAX_SCORES_BYTES = 256 * 2**20
"""Attention scores that one layer may hold; longer inputs are attended to in blocks of queries, or go in chunks."""

MAX_BATCH_TOKENS = 16_384
"""Padded tokens of one forward, if the model is that fast."""

MIN_CHUNK_TOKENS = 64
"""Of a decoder's input that is too long for one forward."""


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """Inputs as token ids, checked against the model. `dimensions` None gives whole vectors; `timeout_s` counts from
    submission, waiting included."""

    request_id: str
    model: str
    token_ids: tuple[tuple[int, ...], ...]
    dimensions: int | None = None
    timeout_s: float | None = None

    @property
    def prompt_tokens(self) -> int:
        return sum(map(len, self.token_ids))

    def __repr__(self) -> str:
        """Without the inputs: a request may be logged, its text may not."""
        return f"EmbeddingRequest(request_id={self.request_id!r}, model={self.model!r}, inputs={len(self.token_ids)})"


@dataclass(frozen=True, slots=True)
class EmbeddingResult:
    """`vectors` [N, D] float32, in the order of the inputs; `prompt_tokens` of all inputs, special tokens included."""

    vectors: Vectors
    prompt_tokens: int
