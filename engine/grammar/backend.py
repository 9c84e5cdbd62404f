"""What the two grammar engines have in common: compiled grammars, and matchers that walk them.

Masks are as `engine.core.constraint` has them. Knows no schema; the engines' own modules know these types.
"""

from typing import Protocol

from basemlx.engine.core.constraint import Mask


class Matcher(Protocol):
    """Where one choice stands in its grammar; a `TokenMatcher` that can also go back."""

    def fill(self, mask: Mask) -> bool:
        """Writes the mask [ceil(V / 32)] of the next token; False, and nothing written, if every token is allowed."""
        ...

    def accept(self, token_id: int) -> bool:
        """Moves on by one token; False, and nothing changed, if the grammar does not allow it."""
        ...

    def rollback(self, count: int) -> None:
        """Takes back the last `count` accepted tokens, an end token included."""
        ...

    def fork(self) -> "Matcher":
        """An independent matcher at the same place."""
        ...

    @property
    def is_terminated(self) -> bool:
        """Whether an end token was accepted: nothing can follow."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether the text so far is a whole text of the grammar."""
        ...

    def accepts_bytes(self, text: bytes) -> bool:
        """Whether `text`, written from here on with ordinary tokens, completes the grammar. Changes nothing."""
        ...


class CompiledGrammar(Protocol):
    """Shared by all matchers of one grammar and vocabulary; safe to use from several threads."""

    def matcher(self) -> Matcher: ...

    @property
    def size_bytes(self) -> int:
        """About how much memory it holds."""
        ...


class GrammarBackend(Protocol):
    """One engine, made ready for one vocabulary."""

    name: str

    def compile_lark(self, text: str) -> CompiledGrammar:
        """A grammar in the engine's own dialect. Raises UnsupportedSchema."""
        ...
