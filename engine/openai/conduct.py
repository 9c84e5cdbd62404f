"""How one model conducts a turn: its wire format of tool calls, its marks of reasoning, its grammar compiler.

Found out once per loaded model, from its chat template and tokenizer, or as it is told; the compiler is made when a
request first asks for structure, and closed when the model is gone. Knows no request.
"""

import threading
import weakref
from collections.abc import Collection, Mapping
from typing import Protocol

from basemlx.engine.chat.formats import Format, format_named, format_of
from basemlx.engine.chat.reasoning import ReasoningStyle, reasoning_style
from basemlx.engine.chat.template import ChatTemplate
from basemlx.engine.grammar.compiler import GrammarCompiler
from basemlx.engine.grammar.vocabulary import Vocabulary
from basemlx.engine.text.tokenizer import Tokenizer
from basemlx.engine.types import ModelInfo


class ModelFacts(Protocol):
    """A loaded model, as far as it is used here."""

    @property
    def info(self) -> ModelInfo: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def template(self) -> ChatTemplate | None: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def eos_token_ids(self) -> Collection[int]: ...


class Conduct:
    """`form` and `style` are None for a model whose template shows nothing of the kind. `form` may be given instead."""

    def __init__(self, model: ModelFacts, form: Format | None = None) -> None:
        template = model.template.source if model.template is not None else ""
        added = model.tokenizer.backend.get_added_tokens_decoder().values()
        self.form: Format | None = form or format_of(template, {token.content for token in added})
        self.style: ReasoningStyle | None = reasoning_style(template)
        special = {token.content for token in added if token.special}
        markers = [*(self.form.markers if self.form else ())]
        markers += [self.style.start, self.style.end] if self.style else []
        self.hides_markers = any(token in marker for marker in markers for token in special)
        """Whether decoded text must keep special tokens, because marks of calls or reasoning are among them."""
        self._model = weakref.ref(model)
        self._tokenizer, self._vocab_size = model.tokenizer, model.vocab_size
        self._eos_token_ids = frozenset(model.eos_token_ids)
        self._lock = threading.Lock()
        self._compiler: GrammarCompiler | None = None

    @property
    def read_style(self) -> ReasoningStyle:
        """What free text is read with: models think in <think> blocks whose templates say nothing of it."""
        return self.style or ReasoningStyle()

    @property
    def compiler(self) -> GrammarCompiler:
        """Blocks while it is made for the first request."""
        with self._lock:
            if self._compiler is None:
                vocabulary = Vocabulary.from_tokenizer(
                    self._tokenizer.backend, self._eos_token_ids, self._vocab_size
                )
                self._compiler = GrammarCompiler(vocabulary)
                model = self._model()
                if model is not None:
                    weakref.finalize(model, self._compiler.close)
            return self._compiler


class Conducts:
    """The conduct of every loaded model that was asked for; safe to use from any thread. `tool_formats`: names of wire
    formats by a model's name or alias. Raises InvalidRequest for one that does not exist."""

    def __init__(self, tool_formats: Mapping[str, str] | None = None) -> None:
        self._formats = {model: format_named(name) for model, name in (tool_formats or {}).items()}
        self._known: weakref.WeakKeyDictionary[ModelFacts, Conduct] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def of(self, model: ModelFacts) -> Conduct:
        with self._lock:
            conduct = self._known.get(model)
            if conduct is None:
                conduct = self._known[model] = Conduct(model, self._given(model.info))
            return conduct

    def _given(self, info: ModelInfo) -> Format | None:
        return next(
            (self._formats[name] for name in (info.name, *info.aliases) if name in self._formats), None
        )
