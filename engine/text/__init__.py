"""Text and tokens: the tokenizer, the way back token by token, and stop strings. No MLX, no model, no chat."""
