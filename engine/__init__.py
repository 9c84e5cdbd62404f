"""Everything that knows models and tokens. It knows nothing of HTTP, LiteLLM or any framework."""
