"""Random numbers that are a pure function of (seed, choice, position), and what they pick.

A row's draw depends on nothing else: not on the batch it runs in, nor on what ran before, so a seeded request repeats
alone, in any batch and after giving its row up. Counter-based generation as in Salmon et al., "Parallel Random
Numbers: As Easy as 1, 2, 3" (2011), with BLAKE2b as the mixing function: one 64-bit draw a token costs about 1 µs.
"""

import hashlib
import os

from basemlx.engine.runtime import mx

LARGEST = 1.0 - 2.0**-20
"""The draws' upper end, 16 float32 steps below 1: rounding on the device cannot lift a share past what has weight."""

BLOCK = 128
UNDIVIDED = 2048
"""Rows up to this long are cumulated as they are."""


def uniform(seed: int, choice: int, position: int) -> float:
    """A number in [0, 1) for the token at `position` (0 is the first sampled one) of choice `choice`."""
    message = b"%d:%d:%d" % (seed, choice, position)
    bits = int.from_bytes(hashlib.blake2b(message, digest_size=8).digest(), "big")
    return min((bits >> 11) * 2.0**-53, LARGEST)


def fresh_seed() -> int:
    """64 bits for a request that brought no seed."""
    return int.from_bytes(os.urandom(8), "big")


def pick(weights: mx.array, shares: mx.array) -> mx.array:
    """Inverse transform sampling: the indices [R] at which the cumulated `weights` [R, N] pass `shares` [R, 1] of
    their totals. An index without weight is never picked; a row of NaN gives 0.

    Long rows go by blocks, then within one: a float32 sum over 150,000 weights as one chain would lose the small ones.
    """
    count = weights.shape[-1]
    if count <= UNDIVIDED:
        cumulated = mx.cumsum(weights, axis=-1)
        return _crossing(weights, cumulated, shares * cumulated[:, -1:])
    if count % BLOCK:
        weights = mx.pad(weights, [(0, 0), (0, -count % BLOCK)])
    blocks = weights.reshape(weights.shape[0], -1, BLOCK)
    sums = blocks.sum(axis=-1)
    cumulated = mx.cumsum(sums, axis=-1)
    target = shares * cumulated[:, -1:]
    block = _crossing(sums, cumulated, target)[:, None]
    rest = target - (mx.take_along_axis(cumulated, block, axis=-1) - mx.take_along_axis(sums, block, axis=-1))
    inside = mx.take_along_axis(blocks, block[:, :, None], axis=1)[:, 0]
    cumulated = mx.cumsum(inside, axis=-1)
    rest = mx.minimum(rest, cumulated[:, -1:] * LARGEST)
    return block[:, 0] * BLOCK + _crossing(inside, cumulated, rest)


def _crossing(weights: mx.array, cumulated: mx.array, target: mx.array) -> mx.array:
    # A parallel scan's sums may step up by a rounding error where there is no weight, hence the second condition.
    return mx.argmax((cumulated > target) & (weights > 0), axis=-1)
