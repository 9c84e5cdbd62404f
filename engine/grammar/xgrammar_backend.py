"""Grammars on xgrammar: its structural tags for model families, its EBNF, and its schema compiler where that is
faithful.

What it would not enforce (`xgrammar_gaps`) must not be given to its schema compiler, and length bounds never: they
compile for seconds and forbid escapes. White space is always bounded.

Compiling is native code that cannot be stopped, and it happens in this process: a compiled grammar is a megabyte of
JSON that takes ten times as long to send over from a worker as it takes to compile (`bench/grammar.py --ways`). So it
is bounded beforehand. Turns come here only with schemas of the few keywords that `xgrammar_gaps` lets through, of no
more than `compiler.MAX_XGRAMMAR_CHARS` together, planned by the worker under its deadline; of these the slowest known
takes 0.1 s, without holding up other threads.
"""

import json
from typing import Any

from basemlx.engine.core.constraint import Mask
from basemlx.engine.errors import GenerationFailed, UnsupportedSchema
from basemlx.engine.grammar.limits import Schema
from basemlx.engine.grammar.structure_xgrammar import vocabulary_with_controls
from basemlx.engine.grammar.vocabulary import Vocabulary
from basemlx.engine.grammar.xgrammar_gaps import xgrammar_gaps
from basemlx.engine.grammar.xgrammar_import import xgrammar

MAX_WHITESPACE = 8
CACHE_BYTES = 64 * 1024 * 1024


class XGrammarBackend:
    """For one vocabulary. Raises ImportError where xgrammar is not installed."""

    name = "xgrammar"

    def __init__(self, vocabulary: Vocabulary, max_threads: int = 2) -> None:
        xgr = xgrammar()
        self._xgr = xgr
        self._vocab_size = vocabulary.size
        self.info = xgr.TokenizerInfo(
            vocabulary_with_controls(vocabulary.tokens, vocabulary.controls),
            vocab_type=xgr.VocabType.RAW,
            vocab_size=vocabulary.size,
            stop_token_ids=sorted(vocabulary.eos_token_ids),
        )
        self._compiler = xgr.GrammarCompiler(
            self.info, max_threads=max_threads, cache_enabled=True, cache_limit_bytes=CACHE_BYTES
        )

    def compile_lark(self, text: str) -> "XGrammarGrammar":
        return self._compiled(lambda: self._compiler.compile_lark(text))

    def compile_ebnf(self, text: str, root: str = "root") -> "XGrammarGrammar":
        """GBNF-like EBNF. Raises UnsupportedSchema."""
        return self._compiled(lambda: self._compiler.compile_grammar(text, root_rule_name=root))

    def compile_structural_tag(self, tag: Any) -> "XGrammarGrammar":
        """A structural tag as xgrammar has it. Raises UnsupportedSchema."""
        return self._compiled(lambda: self._compiler.compile_structural_tag(tag))

    def compile_json_schema(self, schema: Schema) -> "XGrammarGrammar":
        """Raises UnsupportedSchema for what xgrammar would not enforce."""
        gaps = xgrammar_gaps(schema)
        if gaps:
            keyword, pointer = gaps[0]
            raise UnsupportedSchema(
                f"xgrammar does not enforce {keyword!r} at {pointer or 'the root'}.",
                keyword=keyword,
                pointer=pointer,
            )
        return self.compile_unchecked(schema)

    def compile_unchecked(self, schema: Schema) -> "XGrammarGrammar":
        """xgrammar as it is, which may enforce less than the schema; for measurements."""
        text = json.dumps(schema)
        return self._compiled(
            lambda: self._compiler.compile_json_schema(
                text, any_whitespace=True, strict_mode=False, max_whitespace_cnt=MAX_WHITESPACE
            )
        )

    def serialized(self, grammar: "XGrammarGrammar") -> str:
        """For another process with the same vocabulary."""
        return str(grammar.compiled.serialize_json())

    def deserialized(self, text: str) -> "XGrammarGrammar":
        compiled = self._xgr.CompiledGrammar.deserialize_json(text, self.info)
        return XGrammarGrammar(self._xgr, compiled, self._vocab_size)

    def _compiled(self, compile_it: Any) -> "XGrammarGrammar":
        try:
            return XGrammarGrammar(self._xgr, compile_it(), self._vocab_size)
        except (
            Exception
        ) as error:  # the binding raises RuntimeError and its own kinds, with the schema in the text
            raise UnsupportedSchema(
                str(error).splitlines()[0][:300] if str(error) else "invalid grammar"
            ) from None


class XGrammarGrammar:
    def __init__(self, xgr: Any, compiled: Any, vocab_size: int) -> None:
        self._xgr = xgr
        self._vocab_size = vocab_size
        self.compiled = compiled

    @property
    def size_bytes(self) -> int:
        return int(self.compiled.memory_size_bytes)

    def matcher(self) -> "XGrammarMatcher":
        return XGrammarMatcher(self._xgr.GrammarMatcher(self.compiled), self._vocab_size)


class XGrammarMatcher:
    """See `backend.Matcher`."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._tail = vocab_size % 32

    @property
    def is_terminated(self) -> bool:
        return bool(self._matcher.is_terminated())

    @property
    def is_complete(self) -> bool:
        return bool(self._matcher.is_completed())

    def fill(self, mask: Mask) -> bool:
        if self.is_terminated:
            raise GenerationFailed("The grammar has ended; nothing can follow.")
        if not self._matcher.fill_next_token_bitmask(mask.reshape(1, -1), 0):
            return False
        if self._tail:
            mask[-1] &= (1 << self._tail) - 1  # bits beyond the vocabulary come set
        return True

    def accept(self, token_id: int) -> bool:
        return not self.is_terminated and bool(self._matcher.accept_token(token_id))

    def rollback(self, count: int) -> None:
        if count:
            self._matcher.rollback(count)

    def fork(self) -> "XGrammarMatcher":
        return XGrammarMatcher(self._matcher.fork(), self._vocab_size)

    def accepts_bytes(self, text: bytes) -> bool:
        other = self._matcher.fork()
        return bool(other.accept_string(text)) and bool(other.is_completed())
