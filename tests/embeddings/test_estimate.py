"""What a model that embeds is counted with: what its forwards take, and no rows that it never keeps."""

from dataclasses import replace
from pathlib import Path

import pytest

from basemlx.engine import memory
from basemlx.engine.config import EngineConfig
from basemlx.engine.embeddings.estimate import estimate_embedder
from basemlx.engine.engine import Engine
from basemlx.engine.models.estimate import (
    FIRST_ANSWER_TOKENS,
    MemoryEstimate,
    estimate_memory,
    kv_token_values,
    language_part,
)
from basemlx.engine.models.folder import check_folder
from basemlx.engine.models.needs import plan_load
from tests.embeddings.test_decoders import LAST
from tests.embeddings.zoo import write_encoder, write_recipe
from tests.model_zoo import write_model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("estimate")
    write_encoder(root / "encoder")
    write_model(root / "decoder", "qwen3", seed=2)
    write_recipe(root / "decoder", LAST, normalize=True)
    return root


def estimated(folder: Path, context_tokens: int) -> MemoryEstimate:
    return estimate_embedder(check_folder(folder), precision="dense", context_tokens=context_tokens)


def test_an_encoder_keeps_no_rows_and_a_decoder_those_of_an_input_too_long_for_one_forward(
    folders: Path,
) -> None:
    assert estimated(folders / "encoder", 10**6).kv_bytes == 0
    checked = check_folder(folders / "decoder")
    row = kv_token_values(language_part(checked.config)) * 4
    wide = replace(checked, config=checked.config | {"num_attention_heads": 16})
    for context_tokens, kept in ((2048, 0), (2049, 2049), (10**6, FIRST_ANSWER_TOKENS)):
        estimate = estimate_embedder(wide, precision="dense", context_tokens=context_tokens)
        assert estimate.kv_bytes == kept * row, "16 heads: scores of 2048 x 2048 are 256 MiB"


def test_weights_are_counted_as_those_of_any_model(folders: Path) -> None:
    for name in ("encoder", "decoder"):
        checked = check_folder(folders / name)
        generating = estimate_memory(checked, precision="dense", context_tokens=64, prefill_chunk_tokens=64)
        assert estimated(folders / name, 64).weights_bytes == generating.weights_bytes


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_the_longest_inputs_and_the_fullest_batches_stay_within_what_the_model_is_counted_with(
    folders: Path, name: str
) -> None:
    with Engine(EngineConfig(max_context_tokens=512)) as engine:
        before = engine.stats().active_bytes
        engine.load(name, folder=folders / name)
        [counted] = [info.memory_bytes for info in engine.models() if info.name == name]
        longest = engine.embedder(name).max_tokens
        plan = plan_load(folders / name, None, engine.config, 1 << 40, "embed")
        assert counted == plan.num_bytes, "the books have the embedder's estimate"
        memory.reset_peak()
        for _ in range(2):  # batches grow as they go
            engine.embed(name, [[5] * longest] * 16 + [[7] * (longest // 4)] * 64)
        assert engine.stats().peak_bytes - before <= counted
