"""Decoders pooled by their last token: mlx-lm's own hidden states, whatever batch and chunk they are computed in."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from basemlx.engine.embeddings import decoder
from basemlx.engine.embeddings.loader import load_embedder
from basemlx.engine.errors import ModelCorrupt, ModelLoadFailed
from basemlx.engine.runtime import mlx_lm_module, mx
from tests.embeddings.zoo import unit, write_recipe
from tests.model_zoo import write_model

LAST = {"pooling_mode_lasttoken": True}
ROWS = [[7, 8, 9], [11], list(range(20, 180)), [9, 8, 7], list(range(30, 100))]


def alone(folder: Path, row: list[int]) -> Any:
    model, _ = mlx_lm_module("utils").load_model(folder)
    return np.array(model.model(mx.array([row]))[0, -1].astype(mx.float32))


def renamed(folder: Path, change: Callable[[str], str | None]) -> None:
    file = folder / "model.safetensors"
    found: Any = mx.load(str(file))
    kept = {name: value for old, value in found.items() if (name := change(old)) is not None}
    mx.eval(list(kept.values()))
    mx.save_safetensors(str(file), kept)


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gemma3_text"])
def test_the_last_tokens_state_in_a_batch_equals_that_of_the_input_alone(tmp_path: Path, kind: str) -> None:
    folder = write_model(tmp_path / kind, kind)
    wanted = np.stack([unit(alone(folder, row)) for row in ROWS])
    write_recipe(folder, LAST, normalize=True)
    np.testing.assert_allclose(load_embedder(folder, "m").vectors(ROWS), wanted, atol=1e-4)


def test_long_inputs_in_chunks_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "qwen3", "qwen3")
    write_recipe(folder, LAST, normalize=True)
    loaded = load_embedder(folder, "m")
    whole = loaded.vectors(ROWS)
    monkeypatch.setattr(decoder, "MAX_SCORES_BYTES", 16)  # chunks of 64 tokens, the least there is
    np.testing.assert_allclose(loaded.vectors(ROWS), whole, atol=1e-5)


def test_weights_published_bare_and_without_a_head_are_loaded(tmp_path: Path) -> None:
    """Qwen3-Embedding's: "layers.0…" for "model.layers.0…", no lm_head although nothing is tied."""
    folders = [
        write_model(tmp_path / name, "qwen3", tie_word_embeddings=False)
        for name in ("whole", "bare", "headless")
    ]
    renamed(folders[1], lambda name: name.removeprefix("model.") if name.startswith("model.") else None)
    renamed(folders[2], lambda name: name if name.startswith("model.") else None)
    for folder in folders:
        write_recipe(folder, LAST, normalize=True)
    whole, *others = [load_embedder(folder, "m").vectors(ROWS) for folder in folders]
    for other in others:
        np.testing.assert_array_equal(other, whole)


def test_every_text_ends_with_the_token_that_the_model_was_trained_to_end_with(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "qwen3", "qwen3")
    write_recipe(folder, LAST, normalize=True)
    loaded = load_embedder(folder, "m")
    end = loaded.tokenizer.encode("<|endoftext|>")
    texts = loaded.prepare(["a", "the fox", "the fox<|endoftext|>"], request_id="r").token_ids
    assert [list(row[-1:]) for row in texts] == [end] * 3
    assert texts[1] == texts[2], "not twice"
    assert loaded.prepare([[5, 6]], request_id="r").token_ids == ((5, 6),), "token ids are taken as they are"


def test_a_conversion_without_the_files_is_known_by_its_name(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "Qwen3-Embedding-0.6B-4bit", "qwen3", bits=4)
    loaded = load_embedder(folder, folder.name)
    assert (loaded.recipe.pooling, loaded.recipe.normalize) == (("lasttoken",), True)
    assert loaded.matryoshka
    np.testing.assert_allclose(np.linalg.norm(loaded.vectors(ROWS), axis=1), 1, atol=1e-5)
    plain, query, document = (
        loaded.prepare(["fox"], request_id="r", prompt_name=name).token_ids[0]
        for name in (None, "query", "document")
    )
    assert plain == document
    assert query[-len(plain) :] == plain
    assert loaded.tokenizer.decode(query).startswith("Instruct: Given a web search query")


def test_decoders_that_see_both_ways_or_pool_otherwise_are_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "qwen3", "qwen3", is_causal=False)
    write_recipe(folder, LAST, normalize=True)
    with pytest.raises(ModelLoadFailed, match="both ways"):
        load_embedder(folder, "m")
    other = write_model(tmp_path / "mean", "qwen3")
    write_recipe(other, {"pooling_mode_mean_tokens": True}, normalize=True)
    with pytest.raises(ModelLoadFailed, match=r"not pooled by its last token.* 'qwen3' is none of them"):
        load_embedder(other, "m")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("qwen3_next", "does not compute a 'qwen3_next' model without a cache"),
        ("lfm2", "does not compute a 'lfm2' model without a cache"),
        ("mamba2", "how to take vectors from a 'mamba2' model"),
    ],
)
def test_decoders_that_cannot_go_without_caches_of_their_own_are_refused_by_name(
    tmp_path: Path, kind: str, words: str
) -> None:
    folder = write_model(tmp_path / kind, kind)
    write_recipe(folder, LAST, normalize=True)
    with pytest.raises(ModelLoadFailed, match=words):
        load_embedder(folder, "m")


@pytest.mark.parametrize(
    ("pooling", "words"),
    [
        (LAST, "architecture 'qwen77' is not one that the installed mlx-lm"),
        ({"pooling_mode_mean_tokens": True}, "'qwen77' is none of them"),
    ],
)
def test_an_architecture_that_nobody_has_is_refused_by_name(
    tmp_path: Path, pooling: dict[str, bool], words: str
) -> None:
    folder = write_model(tmp_path / "m", "qwen3")
    write_recipe(folder, pooling, normalize=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "qwen77"}))
    with pytest.raises(ModelLoadFailed, match=words):
        load_embedder(folder, "m")


def test_space_around_a_text_is_part_of_it(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "Qwen3-Embedding", "qwen3")
    loaded = load_embedder(folder, folder.name)
    texts = ["the fox", " the fox", "the fox\n\n"]
    for prompt_name in (None, "query"):
        found = loaded.prepare(texts, request_id="r", prompt_name=prompt_name).token_ids
        prompt = "" if prompt_name is None else loaded.recipe.prompts[prompt_name]
        assert [list(ids[:-1]) for ids in found] == [loaded.tokenizer.encode(prompt + text) for text in texts]
        assert len({tuple(ids) for ids in found}) == 3


def test_packed_weights_that_do_not_fit_the_configs_sizes_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path / "Qwen3-Embedding", "qwen3", bits=4)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 1}))
    utils = mlx_lm_module("utils")
    monkeypatch.setattr(utils.nn, "quantize", lambda *_, **__: pytest.fail("MLX was asked to pack"))
    with pytest.raises(
        ModelCorrupt, match=r"down_proj\.scales' has 4 groups, which does not fit the 1 inputs"
    ):
        load_embedder(folder, folder.name)
