"""How the built-in model is made: a text generator, a tokenizer, training, export and evaluation. See README.md."""
