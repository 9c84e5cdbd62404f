"""Conversations: messages to a prompt through the model's own template, and the model's text back into its parts.

Knows text only: no token, no HTTP, no MLX.
"""
