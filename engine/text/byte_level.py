"""Byte-level BPE (GPT-2 and its heirs): each character of a token stands for one byte."""

import codecs

from tokenizers import Tokenizer as HFTokenizer

from basemlx.engine.text.detokenizer import Detokenizer


def _byte_characters() -> dict[str, int]:
    """GPT-2's table: printable Latin-1 characters stand for themselves, other bytes for characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    return table | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_BYTE_CHARACTERS = _byte_characters()


class ByteLevelTokens(dict[int, bytes]):
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


class ByteLevelDetokenizer(Detokenizer):
    def __init__(self, tokens: ByteLevelTokens, skipped: frozenset[int]) -> None:
        self._tokens = tokens
        self._skipped = skipped
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def push(self, token_id: int) -> str:
        if token_id in self._skipped:
            return ""
        return self._decode(self._tokens[token_id])

    def finish(self) -> str:
        return self._decode(b"", True)
