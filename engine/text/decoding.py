"""Which detokenizer mirrors a tokenizer's decoder: read from the decoder's own description of itself."""

import json
from collections.abc import Callable
from typing import Any

from tokenizers import Tokenizer as HFTokenizer
from tokenizers.decoders import Decoder

from basemlx.engine.text.byte_fallback import FallbackDetokenizer, FallbackTokens, space_at_start
from basemlx.engine.text.byte_level import ByteLevelDetokenizer, ByteLevelTokens
from basemlx.engine.text.detokenizer import Detokenizer
from basemlx.engine.text.local import LocalDetokenizer, LocalTokens, WholeDetokenizer


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
        byte_tokens = ByteLevelTokens(tokenizer)
        return (lambda skipped: ByteLevelDetokenizer(byte_tokens, skipped)), byte_tokens.__getitem__
    if "ByteFallback" in kinds and _is_fallback_chain(steps):
        pieces = FallbackTokens(tokenizer, steps)
        return (
            lambda skipped: FallbackDetokenizer(pieces, space_at_start(steps[-1]), skipped)
        ), pieces.token_bytes
    local = LocalTokens(tokenizer)
    if kinds in (["Metaspace"], ["WordPiece"]) or set(kinds) <= {"Replace"}:
        return (lambda skipped: LocalDetokenizer(local, skipped)), local.token_bytes
    return (lambda skipped: WholeDetokenizer(tokenizer, bool(skipped))), local.token_bytes


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
    """SentencePiece's chain: replacements, ByteFallback, then what becomes of the space at the start."""
    kinds = [step["type"] for step in steps]
    split = kinds.index("ByteFallback")
    before, after = kinds[:split], kinds[split + 1 :]
    strips_end = any(step["stop"] for step in steps if step["type"] == "Strip")
    known = after in (["Fuse"], ["Fuse", "Strip"], ["Metaspace"])
    return set(before) <= {"Replace"} and known and not strips_end
