"""What a model is for: to generate, or to embed. Found out from its files, so that nobody waits for the wrong one.

Encoders are computed by basemlx itself, a few architectures of them; those that are not are told from decoders here, as
mlx-lm has no encoders at all.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from basemlx.engine.errors import InvalidRequest, ModelLoadFailed
from basemlx.engine.models.config import read_json_object

Purpose = Literal["generate", "embed"]

ENCODER_TYPES = frozenset({"bert", "roberta", "xlm-roberta", "camembert", "nomic_bert"})
# fmt: off
_OTHER_ENCODERS = frozenset({
    "albert", "bart", "big_bird", "convbert", "data2vec-text", "deberta", "deberta-v2", "distilbert", "electra",
    "ernie", "esm", "eurobert", "flaubert", "fnet", "funnel", "ibert", "longformer", "longt5", "luke", "mbart",
    "megatron-bert", "mobilebert", "modernbert", "mpnet", "mt5", "neobert", "new", "nezha", "nystromformer",
    "rembert", "roberta-prelayernorm", "roformer", "splinter", "squeezebert", "t5", "t5gemma", "umt5", "xlm",
    "xlm-roberta-xl", "xlnet", "xmod", "yoso",
})
# fmt: on
"""model_type of encoders and encoder-decoders that neither mlx-lm nor basemlx has; "new" is that of GTE v1.5."""

RECIPE_FILE = "modules.json"
"""Of sentence-transformers: how a model pools."""

_NAMED_EMBEDDERS = re.compile(r"embed", re.IGNORECASE)


def check_architecture(config: Mapping[str, Any]) -> None:
    """Raises ModelLoadFailed for an encoder that is not computed here. Decoders are mlx-lm's to know."""
    model_type = config.get("model_type")
    if model_type in _OTHER_ENCODERS:
        raise ModelLoadFailed(
            f"The architecture {model_type!r} is not one that basemlx computes. Of encoders it knows "
            f"{', '.join(sorted(ENCODER_TYPES))}."
        )


def embeds(folder: Path, name: str) -> bool:
    """Whether the model is one to embed with: an encoder, one with sentence-transformers files, or one called so (MLX
    conversions of Qwen3-Embedding come without those files; the publisher's part of the name says nothing). Raises
    ModelCorrupt."""
    path = folder / "config.json"
    model_type = (
        read_json_object(path).get("model_type") if path.is_file() else None
    )  # the load says what is missing
    return (
        model_type in ENCODER_TYPES
        or (folder / RECIPE_FILE).is_file()
        or (model_type == "qwen3" and _NAMED_EMBEDDERS.search(name.rpartition("/")[2]) is not None)
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
