"""basemlx: language models on MLX, where what a caller asks for is enforced or refused by name.

`Engine` is imported on first use, so that `import basemlx` stays light: it loads neither MLX nor any model code.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from basemlx.engine.engine import Engine

__all__ = ["Engine", "__version__", "register"]
__version__ = "0.1.0"


def register() -> None:
    """Makes `basemlx/…` models known to LiteLLM, as `import basemlx.provider.litellm` does. Idempotent."""
    from basemlx.provider.litellm import register

    register()


def __getattr__(name: str) -> Any:
    if name == "Engine":
        from basemlx.engine.engine import Engine

        return Engine
    raise AttributeError(f"module 'basemlx' has no attribute {name!r}")
