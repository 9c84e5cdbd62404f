"""What a model is for: to generate, or to embed. Found out from its files, so that nobody waits for the wrong one."""

from typing import Literal

from basemlx.engine.errors import InvalidRequest

Purpose = Literal["generate", "embed"]


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
