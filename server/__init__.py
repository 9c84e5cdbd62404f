"""The HTTP server and the command line: thin wrappers over the engine. Nothing of models or tokens is known here."""
