"""A compiler for the built-in model's tokenizer, with a real worker, shared by the session."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from basemlx.engine.grammar import GrammarCompiler

TOKENIZER = Path(__file__).parents[2] / "engine" / "tiny" / "model" / "tokenizer.json"


@pytest.fixture(scope="session")
def compiler() -> Iterator[GrammarCompiler]:
    with GrammarCompiler.from_tokenizer_file(TOKENIZER) as compiler:
        yield compiler
