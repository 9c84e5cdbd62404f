"""SentencePiece with byte fallback: whole pieces, and tokens like <0xE6> for single bytes."""

import json
import re
from typing import Any

from tokenizers import Tokenizer as HFTokenizer
from tokenizers.decoders import Decoder

from basemlx.engine.text.detokenizer import Detokenizer

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class FallbackTokens(dict[int, str | int | None]):
    """Token id to its text, to the byte that it stands for, or to None if it is no token; filled as tokens are met."""

    def __init__(self, tokenizer: HFTokenizer, steps: list[dict[str, Any]]) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        local = steps[: [step["type"] for step in steps].index("ByteFallback")]
        self._local = _rebuilt(local)
        self._sign = steps[-1].get("replacement", " ")  # of spaces, where they are brought back at the end

    def __missing__(self, token_id: int) -> str | int | None:
        token = self._tokenizer.id_to_token(token_id)
        if token and self._local is not None:
            token = str(self._local.decode([token]))
        byte = _BYTE_TOKEN.fullmatch(token or "")
        value = int(byte[1], 16) if byte else token
        self[token_id] = value
        return value

    def token_bytes(self, token_id: int) -> bytes:
        value = self[token_id]
        return bytes([value]) if isinstance(value, int) else (value or "").replace(self._sign, " ").encode()


def _rebuilt(steps: list[dict[str, Any]]) -> Decoder | None:
    """A decoder of the library made of some of a tokenizer's own steps."""
    if not steps:
        return None
    empty = {"type": "BPE", "vocab": {}, "merges": []}
    described = {"model": empty, "decoder": {"type": "Sequence", "decoders": steps}}
    decoder: Decoder | None = HFTokenizer.from_str(json.dumps(described)).decoder
    return decoder


class _Space:
    """What becomes of the start of a text: nothing, here."""

    def passed(self, piece: str) -> str:
        return piece


class _StrippedSpace(_Space):
    """Takes up to `num_left` characters off the start of the text, however it is cut into pieces."""

    def __init__(self, character: str, num_left: int) -> None:
        self._character, self._num_left = character, num_left

    def passed(self, piece: str) -> str:
        while self._num_left and piece:
            if piece[0] != self._character:
                self._num_left = 0
            else:
                piece = piece[1:]
                self._num_left -= 1
        return piece


class _Metaspace(_Space):
    """A sign for spaces, which the first piece loses."""

    def __init__(self, sign: str, *, drops_first: bool) -> None:
        self._sign, self._replacement = sign, "" if drops_first else " "

    def passed(self, piece: str) -> str:
        replacement, self._replacement = self._replacement, " "
        return piece.replace(self._sign, replacement)


def space_at_start(last_step: dict[str, Any]) -> _Space:
    if last_step["type"] == "Strip":
        return _StrippedSpace(last_step["content"], last_step["start"])
    if last_step["type"] == "Metaspace":
        return _Metaspace(last_step["replacement"], drops_first=last_step["prepend_scheme"] != "never")
    return _Space()


class FallbackDetokenizer(Detokenizer):
    """A run of byte tokens is one character or several if all of it is valid UTF-8, else one U+FFFD for each byte, as
    the library has it; so a run is held until it ends."""

    def __init__(self, tokens: FallbackTokens, space: _Space, skipped: frozenset[int]) -> None:
        self._tokens = tokens
        self._space = space
        self._skipped = skipped
        self._run = bytearray()

    def push(self, token_id: int) -> str:
        if token_id in self._skipped:
            return ""
        piece = self._tokens[token_id]
        if piece is None:
            return ""
        if isinstance(piece, int):
            self._run.append(piece)
            return ""
        return self.finish() + self._space.passed(piece)

    def finish(self) -> str:
        if not self._run:
            return ""
        run = bytes(self._run)
        self._run.clear()
        try:
            return self._space.passed(run.decode())
        except UnicodeDecodeError:
            return self._space.passed(_REPLACEMENT) + _REPLACEMENT * (len(run) - 1)
