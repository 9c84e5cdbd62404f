"""Text and tokens: encoding, decoding one token at a time, stop strings. Knows neither MLX nor any wire format."""
