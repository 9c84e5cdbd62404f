"""Tokens to text, one at a time: what has been shown never changes, and no broken character is ever shown.

Two ways, one interface: `ByteDetokenizer` joins the tokens' bytes, `WindowDetokenizer` asks the tokenizer's own decoder
over a short window, for the decoders whose bytes are not known. Both cost the same for every token of a text.
"""

import codecs
from collections.abc import Callable, Collection
from typing import Protocol

from basemlx.engine.text.vocabulary import Vocabulary

REPLACEMENT = "\ufffd"
LONGEST_CHARACTER = 4
"""Bytes of a UTF-8 character: as many tokens may be needed before one shows."""


class Detokenizer(Protocol):
    """`push` returns the text that a token makes certain, `finish` what is left; joined they are the whole text."""

    def push(self, token_id: int) -> str: ...
    def finish(self) -> str: ...


class ByteDetokenizer:
    """Joins bytes. Incomplete characters wait; invalid bytes, and incomplete ones at the end, become U+FFFD."""

    def __init__(self, vocabulary: Vocabulary, skipped: Collection[int]) -> None:
        self._tokens = vocabulary.tokens
        self._skipped = skipped
        self._strip = vocabulary.strip_start
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        if token_id in self._skipped:
            return ""
        return self._stripped(self._decoder.decode(self._tokens.get(token_id, b"")))

    def finish(self) -> str:
        return self._stripped(self._decoder.decode(b"", final=True))

    def _stripped(self, text: str) -> str:
        while self._strip and text:
            if text[0] != " ":
                self._strip = 0
                break
            text = text[1:]
            self._strip -= 1
        return text


class WindowDetokenizer:
    """Decodes the last few tokens with and without the new one: the difference is its text.

    The window starts at a token whose text has been shown, so that what a decoder does at a text's start (dropping a
    space, joining word pieces) happens to both sides alike.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._num_shown = 0  # tokens of the window whose text is out
        self._shown = ""  # their text, as the window gives it

    def push(self, token_id: int) -> str:
        self._window.append(token_id)
        text = self._decode(self._window)
        waiting = len(self._window) - self._num_shown
        if text.endswith(REPLACEMENT) and waiting < LONGEST_CHARACTER:
            return ""
        return self._show(text)

    def finish(self) -> str:
        return self._show(self._decode(self._window)) if self._window else ""

    def _show(self, text: str) -> str:
        new = text[len(self._shown) :]
        if new:  # tokens without text cannot start a window: the next one would look like a text's first
            self._window = self._window[self._num_shown :]
            text = self._decode(self._window)
        self._num_shown = len(self._window)
        self._shown = text
        return new
