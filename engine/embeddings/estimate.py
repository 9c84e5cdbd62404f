"""How much memory a model takes that embeds: weights, and the temporaries of its largest forward. It generates nothing,
so it keeps no rows; only a decoder's input that is too long for one forward goes through a KV cache.

As with models that generate, an input is counted with at most FIRST_ANSWER_TOKENS. Imports no MLX, opens no file.
"""

from basemlx.engine.embeddings.types import MAX_BATCH_TOKENS, MAX_SCORES_BYTES, MIN_CHUNK_TOKENS
from basemlx.engine.models.estimate import (
    FIRST_ANSWER_TOKENS,
    MemoryEstimate,
    Precision,
    activation_bytes,
    count,
    float_bytes_of,
    kv_token_values,
    language_part,
    weights_bytes_of,
)
from basemlx.engine.models.folder import ModelFolder
from basemlx.engine.models.purpose import ENCODER_TYPES

CPU_TURN_FLOP = 5 * 10**10
"""What half a teraflop a second makes of a turn, after which a batch is full (`worker.TURN_S`)."""

_FLOAT32_BYTES = 4


def estimate_embedder(checked: ModelFolder, *, precision: Precision, context_tokens: int) -> MemoryEstimate:
    """`precision` as for `models.estimate.estimate_memory`."""
    part, float_bytes = language_part(checked.config), float_bytes_of(checked, precision)
    longest = min(context_tokens, FIRST_ANSWER_TOKENS)
    heads = max(count(part, "num_attention_heads", "n_head"), 1)
    width, kv_bytes, kv_token_bytes = longest, 0, 0
    if checked.config["model_type"] not in ENCODER_TYPES:
        chunk = max(MAX_SCORES_BYTES // (heads * longest * _FLOAT32_BYTES), MIN_CHUNK_TOKENS)
        if chunk < longest:  # as `decoder.last_hidden` does it
            width, kv_token_bytes = chunk, kv_token_values(part) * float_bytes
            kv_bytes = longest * kv_token_bytes
    batch_tokens = MAX_BATCH_TOKENS
    if precision != "stored":
        values = weights_bytes_of(checked, "dense") // _FLOAT32_BYTES
        batch_tokens = min(batch_tokens, CPU_TURN_FLOP // (2 * max(values, 1)))
    batch_tokens = max(width, batch_tokens)
    forward_bytes = batch_tokens * activation_bytes(part, float_bytes)
    if precision != "stored":  # attention scores are whole matrices on a CPU, one layer's at a time
        forward_bytes += 2 * min(MAX_SCORES_BYTES, heads * batch_tokens * longest * _FLOAT32_BYTES)
    return MemoryEstimate(
        weights_bytes=weights_bytes_of(checked, precision),
        kv_token_bytes=kv_token_bytes,
        kv_bytes=kv_bytes,
        prefill_bytes=forward_bytes,
    )
