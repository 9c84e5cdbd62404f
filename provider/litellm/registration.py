"""Makes the provider and its models known to LiteLLM: names, capabilities, and a price of nothing.

LiteLLM knows capabilities by model and has no pattern for all models of a provider. So the catalogue's are registered
at import, others when they have taken their first request: a name that does not exist leaves nothing behind.
"""

import json
import threading
from collections.abc import Collection
from typing import Any

import litellm
from litellm.utils import custom_llm_setup

from basemlx.engine.models.catalogue import catalogue
from basemlx.engine.models.discovery import BUILT_IN_NAME, built_in_folder
from basemlx.provider.litellm.handler import PROVIDER, BaseMLXLLM

CHAT = ("chat", "tools", "reasoning")
UNKNOWN_CONTEXT_TOKENS = 32_768
"""What LiteLLM is told of a model that the catalogue does not have. The engine enforces the real figure."""

handler = BaseMLXLLM(lambda model, mode: register_model(model, mode))
"""What a proxy's config names: basemlx.provider.litellm.handler. A proxy's model names come from strangers."""

own_handler = BaseMLXLLM(lambda model, mode: register_model(model, mode), allows_folders=True)
"""What `register` puts into `custom_provider_map`, for the code of this process, which may name folders."""

_lock = threading.Lock()
_known: set[str] = set()


def register() -> None:
    """Idempotent; adds to what others have registered."""
    with _lock:
        ours = (handler, own_handler)
        if not any(entry["custom_handler"] in ours for entry in litellm.custom_provider_map):
            litellm.custom_provider_map.append({"provider": PROVIDER, "custom_handler": own_handler})
        custom_llm_setup()
        models = {BUILT_IN_NAME: _facts(CHAT, _built_in_context_tokens())}
        for entry in catalogue():
            facts = _facts(entry.capabilities, entry.context_tokens)
            models |= {entry.name: facts, entry.repository: facts}
        _register({name: facts for name, facts in models.items() if _is_new(name)})


def _built_in_context_tokens() -> int:
    folder = built_in_folder()
    if folder is None:
        return UNKNOWN_CONTEXT_TOKENS
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return int(config.get("max_position_embeddings", UNKNOWN_CONTEXT_TOKENS))


def register_model(model: str, mode: str = "chat") -> None:
    """Tells LiteLLM of one more model, unless it, or its user, knows it already."""
    if model in _known and f"{PROVIDER}/{model}" in litellm.model_cost:
        return
    with _lock:
        if _is_new(model):
            _register(
                {model: _facts(("embedding",) if mode == "embedding" else CHAT, UNKNOWN_CONTEXT_TOKENS)}
            )
        _known.add(model)


def _is_new(model: str) -> bool:
    return f"{PROVIDER}/{model}" not in litellm.model_cost


def _register(models: dict[str, dict[str, Any]]) -> None:
    if models:
        litellm.register_model({f"{PROVIDER}/{name}": facts for name, facts in models.items()})
    _known.update(models)


def _facts(capabilities: Collection[str], context_tokens: int) -> dict[str, Any]:
    """What LiteLLM's model table has of a model. Schemas and tool choices are enforced whatever the model was trained
    for, so every model that chats has them."""
    facts: dict[str, Any] = {
        "litellm_provider": PROVIDER,
        "max_tokens": context_tokens,
        "max_input_tokens": context_tokens,
        "max_output_tokens": context_tokens,
        "input_cost_per_token": 0.0,
        "output_cost_per_token": 0.0,
        "cache_creation_input_token_cost": 0.0,
        "cache_read_input_token_cost": 0.0,
    }
    if "embedding" in capabilities:
        return facts | {"mode": "embedding"}
    return facts | {
        "mode": "chat",
        "supports_function_calling": True,
        "supports_parallel_function_calling": True,
        "supports_tool_choice": True,
        "supports_response_schema": True,
        "supports_system_messages": True,
        "supports_prompt_caching": True,
        "supports_reasoning": "reasoning" in capabilities,
        "supports_vision": False,
    }
