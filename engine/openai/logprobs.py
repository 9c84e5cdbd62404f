"""Log-probabilities in OpenAI's two forms: a list of entries for chat, parallel lists for completions.

Minus infinity, which JSON does not have, is written as -9999, as OpenAI does.
"""

import math
from collections.abc import Sequence
from typing import Any

from basemlx.engine.text.tokenizer import Tokenizer
from basemlx.engine.types import TokenLogprob

LOWEST = -9999.0


def _finite(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else LOWEST


def _token(tokenizer: Tokenizer, token_id: int, logprob: float) -> dict[str, Any]:
    content = tokenizer.token_bytes(token_id)
    text = content.decode("utf-8", "replace")
    return {"token": text, "logprob": _finite(logprob), "bytes": list(content)}


def chat_logprobs(tokenizer: Tokenizer, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    entries = [
        _token(tokenizer, token.token_id, token.logprob)
        | {"top_logprobs": [_token(tokenizer, token_id, logprob) for token_id, logprob in token.top]}
        for token in tokens
    ]
    return {"content": entries, "refusal": None}


def without_stop(
    tokenizer: Tokenizer, tokens: Sequence[TokenLogprob], stop: str, text: str
) -> list[TokenLogprob]:
    """The last tokens of a choice that `stop` ended, without those whose text is not returned because of it: the stop
    string's own, and one that brought text before it stays. `text` is what they still had to say."""
    wanted, tail = stop.encode("utf-8", "replace"), b""
    for at in range(len(tokens) - 1, -1, -1):
        tail = tokenizer.token_bytes(tokens[at].token_id) + tail
        found = tail.find(wanted)
        if found >= 0:
            return list(tokens[: at + 1] if found else tokens[:at])
    # It began in a token that was told before, with the text that this had.
    return list(tokens) if text else []


def completion_logprobs(tokenizer: Tokenizer, tokens: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """`offset` is where the first token's text lies in the text that is returned, in characters. The sampled token is
    among the top ones, though it may be one more than was asked for."""
    texts = [tokenizer.token_bytes(token.token_id).decode("utf-8", "replace") for token in tokens]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": texts,
        "token_logprobs": [_finite(token.logprob) for token in tokens],
        "top_logprobs": [_top(tokenizer, token, text) for token, text in zip(tokens, texts, strict=True)],
        "text_offset": offsets,
    }


def _top(tokenizer: Tokenizer, token: TokenLogprob, text: str) -> dict[str, float]:
    """By text; of two tokens with the same text (parts of characters, mostly) the likelier."""
    top: dict[str, float] = {}
    for token_id, logprob in token.top:
        key = tokenizer.token_bytes(token_id).decode("utf-8", "replace")
        top.setdefault(key, _finite(logprob))
    top.setdefault(text, _finite(token.logprob))
    return top
