"""What a model is for: to generate, or to embed. Found out from its files, so that nobody waits for the wrong one."""

import re
from pathlib import Path
from typing import Literal

from basemlx.engine.errors import InvalidRequest
from basemlx.engine.models.config import read_json_object

Purpose = Literal["generate", "embed"]

ENCODER_TYPES = frozenset({"bert", "roberta", "xlm-roberta", "camembert", "nomic_bert"})
RECIPE_FILE = "modules.json"
"""Of sentence-transformers: how a model pools."""

_NAMED_EMBEDDERS = re.compile(r"embed", re.IGNORECASE)


def embeds(folder: Path, name: str) -> bool:
    """Whether the model is one to embed with: an encoder, one with sentence-transformers files, or one called so (MLX
    conversions of Qwen3-Embedding come without those files). Raises ModelCorrupt."""
    path = folder / "config.json"
    model_type = (
        read_json_object(path).get("model_type") if path.is_file() else None
    )  # the load says what is missing
    return (
        model_type in ENCODER_TYPES
        or (folder / RECIPE_FILE).is_file()
        or (model_type == "qwen3" and _NAMED_EMBEDDERS.search(name) is not None)
    )


def wrong_purpose(name: str, wanted: Purpose) -> InvalidRequest:
    """The error for a model that is `wanted` for what it cannot do."""
    if wanted == "generate":
        return InvalidRequest(
            f"The model {name!r} embeds and does not generate: use /v1/embeddings.", param="model"
        )
    return InvalidRequest(
        f"The model {name!r} generates text and was not trained to embed: its vectors would be of little use. Use an "
        "embedding model, for instance qwen3-embedding-0.6b.",
        param="model",
    )
