"""A model's tokenizer, read from its folder: tokenizer.json and the names of its control tokens.

It is the `tokenizers` library's own implementation; transformers is not used. It knows no chat and no model.
"""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from basemlx.engine.errors import ModelCorrupt
from basemlx.engine.text.detokenizer import ByteDetokenizer, Detokenizer, WindowDetokenizer
from basemlx.engine.text.vocabulary import Vocabulary

MAX_FILE_BYTES = 256 * 2**20


class Tokenizer:
    """Text to ids and back. Thread-safe.

    `bos_token` and `eos_token` are the texts that chat templates refer to, None where the model has none.
    `eos_token_ids` is what the tokenizer's files name as the end; generation_config.json may add to it.
    """

    def __init__(self, backend: tokenizers.Tokenizer, config: dict[str, Any]) -> None:
        self._backend = backend
        self.config = config
        added = backend.get_added_tokens_decoder()
        self.special_token_ids = frozenset(token for token, facts in added.items() if facts.special)
        self.bos_token = _token_text(config.get("bos_token"))
        self.eos_token = _token_text(config.get("eos_token"))
        eos_id = backend.token_to_id(self.eos_token) if self.eos_token else None
        self.eos_token_ids = frozenset() if eos_id is None else frozenset({eos_id})

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """Reads a model folder. Raises ModelCorrupt, which names the file at fault."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            others = [name for name in ("tokenizer.model", "tiktoken.model") if (folder / name).is_file()]
            remedy = f" (only {others[0]}, which has to be converted first)" if others else ""
            raise ModelCorrupt(f"The model folder has no tokenizer.json{remedy}.")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ModelCorrupt("tokenizer.json is too large to be one.")
        try:
            backend = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises plain Exception
            raise ModelCorrupt(f"tokenizer.json cannot be read: {str(error)[:200]}") from error
        backend.no_truncation()
        backend.no_padding()
        config = _read_object(folder / "special_tokens_map.json") | _read_object(
            folder / "tokenizer_config.json"
        )
        return cls(backend, config)

    @property
    def vocab_size(self) -> int:
        """Entries, added tokens included. A model's logits are often wider."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Ids of `text`. Control tokens written out in it become their ids, as chat templates need."""
        return list(self._backend.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of `ids`: by definition the join of what a detokenizer shows."""
        detokenizer = self.detokenizer(skip_special_tokens=skip_special_tokens)
        return "".join([*map(detokenizer.push, ids), detokenizer.finish()])

    def detokenizer(self, *, skip_special_tokens: bool = True) -> Detokenizer:
        """A fresh incremental decoder."""
        if self._vocabulary is not None:
            return ByteDetokenizer(self._vocabulary, self.special_token_ids if skip_special_tokens else ())
        return WindowDetokenizer(
            lambda ids: self._backend.decode(ids, skip_special_tokens=skip_special_tokens)
        )

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes a token stands for, control tokens written out; empty for ids without a token."""
        if self._vocabulary is not None:
            return self._vocabulary.tokens.get(token_id, b"")
        return self._backend.decode([token_id], skip_special_tokens=False).encode()

    def token_id(self, text: str) -> int | None:
        """The id of a token by its text."""
        return self._backend.token_to_id(text)

    @cached_property
    def _vocabulary(self) -> Vocabulary | None:
        texts = {token: text for text, token in self._backend.get_vocab(with_added_tokens=True).items()}
        decoder = self._backend.decoder
        return Vocabulary.from_decoder(json.loads(decoder.__getstate__()) if decoder else {}, texts)


def _token_text(token: Any) -> str | None:
    """A token's text from tokenizer_config.json, where it stands plain or in an object."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object, empty where the file is missing. Raises ModelCorrupt."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelCorrupt(f"{path.name} is not valid JSON.") from error
    if not isinstance(found, dict):
        raise ModelCorrupt(f"{path.name} must hold a JSON object.")
    return found
