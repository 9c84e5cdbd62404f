"""One module per framework, each importing its framework when it is used. To come: they will use the provider."""
