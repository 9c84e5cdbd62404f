"""Random numbers that are a pure function of (seed, choice, position).

A row's draw depends on nothing else: not on the batch it runs in, nor on what ran before, so a seeded request repeats
alone, in any batch and after giving its row up. Counter-based generation as in Salmon et al., "Parallel Random
Numbers: As Easy as 1, 2, 3" (2011), with BLAKE2b as the mixing function: one 64-bit draw a token costs about 1 µs.
"""

import hashlib
import os

LARGEST = 1.0 - 2.0**-22
"""The draws' upper end, far enough below 1 that float32 arithmetic on the device cannot round it up to 1."""


def uniform(seed: int, choice: int, position: int) -> float:
    """A number in [0, 1) for the token at `position` (0 is the first sampled one) of choice `choice`."""
    message = b"%d:%d:%d" % (seed, choice, position)
    bits = int.from_bytes(hashlib.blake2b(message, digest_size=8).digest(), "big")
    return min((bits >> 11) * 2.0**-53, LARGEST)


def fresh_seed() -> int:
    """64 bits for a request that brought no seed."""
    return int.from_bytes(os.urandom(8), "big")
