"""Token ids to text, one at a time: what is certain comes out at once, what may still change is held back.

For every kind of decoder that tokenizer.json knows, the pieces joined equal what the tokenizers library decodes from
all ids together. Each kind is mirrored as a small state machine (`byte_level`, `byte_fallback`, `local`; `decoding`
chooses), so a token costs the same at the start of a text and at its end, and the library, which only decodes whole
lists, is asked once per token of the vocabulary at most. It knows nothing of stop strings or of what the text means.
"""

from abc import ABC, abstractmethod


class Detokenizer(ABC):
    """Decodes one sequence. `"".join(pushes) + finish()` is the text of all ids. Use a fresh one for each sequence."""

    @abstractmethod
    def push(self, token_id: int) -> str:
        """The text that is now certain; never U+FFFD for a character that may still be completed."""

    @abstractmethod
    def finish(self) -> str:
        """The rest: incomplete bytes become U+FFFD. Nothing may be pushed afterwards."""
