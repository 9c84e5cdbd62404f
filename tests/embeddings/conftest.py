"""An engine with a generating model ("qwen3") and three that embed: mean-pooled "bert", one with prompts and Matryoshka
vectors ("matryoshka"), and a decoder ("decoder")."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from basemlx.engine.config import EngineConfig
from basemlx.engine.engine import Engine
from tests.embeddings.test_decoders import LAST
from tests.embeddings.zoo import POSITIONS, Weights, write_encoder, write_recipe
from tests.model_zoo import write_model

PROMPTS = {"prompts": {"query": "what is the ", "document": ""}}


@pytest.fixture(scope="package")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Weights]:
    folder = tmp_path_factory.mktemp("embed") / "bert"
    return folder, write_encoder(
        folder, files={"sentence_bert_config.json": {"max_seq_length": POSITIONS - 16}}
    )


@pytest.fixture(scope="package")
def embedding_engine(
    tmp_path_factory: pytest.TempPathFactory, zoo: Callable[..., Path], bert_folder: tuple[Path, Weights]
) -> Iterator[Engine]:
    root = tmp_path_factory.mktemp("embed")
    write_encoder(
        root / "matryoshka",
        matryoshka_dimensions=[8, 16],
        files={"config_sentence_transformers.json": PROMPTS},
        seed=1,
    )
    write_model(root / "decoder", "qwen3", seed=2)
    write_recipe(root / "decoder", LAST, normalize=True)
    with Engine(EngineConfig(max_num_sequences=4, max_waiting=4)) as engine:
        engine.load("bert", folder=bert_folder[0])
        engine.load("matryoshka", folder=root / "matryoshka")
        engine.load("decoder", folder=root / "decoder")
        engine.load("qwen3", folder=zoo("qwen3"))
        yield engine


@pytest.fixture
def engine(embedding_engine: Engine) -> Iterator[Engine]:
    """Nothing is open and no model is held before and after."""
    yield embedding_engine
    embedding_engine.check_integrity()
    assert all(info.users == 0 for info in embedding_engine.models())
    assert embedding_engine.stats().running == 0
