"""Which models' vectors may be cut short and keep their meaning (Matryoshka representation learning, arXiv:2205.13147).

Few say so in their files; those that are known for it are listed by name, from their makers' model cards.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from basemlx.engine.embeddings.types import Vectors
from basemlx.engine.errors import InvalidRequest

_KNOWN = re.compile(
    r"qwen3-embedding|nomic-embed-text-v1\.5|mxbai-embed-large-v1|snowflake-arctic-embed-[ml]-v(?:1\.5|2\.0)"
    r"|matryoshka|[_-]mrl(?:\b|[_-])",
    re.IGNORECASE,
)


def is_matryoshka(name: str, config: Mapping[str, Any]) -> bool:
    """By what config.json says (`is_matryoshka`, `matryoshka_dimensions`: vLLM's names), else by the model's name."""
    stated = config.get("is_matryoshka")
    if isinstance(stated, bool):
        return stated
    return bool(config.get("matryoshka_dimensions")) or _KNOWN.search(name) is not None


def check_dimensions(wanted: int, full: int, supported: bool, model: str) -> None:
    """Raises InvalidRequest that names `dimensions`."""
    if wanted == full:
        return
    if not supported:
        raise InvalidRequest(
            f"dimensions: the vectors of {model!r} have {full} dimensions and were not trained to be cut short. "
            f"Leave it out or ask for {full}.",
            param="dimensions",
        )
    if not 1 <= wanted < full:
        raise InvalidRequest(
            f"dimensions must be between 1 and {full} for this model, not {wanted}.", param="dimensions"
        )


def cut(vectors: Vectors, dimensions: int) -> Vectors:
    """The first `dimensions` of each, of length 1 again."""
    short = vectors[:, :dimensions]
    sizes = np.linalg.norm(short, axis=1, keepdims=True)
    return np.ascontiguousarray(short / np.maximum(sizes, 1e-12), dtype=np.float32)
