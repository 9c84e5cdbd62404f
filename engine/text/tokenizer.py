"""A model's tokenizer: tokenizer.json through the tokenizers library, and what the files beside it say of its tokens.

Files come from strangers: sizes are bounded, and whatever is wrong with them is a ModelCorrupt that names the file. No
code of a repository is run; transformers is not used. Texts go in and come out as they are: no cleaning up of spaces.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as HFTokenizer

from basemlx.engine.errors import InvalidRequest, ModelCorrupt
from basemlx.engine.models.config import eos_token_ids, read_json_object
from basemlx.engine.text.decoding import DetokenizerFactory
from basemlx.engine.text.detokenizer import Detokenizer

MAX_TOKENIZER_BYTES = 256 * 2**20
_COUNTED_CHARACTERS = 64 * 1024
_CUT_TOKENS = 8  # by how much cutting a text may raise the number of its tokens, generously


class Tokenizer:
    """Text to token ids and back, safe to use from any thread.

    `vocab_size` counts entries, added tokens included; the model's logits are often wider. `bos_token` and
    `eos_token` are the texts of these tokens, None where the model has none. `special_token_ids` are left out of
    decoded text unless asked for. `special_tokens` maps names as templates use them (`bos_token` …) to texts.
    """

    def __init__(
        self,
        tokenizer: HFTokenizer,
        config: Mapping[str, Any] | None = None,
        *,
        special_tokens: Mapping[str, Any] | None = None,
        generation_config: Mapping[str, Any] | None = None,
    ) -> None:
        config = config or {}
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._detokenizers = DetokenizerFactory(tokenizer)
        self.vocab_size: int = tokenizer.get_vocab_size(with_added_tokens=True)
        self.special_token_ids = self._detokenizers.special_ids
        self.special_tokens = {**_named_tokens(special_tokens or {}), **_named_tokens(config)}
        self.bos_token = self.special_tokens.get("bos_token")
        self.eos_token = self.special_tokens.get("eos_token")
        self.bos_token_id = self._id_of(self.bos_token)
        ends = set(eos_token_ids(generation_config or {}))
        if (eos_token_id := self._id_of(self.eos_token)) is not None:
            ends.add(eos_token_id)
        self.eos_token_ids = frozenset(ends)
        self._adds_bos = config.get("add_bos_token") is True and self.bos_token_id is not None

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """Reads a model's folder. Raises ModelCorrupt."""
        return cls(
            _read(folder),
            _optional(folder / "tokenizer_config.json"),
            special_tokens=_optional(folder / "special_tokens_map.json"),
            generation_config=_optional(folder / "generation_config.json"),
        )

    @property
    def backend(self) -> HFTokenizer:
        """The library's tokenizer, to be read only."""
        return self._tokenizer

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Token ids of `text`. `add_special_tokens` adds what the model wants around a plain text (its BOS, mostly); a
        rendered chat template brings its own. Raises InvalidRequest for text that is not valid Unicode."""
        try:
            # The batch call is the one that lets other Python threads run meanwhile.
            [encoding] = self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        except (TypeError, UnicodeEncodeError):
            raise InvalidRequest("The text holds a lone surrogate, which is not valid Unicode.") from None
        token_ids: list[int] = encoding.ids
        if add_special_tokens and self._adds_bos and token_ids[:1] != [self.bos_token_id]:
            assert self.bos_token_id is not None
            token_ids.insert(0, self.bos_token_id)
        return token_ids

    def is_longer_than(self, texts: Iterable[str], num_tokens: int) -> bool:
        """Whether the texts surely have more tokens together, reading only as much of them as it takes to know.

        For refusing a text of megabytes early; False may also mean that it is a close call.
        """
        for text in texts:
            for start in range(0, len(text), _COUNTED_CHARACTERS):
                part = text[start : start + _COUNTED_CHARACTERS]
                num_tokens -= max(len(self.encode(part)) - _CUT_TOKENS, 0)
                if num_tokens < 0:
                    return True
        return False

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of the ids; ids that are no token have none."""
        return self._tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for inside a text; part of a character, perhaps."""
        return self._detokenizers.token_bytes(token_id)

    def detokenizer(self, *, skip_special_tokens: bool = True) -> Detokenizer:
        """A fresh one, for one sequence."""
        return self._detokenizers.make(skip_special_tokens)

    def _id_of(self, token: str | None) -> int | None:
        return None if token is None else self._tokenizer.token_to_id(token)


def _read(folder: Path) -> HFTokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelCorrupt(_what_is_missing(folder))
    if path.stat().st_size > MAX_TOKENIZER_BYTES:
        raise ModelCorrupt(f"tokenizer.json is larger than {MAX_TOKENIZER_BYTES // 2**20} MiB.")
    try:
        return HFTokenizer.from_file(str(path))
    except BaseException as error:
        # The library panics on some malformed files, which is no Exception in Python.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        words = " ".join(str(error).replace(str(folder), "").split())[:200]
        raise ModelCorrupt(f"tokenizer.json cannot be read: {words}. Download the model again.") from None


def _what_is_missing(folder: Path) -> str:
    others = [name for name in ("tokenizer.model", "spiece.model", "vocab.json") if (folder / name).is_file()]
    others += sorted(file.name for file in folder.glob("*.tiktoken"))
    advice = (
        "Take it from the original model, or convert the tokenizer with transformers: "
        "AutoTokenizer.from_pretrained(...).save_pretrained(...)."
    )
    if others:
        return (
            f"The model's folder has a tokenizer only as {', '.join(others[:3])}, and no tokenizer.json, which is the "
            f"format that basemlx reads. {advice}"
        )
    return f"The model's folder has no tokenizer.json. {advice}"


def _optional(path: Path) -> dict[str, Any]:
    return read_json_object(path) if path.is_file() else {}


def _named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Entries like bos_token, given as a text or as {"content": text, …}."""
    named = {}
    for name, value in config.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            named[name] = text
    return named
