"""What each token stands for in bytes, read from a tokenizer's own decoder.

A token's bytes make decoding incremental and exact: bytes are joined, characters appear when they are complete. That
fits the decoders of all current language models, which are of two families: byte-level BPE (each character of a
token's text stands for one byte) and SentencePiece (a mark stands for a space, `<0x41>` for a byte, and spaces at the
start of a text are dropped). Where a decoder is neither, `from_decoder` returns None.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_level_alphabet() -> dict[str, int]:
    """Character -> byte, the table that byte-level BPE has used since GPT-2: printable Latin-1 stands for itself, the
    other bytes follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in printable)
    return table | {chr(0x100 + index): byte for index, byte in enumerate(others)}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`tokens[id]` is the token's bytes. `strip_start` spaces are dropped from the start of a decoded text."""

    tokens: Mapping[int, bytes]
    strip_start: int

    @classmethod
    def from_decoder(cls, decoder: Mapping[str, Any], texts: Mapping[int, str]) -> "Vocabulary | None":
        """From tokenizer.json's `decoder` and each id's text; None if the decoder is of neither family."""
        steps = decoder.get("decoders", [decoder]) if decoder else []
        kinds = [step.get("type") for step in steps]
        if "ByteLevel" in kinds:
            alphabet = byte_level_alphabet()
            return cls({token: _byte_level(text, alphabet) for token, text in texts.items()}, 0)
        mark, strip, byte_fallback = None, 0, False
        for step in steps:
            kind = step.get("type")
            if kind == "Replace" and step.get("content") == " " and "String" in step.get("pattern", {}):
                mark = step["pattern"]["String"]
            elif kind == "Metaspace":
                mark = step.get("replacement", "▁")
                strip = (
                    0 if step.get("prepend_scheme") == "never" or step.get("add_prefix_space") is False else 1
                )
            elif kind == "Strip" and step.get("content") == " " and not step.get("stop"):
                strip = int(step.get("start", 0))
            elif kind == "ByteFallback":
                byte_fallback = True
            elif kind != "Fuse":
                return None
        if mark is None:
            return None
        return cls({t: _sentencepiece(text, mark, byte_fallback) for t, text in texts.items()}, strip)


def _byte_level(text: str, alphabet: Mapping[str, int]) -> bytes:
    try:
        return bytes(alphabet[character] for character in text)
    except KeyError:  # an added token with characters of its own
        return text.encode()


def _sentencepiece(text: str, mark: str, byte_fallback: bool) -> bytes:
    match = _BYTE_TOKEN.fullmatch(text) if byte_fallback else None
    return bytes([int(match[1], 16)]) if match else text.replace(mark, " ").encode()
