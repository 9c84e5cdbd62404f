"""What config.json says, and what it leaves to be known."""

from basemlx.engine.models.config import context_tokens
from basemlx.engine.models.estimate import kv_token_values, language_part


def test_figures_that_a_published_config_leaves_to_its_architecture_are_known() -> None:
    """mlx-community's gemma-3-4b-it: no positions, no heads."""
    text = {"model_type": "gemma3_text", "num_hidden_layers": 34, "hidden_size": 2560, "sliding_window": 1024}
    config = {"model_type": "gemma3", "text_config": text}
    assert context_tokens(config, {"model_max_length": 10**30}) == 131_072
    assert kv_token_values(language_part(config)) == 34 * 2 * 4 * 256
    stated = config | {"text_config": text | {"num_key_value_heads": 8, "max_position_embeddings": 32_768}}
    assert context_tokens(stated, {}) == 32_768
    assert kv_token_values(language_part(stated)) == 34 * 2 * 8 * 256
