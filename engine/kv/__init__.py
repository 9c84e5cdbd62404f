"""The KV cache: rows of running sequences (`ragged`, `merged`, `solo`) and computed prefixes kept for reuse (`prefix`).

`choose` decides which kind of rows a model gets. Only `prefix` is free of MLX.
"""
