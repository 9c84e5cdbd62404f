"""The step: sequences, the scheduler that plans spans of tokens, the runner that computes them, the thread that turns.

`sequence`, `batch`, `pacer` and `scheduler` import no MLX; `runner` is the only caller of a model.
"""
