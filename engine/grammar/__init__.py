"""Constrained decoding: the place of the grammar compiler and the per-row matcher.

The step is ready for them: `sampling.sample` takes a packed mask of allowed tokens, a `Sequence` carries its own
companions, and ragged rows roll back. Nothing is constrained yet, so requests that ask for it are refused.
"""
