"""What the step asks of a grammar. `engine.grammar` implements it; the step knows no grammar engine and no schema.

A constraint is compiled once and shared; each choice walks it with a matcher of its own. A mask has one bit a token,
lowest bit first, in 32-bit words; a set bit allows the token.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.int32]

MAX_FORCED_TOKENS = 64
"""Of one run of tokens that the grammar leaves no choice about. The rest follows a step later."""


class TokenMatcher(Protocol):
    """Where one choice stands in its grammar. Advanced by tokens that were really chosen, nothing else."""

    def fill(self, mask: Mask) -> bool:
        """Writes the mask [ceil(V / 32)] of the next token; False, and nothing written, if every token is allowed."""
        ...

    def accept(self, token_id: int) -> bool:
        """Moves on by one token; False if the grammar does not allow it."""
        ...

    @property
    def is_terminated(self) -> bool:
        """Whether an end token was accepted: nothing can follow."""
        ...


class Constraint(Protocol):
    """A compiled grammar for one model's vocabulary."""

    def matcher(self) -> TokenMatcher: ...


def only_token(mask: Mask) -> int | None:
    """The one token that a mask allows; None if it allows several, or none."""
    words = np.flatnonzero(mask)
    if len(words) != 1:
        return None
    word = int(mask[words[0]]) & 0xFFFFFFFF
    return None if word & (word - 1) else 32 * int(words[0]) + word.bit_length() - 1


def forced_tokens(matcher: TokenMatcher, mask: Mask, limit: int) -> tuple[list[int], bool]:
    """Tokens the grammar leaves no choice about, from `mask`, which was just filled, on; they have been accepted. And
    whether `mask`, which is overwritten, now holds the mask of what follows them.
    """
    found: list[int] = []
    while len(found) < limit:
        token_id = only_token(mask)
        if token_id is None or not matcher.accept(token_id):
            return found, True
        found.append(token_id)
        if matcher.is_terminated or not matcher.fill(mask):
            return found, False
    return found, True
