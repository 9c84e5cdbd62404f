"""Decoders where a token's text depends on the token and on whether it is the first; as a last resort, any other."""

from tokenizers import Tokenizer as HFTokenizer

from basemlx.engine.text.detokenizer import Detokenizer


class LocalTokens:
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


class LocalDetokenizer(Detokenizer):
    def __init__(self, tokens: LocalTokens, skipped: frozenset[int]) -> None:
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


class WholeDetokenizer(Detokenizer):
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
