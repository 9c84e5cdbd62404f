"""How the built-in model is made: text from a generator, a tokenizer, training, export and evaluation. See README.md."""
