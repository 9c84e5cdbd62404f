"""Both grammar engines over one tokenizer, to see what each makes of a structure."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken
from tokenizers import Tokenizer as HFTokenizer

from basemlx.engine.chat.formats import FORMATS
from basemlx.engine.grammar.backend import CompiledGrammar, Matcher
from basemlx.engine.grammar.llguidance_backend import LLGuidanceBackend
from basemlx.engine.grammar.structure import Node
from basemlx.engine.grammar.structure_llguidance import lark
from basemlx.engine.grammar.structure_xgrammar import structural_tag
from basemlx.engine.grammar.vocabulary import Vocabulary
from basemlx.engine.grammar.xgrammar_backend import XGrammarBackend
from tests.chat.wire import DATA

TINY = Path(__file__).parents[2] / "engine" / "tiny" / "model" / "tokenizer.json"
QWEN = DATA / "tokenizers" / "qwen3" / "tokenizer.json"
MARKERS = tuple(sorted({marker for form in FORMATS for marker in form.markers} | {"<think>", "</think>"}))


class Engines:
    """`markers` become control tokens, where the tokenizer does not have them; else they are letters like any other."""

    def __init__(self, path: Path, markers: Iterable[str] = ()) -> None:
        self.tokenizer = HFTokenizer.from_file(str(path))
        added = [
            AddedToken(text, special=True) for text in markers if self.tokenizer.token_to_id(text) is None
        ]
        self.tokenizer.add_special_tokens(added)
        end = self.tokenizer.token_to_id("<|im_end|>")
        assert end is not None
        self.vocabulary = Vocabulary.from_tokenizer(self.tokenizer, {end})
        self.controls = self.vocabulary.controls
        self._xgrammar = XGrammarBackend(self.vocabulary)
        self._llguidance = LLGuidanceBackend(self.vocabulary)
        self._last: tuple[Node, tuple[CompiledGrammar, CompiledGrammar]] | None = None

    def xgrammar(self, node: Node) -> CompiledGrammar:
        return self._xgrammar.compile_structural_tag(structural_tag(node, self.controls))

    def llguidance(self, node: Node) -> CompiledGrammar:
        return self._llguidance.compile_lark(lark(node, self.controls))

    def both(self, node: Node) -> tuple[CompiledGrammar, CompiledGrammar]:
        """Compiled once for all that is asked of one node in a row."""
        if self._last is None or self._last[0] is not node:
            self._last = node, (self.xgrammar(node), self.llguidance(node))
        return self._last[1]

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def text(self, token_ids: list[int]) -> str:
        return self.tokenizer.decode(token_ids, skip_special_tokens=False)

    def accepts(self, node: Node, text: str) -> bool:
        """Whether text, as the tokenizer cuts it, is a whole turn; the engines must agree."""
        token_ids = self.ids(text)
        xgrammar, llguidance = (accepted(grammar, token_ids) for grammar in self.both(node))
        assert (xgrammar == len(token_ids) + 1) == (llguidance == len(token_ids) + 1), (
            text,
            xgrammar,
            llguidance,
        )
        return xgrammar == len(token_ids) + 1

    def allowed(self, matcher: Matcher) -> NDArray[np.bool_]:
        """Of each token, whether it may come next."""
        mask = np.zeros((self.vocabulary.size + 31) // 32, dtype=np.int32)
        if not matcher.fill(mask):
            return np.ones(self.vocabulary.size, dtype=np.bool_)
        return np.unpackbits(mask.view(np.uint8), bitorder="little")[: self.vocabulary.size].astype(np.bool_)


def accepted(grammar: CompiledGrammar, token_ids: list[int]) -> int:
    """How many of the tokens are accepted, one more if the turn is whole then."""
    matcher = grammar.matcher()
    for count, token_id in enumerate(token_ids):
        if not matcher.accept(token_id):
            return count
    return len(token_ids) + (1 if matcher.is_complete else 0)


@cache
def with_markers() -> Engines:
    return Engines(TINY, MARKERS)


@cache
def with_letters() -> Engines:
    """The tiny tokenizer as it is; it has ChatML's tokens, Qwen's for tools and thoughts, and no other's."""
    return Engines(TINY)
