"""OpenAI's API as plain dicts: bodies in, chunks out. The HTTP server and the in-process provider both stand on it.

    body ── chat_request / completion_request: validate ──▶ service: render, encode, submit ──▶ Turn
    Turn: OutputDelta ── chat / completions ──▶ chunks ── fold ──▶ the answer that is not streamed

Knows no HTTP and no MLX.
"""
