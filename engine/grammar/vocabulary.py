"""A model's tokens as grammar engines want them: the bytes of each, which end a text, and which are control tokens.

Control tokens (<|im_start|>, <tool_call> …) have no bytes here, so no grammar for text can produce one: what looks
like one inside a JSON string would have to be spelled with ordinary tokens. The model's logits are often wider than the
tokenizer: ids without a token have no bytes either. Loads no model and no grammar engine.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as HFTokenizer

from basemlx.engine.errors import ModelCorrupt
from basemlx.engine.text.decoding import DetokenizerFactory

_END_TOKENS = (
    "<|im_end|>", "<|endoftext|>", "</s>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>", "<eos>", "<end_of_turn>",
    "<|return|>", "<|end|>", "<|END_OF_TURN_TOKEN|>", "<｜end▁of▁sentence｜>",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """`tokens`: bytes by id, b"" for what stands for no text; as many as the model's logits are wide. `controls`: ids
    of the control tokens by the texts that structures name them by."""

    tokens: tuple[bytes, ...]
    eos_token_ids: frozenset[int]
    control_token_ids: frozenset[int]
    controls: Mapping[str, int]
    encode: Callable[[str], list[int]]

    def spell(self, text: str) -> list[int]:
        """Ordinary tokens for `text`, as the model's tokenizer has it; longest first where that has a control token."""
        token_ids = self.encode(text)
        return token_ids if self.control_token_ids.isdisjoint(token_ids) else self._greedy(text.encode())

    def _greedy(self, text: bytes) -> list[int]:
        ids = self._ids
        longest = self._longest
        found: list[int] = []
        at = 0
        while at < len(text):
            for length in range(min(longest, len(text) - at), 0, -1):
                token_id = ids.get(text[at : at + length])
                if token_id is not None:
                    found.append(token_id)
                    at += length
                    break
            else:
                raise ValueError("a byte that no token stands for")
        return found

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        return {token: token_id for token_id, token in enumerate(self.tokens) if token}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.tokens))

    @property
    def size(self) -> int:
        return len(self.tokens)

    @classmethod
    def from_tokenizer(
        cls, tokenizer: HFTokenizer, eos_token_ids: Iterable[int], vocab_size: int | None = None
    ) -> "Vocabulary":
        """`vocab_size`: the width of the model's logits; the tokenizer's own where it is not given or less."""
        count = tokenizer.get_vocab_size(with_added_tokens=True)
        size = max(count, vocab_size or 0)
        factory = DetokenizerFactory(tokenizer)
        controls = {
            token.content: token_id
            for token_id, token in tokenizer.get_added_tokens_decoder().items()
            if token.special or _is_markup(token.content)
        }
        control = frozenset(eos_token_ids) | frozenset(controls.values())
        tokens = tuple(
            b"" if token_id in control or token_id >= count else factory.token_bytes(token_id)
            for token_id in range(size)
        )
        no_token = frozenset(range(count, size))
        return cls(
            tokens,
            frozenset(eos_token_ids),
            control | no_token,
            controls,
            lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids),
        )

    @classmethod
    def from_tokenizer_file(cls, path: Path | str, vocab_size: int | None = None) -> "Vocabulary":
        """Reads a tokenizer.json, and the end tokens from the files beside it or, without these, from its well-known
        ones. Raises ModelCorrupt."""
        path = Path(path)
        try:
            tokenizer = HFTokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise ModelCorrupt(f"{path.name} is no tokenizer: {error}") from error
        ends = _ends_beside(path, tokenizer)
        if not ends:
            ends = {found for text in _END_TOKENS if (found := tokenizer.token_to_id(text)) is not None}
        if not ends:
            raise ModelCorrupt(f"{path.name} says nothing of which token ends a text.")
        return cls.from_tokenizer(tokenizer, ends, vocab_size)


def _is_markup(text: str) -> bool:
    return len(text) > 2 and (text[0], text[-1]) in (("<", ">"), ("[", "]"))


def _ends_beside(path: Path, tokenizer: HFTokenizer) -> set[int]:

    ends: set[int] = set()
    for name in ("generation_config.json", "tokenizer_config.json"):
        try:
            contents: Any = json.loads((path.parent / name).read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if not isinstance(contents, dict):
            continue
        given = contents.get("eos_token_id")
        ends |= {
            end
            for end in (given if isinstance(given, list) else [given])
            if isinstance(end, int) and not isinstance(end, bool)
        }
        token = contents.get("eos_token")
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str) and (found := tokenizer.token_to_id(text)) is not None:
            ends.add(found)
    return ends
