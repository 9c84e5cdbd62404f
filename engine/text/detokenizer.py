"""Token ids to text, one at a time: what is certain comes out at once, what may still change is held back.

For every kind of decoder that tokenizer.json knows, the pieces joined equal what the tokenizers library decodes from
all ids together. Each class here mirrors one kind of decoder as a small state machine, so a token costs the same at the
start of a text and at its end, and the library, which only decodes whole lists, is asked once per token of the
vocabulary at most. It knows nothing of stop strings or of what the text means.
"""

import codecs
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from tokenizers import Tokenizer as HFTokenizer
from tokenizers.decoders import Decoder

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Detokenizer(ABC):
    """Decodes one sequence. `"".join(pushes) + finish()` is the text of all ids. Use a fresh one for each sequence."""

    @abstractmethod
    def push(self, token_id: int) -> str:
        """The text that is now certain; never U+FFFD for a character that may still be completed."""

    @abstractmethod
    def finish(self) -> str:
        """The rest: incomplete bytes become U+FFFD. Nothing may be pushed afterwards."""


class DetokenizerFactory:
    """Makes detokenizers for one tokenizer, which share what they learn about its tokens."""

    def __init__(self, tokenizer: HFTokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        special_texts = {token.content for token in added.values() if token.special}
        # As the library: what is written like a special token counts as one, whatever its id.
        self._special_ids = frozenset(
            token_id for text in special_texts if (token_id := tokenizer.token_to_id(text)) is not None
        ) | {token_id for token_id, token in added.items() if token.special}
        self._make, self._bytes_of = _plan(tokenizer)

    @property
    def special_ids(self) -> frozenset[int]:
        return self._special_ids

    def make(self, skip_special_tokens: bool) -> Detokenizer:
        return self._make(self._special_ids if skip_special_tokens else frozenset())

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes that the token stands for inside a text; empty for an id that is no token."""
        return self._bytes_of(token_id)


_Make = Callable[[frozenset[int]], Detokenizer]
_BytesOf = Callable[[int], bytes]


def _plan(tokenizer: HFTokenizer) -> tuple[_Make, _BytesOf]:
    """How this tokenizer's decoder is mirrored: read from its own description of itself."""
    steps = _steps(tokenizer.decoder)
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        byte_tokens = _ByteLevelTokens(tokenizer)
        return (lambda skipped: _ByteLevelDetokenizer(byte_tokens, skipped)), byte_tokens.__getitem__
    if "ByteFallback" in kinds and _is_fallback_chain(steps):
        pieces = _FallbackTokens(tokenizer, steps)
        strip = next(((step["content"], step["start"]) for step in steps if step["type"] == "Strip"), ("", 0))
        return (lambda skipped: _FallbackDetokenizer(pieces, strip, skipped)), pieces.token_bytes
    local = _LocalTokens(tokenizer)
    if kinds in (["Metaspace"], ["WordPiece"]) or set(kinds) <= {"Replace"}:
        return (lambda skipped: _LocalDetokenizer(local, skipped)), local.token_bytes
    return (lambda skipped: _WholeDetokenizer(tokenizer, bool(skipped))), local.token_bytes


def _steps(decoder: Decoder | None) -> list[dict[str, Any]]:
    """The decoder's parts in order, nested sequences flattened."""
    if decoder is None:
        return []
    described = json.loads(decoder.__getstate__())

    def flat(step: dict[str, Any]) -> list[dict[str, Any]]:
        if step["type"] != "Sequence":
            return [step]
        return [leaf for part in step["decoders"] for leaf in flat(part)]

    return flat(described)


def _is_fallback_chain(steps: list[dict[str, Any]]) -> bool:
    """SentencePiece's chain: replacements, ByteFallback, Fuse, then perhaps a Strip of leading characters."""
    kinds = [step["type"] for step in steps]
    split = kinds.index("ByteFallback")
    before, after = kinds[:split], kinds[split + 1 :]
    strips_end = any(step["stop"] for step in steps if step["type"] == "Strip")
    return set(before) <= {"Replace"} and after in (["Fuse"], ["Fuse", "Strip"]) and not strips_end


# Byte-level BPE (GPT-2 and its heirs): each character of a token stands for one byte.


def _byte_characters() -> dict[str, int]:
    """GPT-2's table: printable Latin-1 characters stand for themselves, other bytes for characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    return table | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_BYTE_CHARACTERS = _byte_characters()


class _ByteLevelTokens(dict[int, bytes]):
    """Token id to bytes, filled as tokens are met."""

    def __init__(self, tokenizer: HFTokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, token_id: int) -> bytes:
        token = self._tokenizer.id_to_token(token_id) or ""
        try:
            value = bytes([_BYTE_CHARACTERS[character] for character in token])
        except KeyError:  # an added token that is written as plain text
            value = token.encode()
        self[token_id] = value
        return value


class _ByteLevelDetokenizer(Detokenizer):
    def __init__(self, tokens: _ByteLevelTokens, skipped: frozenset[int]) -> None:
        self._tokens = tokens
        self._skipped = skipped
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def push(self, token_id: int) -> str:
        if token_id in self._skipped:
            return ""
        return self._decode(self._tokens[token_id])

    def finish(self) -> str:
        return self._decode(b"", True)


# SentencePiece with byte fallback: whole pieces, and tokens like <0xE6> for single bytes.

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class _FallbackTokens(dict[int, str | int | None]):
    """Token id to its text, to the byte that it stands for, or to None if it is no token; filled as tokens are met."""

    def __init__(self, tokenizer: HFTokenizer, steps: list[dict[str, Any]]) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        local = steps[: [step["type"] for step in steps].index("ByteFallback")]
        self._local = _rebuilt(local)

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
        return bytes([value]) if isinstance(value, int) else (value or "").encode()


def _rebuilt(steps: list[dict[str, Any]]) -> Decoder | None:
    """A decoder of the library made of some of a tokenizer's own steps."""
    if not steps:
        return None
    empty = {"type": "BPE", "vocab": {}, "merges": []}
    described = {"model": empty, "decoder": {"type": "Sequence", "decoders": steps}}
    decoder: Decoder | None = HFTokenizer.from_str(json.dumps(described)).decoder
    return decoder


class _FallbackDetokenizer(Detokenizer):
    """A run of byte tokens is one character or several if all of it is valid UTF-8, else one U+FFFD for each byte, as
    the library has it; so a run is held until it ends."""

    def __init__(self, tokens: _FallbackTokens, strip: tuple[str, int], skipped: frozenset[int]) -> None:
        self._tokens = tokens
        self._skipped = skipped
        self._run = bytearray()
        self._stripped, self._strip_left = strip

    def push(self, token_id: int) -> str:
        if token_id in self._skipped:
            return ""
        piece = self._tokens[token_id]
        if isinstance(piece, int):
            self._run.append(piece)
            return ""
        if piece is None:
            return ""
        text = self._end_run() + piece if self._run else piece
        return self._strip(text) if self._strip_left else text

    def finish(self) -> str:
        return self._strip(self._end_run())

    def _end_run(self) -> str:
        run = bytes(self._run)
        self._run.clear()
        try:
            return run.decode()
        except UnicodeDecodeError:
            return REPLACEMENT * len(run)

    def _strip(self, text: str) -> str:
        """Takes the first few characters off the whole text if they are the stripped one; text comes in pieces."""
        cut = 0
        while self._strip_left and cut < len(text):
            if text[cut] != self._stripped:
                self._strip_left = 0
                break
            cut += 1
            self._strip_left -= 1
        return text[cut:]


# Decoders where a token's text depends on the token and on whether it is the first.


class _LocalTokens:
    """The text of a token at the start of a text and inside one, asked of the library once each."""

    def __init__(self, tokenizer: HFTokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = tokenizer.decoder
        self._texts: tuple[dict[int, str | None], dict[int, str | None]] = ({}, {})

    def text(self, token_id: int, *, first: bool) -> str | None:
        """None for an id that is no token."""
        texts = self._texts[first]
        if token_id not in texts:
            texts[token_id] = self._ask(self._tokenizer.id_to_token(token_id), first)
        return texts[token_id]

    def _ask(self, token: str | None, first: bool) -> str | None:
        if token is None:
            return None
        if self._decoder is None:
            return token if first else " " + token
        if first:
            return str(self._decoder.decode([token]))
        return str(self._decoder.decode(["x", token])).removeprefix(self._decoder.decode(["x"]))

    def token_bytes(self, token_id: int) -> bytes:
        return (self.text(token_id, first=False) or "").encode()


class _LocalDetokenizer(Detokenizer):
    def __init__(self, tokens: _LocalTokens, skipped: frozenset[int]) -> None:
        self._tokens = tokens
        self._skipped = skipped
        self._first = True

    def push(self, token_id: int) -> str:
        if token_id in self._skipped:
            return ""
        text = self._tokens.text(token_id, first=self._first)
        if text is None:
            return ""
        self._first = False
        return text

    def finish(self) -> str:
        return ""


class _WholeDetokenizer(Detokenizer):
    """For decoders that no language model in use has (CTC, the first GPT's word endings): right, but all at the end."""

    def __init__(self, tokenizer: HFTokenizer, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._token_ids: list[int] = []

    def push(self, token_id: int) -> str:
        self._token_ids.append(token_id)
        return ""

    def finish(self) -> str:
        return self._tokenizer.decode(self._token_ids, skip_special_tokens=self._skip_special_tokens)
