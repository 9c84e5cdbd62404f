"""Both engines behind one interface: masks, end tokens, going back, control tokens."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from basemlx.engine.core.constraint import Mask
from basemlx.engine.errors import GenerationFailed, UnsupportedSchema
from basemlx.engine.grammar.backend import CompiledGrammar, Matcher
from basemlx.engine.grammar.llguidance_backend import LLGuidanceBackend
from basemlx.engine.grammar.schema import plan_schema
from basemlx.engine.grammar.vocabulary import Vocabulary
from basemlx.engine.grammar.xgrammar_backend import XGrammarBackend
from tests.grammar.conftest import TOKENIZER

WIDE = 4200  # the model's logits are wider than the tokenizer
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "n": {"type": "integer"}},
    "required": ["name"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.from_tokenizer_file(TOKENIZER, WIDE)


needs_xgrammar = pytest.mark.skipif(
    importlib.util.find_spec("xgrammar") is None, reason="xgrammar is not installed (extra: xgrammar)"
)


@pytest.fixture(scope="module", params=["llguidance", pytest.param("xgrammar", marks=needs_xgrammar)])
def grammar(request: pytest.FixtureRequest, vocabulary: Vocabulary) -> CompiledGrammar:
    if request.param == "xgrammar":
        return XGrammarBackend(vocabulary).compile_json_schema(SCHEMA)
    lark = plan_schema(SCHEMA).lark
    assert lark is not None
    return LLGuidanceBackend(vocabulary).compile_lark(lark)


def allowed(matcher: Matcher, vocabulary: Vocabulary) -> set[int]:
    mask: Mask = np.zeros((vocabulary.size + 31) // 32, np.int32)
    if not matcher.fill(mask):
        return set(range(vocabulary.size))
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    return {int(at) for at in np.flatnonzero(bits)}


def write(matcher: Matcher, vocabulary: Vocabulary, text: str) -> int:
    tokens = vocabulary.spell(text)
    for token_id in tokens:
        assert token_id in allowed(matcher, vocabulary)
        assert matcher.accept(token_id)
    return len(tokens)


def test_inside_a_string_text_is_free_and_control_tokens_are_impossible(
    grammar: CompiledGrammar, vocabulary: Vocabulary
) -> None:
    matcher = grammar.matcher()
    write(matcher, vocabulary, '{"name":"a')
    inside = allowed(matcher, vocabulary)
    assert len(inside) > vocabulary.size // 2
    assert inside.isdisjoint(vocabulary.control_token_ids)
    assert max(inside) < WIDE


def test_the_end_is_every_end_token_and_nothing_else(
    grammar: CompiledGrammar, vocabulary: Vocabulary
) -> None:
    matcher = grammar.matcher()
    assert not matcher.accept(min(vocabulary.eos_token_ids))
    write(matcher, vocabulary, '{"name":"a"}')
    assert matcher.is_complete
    assert not matcher.is_terminated
    assert allowed(matcher, vocabulary) == vocabulary.eos_token_ids
    assert matcher.accept(max(vocabulary.eos_token_ids))
    assert matcher.is_terminated
    assert not matcher.accept(max(vocabulary.eos_token_ids))
    with pytest.raises(GenerationFailed):
        allowed(matcher, vocabulary)


def test_tokens_are_taken_back_end_token_included(grammar: CompiledGrammar, vocabulary: Vocabulary) -> None:
    matcher = grammar.matcher()
    write(matcher, vocabulary, '{"name":"a')
    before = allowed(matcher, vocabulary)
    count = write(matcher, vocabulary, 'bc","n":7}')
    assert matcher.accept(min(vocabulary.eos_token_ids))
    matcher.rollback(count + 1)
    assert not matcher.is_terminated
    assert allowed(matcher, vocabulary) == before


def test_a_fork_goes_its_own_way(grammar: CompiledGrammar, vocabulary: Vocabulary) -> None:
    matcher = grammar.matcher()
    write(matcher, vocabulary, '{"name":"a')
    other = matcher.fork()
    write(other, vocabulary, '"}')
    assert other.is_complete
    assert not matcher.is_complete
    write(matcher, vocabulary, 'b"}')
    assert matcher.is_complete


def test_a_refused_token_changes_nothing(grammar: CompiledGrammar, vocabulary: Vocabulary) -> None:
    matcher = grammar.matcher()
    write(matcher, vocabulary, '{"name":')
    before = allowed(matcher, vocabulary)
    assert not matcher.accept(vocabulary.spell("}")[0])
    assert allowed(matcher, vocabulary) == before


@needs_xgrammar
def test_xgrammar_is_imported_without_torch_and_leaves_no_stand_in() -> None:
    from basemlx.engine.grammar.xgrammar_import import xgrammar

    assert xgrammar().GrammarMatcher is not None
    torch = sys.modules.get("torch")
    assert torch is None or hasattr(torch, "__version__")
    assert type(sys.modules.get("transformers")).__name__ != "_StandIn"


@needs_xgrammar
def test_xgrammar_is_given_no_schema_that_it_would_not_enforce(vocabulary: Vocabulary) -> None:
    backend = XGrammarBackend(vocabulary)
    for schema in (
        {"minLength": 2},
        {"type": "string", "maxLength": 5},
        {"$ref": "#/$defs/a", "minItems": 1, "$defs": {"a": {"type": "array"}}},
        {"type": "object", "required": ["x"]},
        {"allOf": [{"type": "string"}, {"minLength": 1}]},
    ):
        with pytest.raises(UnsupportedSchema):
            backend.compile_json_schema(schema)


@needs_xgrammar
def test_a_compiled_xgrammar_grammar_travels_between_processes(vocabulary: Vocabulary) -> None:
    backend = XGrammarBackend(vocabulary)
    again = backend.deserialized(backend.serialized(backend.compile_json_schema(SCHEMA)))
    assert again.matcher().accepts_bytes(b'{"name": "x"}')
    assert not again.matcher().accepts_bytes(b"{}")


def test_a_vocabulary_without_end_token_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models

    from basemlx.engine.errors import ModelCorrupt

    tokenizer = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelCorrupt, match="ends a text"):
        Vocabulary.from_tokenizer_file(tmp_path / "tokenizer.json")


def test_a_matcher_whose_lexer_is_replaced_stands_where_it_stood(vocabulary: Vocabulary) -> None:
    lark = plan_schema(SCHEMA).lark
    assert lark is not None
    grammar = LLGuidanceBackend(vocabulary).compile_lark(lark)
    matcher = grammar.matcher()
    write(matcher, vocabulary, '{"name":"a')
    before = allowed(matcher, vocabulary)
    matcher._matcher = grammar.renewed(matcher._tokens)
    assert allowed(matcher, vocabulary) == before
    write(matcher, vocabulary, 'b"}')
    assert matcher.is_complete
