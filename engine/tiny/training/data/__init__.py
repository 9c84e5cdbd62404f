"""The data generator: conversations made up from word lists, grammars and random names. No outside text."""
