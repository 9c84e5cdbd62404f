"""What encoders compute, against the same written in numpy."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from basemlx.engine.config import EngineConfig
from basemlx.engine.embeddings import numerics
from basemlx.engine.embeddings.bert import encoder_shape
from basemlx.engine.embeddings.loader import load_embedder
from basemlx.engine.engine import Engine
from basemlx.engine.errors import BaseMLXError, ModelCorrupt, ModelLoadFailed
from basemlx.engine.runtime import mx, nn
from tests.embeddings.zoo import BERT, CONFIGS, HIDDEN, hidden_states, unit, write_encoder

ROWS = [
    [2, 10, 11, 12, 3],
    [2, 3],
    [2, *range(20, 60), 3],
    [2, 12, 11, 10, 3],
    [2, 10, 11, 12, 13, 14, 15, 3],
]


@pytest.mark.parametrize("kind", CONFIGS)
def test_rows_of_any_length_in_one_batch_equal_each_alone_in_numpy(tmp_path: Path, kind: str) -> None:
    weights = write_encoder(tmp_path, kind)
    found = load_embedder(tmp_path, "m").vectors(ROWS)
    wanted = [unit(hidden_states(weights, CONFIGS[kind], row).mean(0)) for row in ROWS]
    np.testing.assert_allclose(found, np.stack(wanted), atol=2e-5)
    assert np.abs(found[0] - found[3]).max() > 0.01, "the order of tokens matters"


POOLINGS: dict[str, Any] = {
    "pooling_mode_cls_token": lambda h: h[0],
    "pooling_mode_max_tokens": lambda h: h.max(0),
    "pooling_mode_mean_sqrt_len_tokens": lambda h: h.sum(0) / math.sqrt(len(h)),
    "pooling_mode_weightedmean_tokens": lambda h: np.average(h, axis=0, weights=np.arange(1, len(h) + 1)),
    "pooling_mode_lasttoken": lambda h: h[-1],
}


@pytest.mark.parametrize("mode", POOLINGS)
def test_pooling_is_what_the_folder_says(tmp_path: Path, mode: str) -> None:
    weights = write_encoder(
        tmp_path, pooling={mode: True, "pooling_mode_mean_tokens": False}, normalize=False
    )
    found = load_embedder(tmp_path, "m").vectors(ROWS)
    wanted = [POOLINGS[mode](hidden_states(weights, BERT, row)) for row in ROWS]
    np.testing.assert_allclose(found, np.stack(wanted), atol=1e-4)


def test_several_poolings_are_joined(tmp_path: Path) -> None:
    pooling = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
    weights = write_encoder(tmp_path, pooling=pooling, normalize=False)
    loaded = load_embedder(tmp_path, "m")
    states = hidden_states(weights, BERT, ROWS[0])
    assert loaded.dimensions == 2 * HIDDEN
    np.testing.assert_allclose(
        loaded.vectors(ROWS[:1])[0], np.concatenate([states[0], states.mean(0)]), atol=1e-4
    )


def test_without_a_normalize_step_vectors_keep_their_length(tmp_path: Path) -> None:
    write_encoder(tmp_path, normalize=False)
    lengths = np.linalg.norm(load_embedder(tmp_path, "m").vectors(ROWS), axis=1)
    assert np.abs(lengths - 1).min() > 0.01


def test_weights_may_carry_the_prefix_of_a_larger_model(tmp_path: Path) -> None:
    write_encoder(tmp_path / "bare")
    write_encoder(tmp_path / "prefixed", prefix="bert.")
    np.testing.assert_array_equal(
        load_embedder(tmp_path / "bare", "m").vectors(ROWS),
        load_embedder(tmp_path / "prefixed", "m").vectors(ROWS),
    )


def test_transformers_own_names_of_nomic_bert_give_the_same(tmp_path: Path) -> None:
    weights = write_encoder(tmp_path / "own", "nomic_bert")
    write_encoder(tmp_path / "theirs", "nomic_bert")
    names = {"attn.out_proj": "self_attn.o_proj", "mlp.fc11": "mlp.up_proj", "mlp.fc12": "mlp.gate_proj"}
    names |= {"mlp.fc2": "mlp.down_proj", "norm1": "post_attention_layernorm", "norm2": "post_mlp_layernorm"}
    names |= {"emb_ln": "embeddings.LayerNorm", "encoder.layers": "layers"}
    renamed: dict[str, Any] = {}
    for name, value in weights.items():
        if "Wqkv" in name:
            for which, part in zip("qkv", np.split(value, 3), strict=True):
                renamed[name.replace("encoder.", "").replace("attn.Wqkv", f"self_attn.{which}_proj")] = part
            continue
        for old, new in names.items():
            name = name.replace(old, new)
        renamed[name] = value
    file = tmp_path / "theirs" / "model.safetensors"
    mx.save_safetensors(str(file), {name: mx.array(value) for name, value in renamed.items()})
    config = BERT | {"model_type": "nomic_bert", "rope_parameters": {"rope_theta": 1000.0}}
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(config))
    np.testing.assert_allclose(
        load_embedder(tmp_path / "own", "m").vectors(ROWS),
        load_embedder(tmp_path / "theirs", "m").vectors(ROWS),
        atol=1e-6,
    )


def test_packed_weights_are_close_to_the_whole_ones(tmp_path: Path) -> None:
    write_encoder(tmp_path / "whole")
    weights = write_encoder(tmp_path / "packed")
    stored: dict[str, mx.array] = {}
    for name, value in weights.items():
        stem, _, part = name.rpartition(".")
        if part == "weight" and value.ndim == 2 and "embeddings" not in name:
            packed = mx.quantize(mx.array(value), group_size=32, bits=8)
            stored |= dict(zip((name, f"{stem}.scales", f"{stem}.biases"), packed, strict=True))
        else:
            stored[name] = mx.array(value)
    mx.save_safetensors(str(tmp_path / "packed" / "model.safetensors"), stored)
    config = BERT | {"quantization": {"group_size": 32, "bits": 8}}
    (tmp_path / "packed" / "config.json").write_text(json.dumps(config))
    loaded = load_embedder(tmp_path / "packed", "m")
    assert loaded.info.quantization == "8-bit"
    cosines = (loaded.vectors(ROWS) * load_embedder(tmp_path / "whole", "m").vectors(ROWS)).sum(axis=1)
    assert cosines.min() > 0.999


def test_long_inputs_are_attended_to_in_blocks_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_encoder(tmp_path)
    loaded = load_embedder(tmp_path, "m")
    whole = loaded.vectors(ROWS)
    monkeypatch.setattr(numerics, "MAX_SCORES_BYTES", 16)  # blocks of 16 queries, the least there is
    np.testing.assert_allclose(loaded.vectors(ROWS), whole, atol=1e-6)


def test_activations_by_polynomial_and_power_are_the_exact_ones() -> None:
    x = mx.concatenate([mx.linspace(-12, 12, 20_001), mx.array([0.0, -1e30, 1e30, -50.0, 50.0])])
    np.testing.assert_allclose(numerics.gelu_by_polynomial(x), nn.gelu(x), atol=1e-6, rtol=1e-6)
    np.testing.assert_allclose(numerics.silu_by_power(x), nn.silu(x), atol=1e-6, rtol=1e-6)


def test_vectors_are_as_short_as_the_models_files_say_unless_asked_for_otherwise(tmp_path: Path) -> None:
    write_encoder(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "short")
    write("config_sentence_transformers.json", truncate_dim=8)(tmp_path / "short")
    with Engine(EngineConfig()) as engine:
        for name in ("whole", "short"):
            engine.load(name, folder=tmp_path / name)
        whole = engine.embed("whole", "the fox").vectors
        short = engine.embed("short", "the fox").vectors
        assert short.shape == (1, 8)
        np.testing.assert_allclose(short[0], unit(whole[0, :8].astype(np.float64)), atol=1e-6)
        assert engine.embed("short", "the fox", dimensions=4).vectors.shape == (1, 4)
        np.testing.assert_array_equal(engine.embed("short", "the fox", dimensions=HIDDEN).vectors, whole)


def test_the_tokenizers_own_truncation_and_padding_are_off(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).truncation["max_length"] == 8
    request = load_embedder(tmp_path, "m").prepare(["a", "the quick brown fox " * 6], request_id="r")
    short, long = request.token_ids
    assert len(short) == 3
    assert len(long) > 24


def test_positions_of_roberta_begin_after_the_padding_id() -> None:
    assert encoder_shape(CONFIGS["xlm-roberta"]).context_tokens == 62
    assert encoder_shape(CONFIGS["nomic_bert"]).context_tokens == 64, "no further than it was trained"


def without(folder: Path, name: str) -> None:
    (folder / name).unlink()


def rewrite(name: str, **changes: Any) -> Any:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def write(name: str, **content: Any) -> Any:
    return lambda folder: (folder / name).write_text(json.dumps(content))


def modules(*kinds: str, path: str = "1_Pooling") -> Any:
    def write(folder: Path) -> None:
        entries = [{"type": f"sentence_transformers.models.{kind}", "path": ""} for kind in kinds]
        entries[1]["path"] = path
        (folder / "modules.json").write_text(json.dumps(entries))

    return write


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (modules("Transformer", "Pooling", "Dense"), ModelLoadFailed, "Dense"),
        (modules("Transformer", "Pooling", path="../elsewhere"), ModelCorrupt, "none of the model's"),
        (modules("Pooling", "Transformer"), ModelLoadFailed, "order"),
        (lambda folder: without(folder, "1_Pooling/config.json"), ModelCorrupt, "pooled"),
        (lambda folder: (folder / "modules.json").write_text("[1"), ModelCorrupt, "not valid JSON"),
        (rewrite("1_Pooling/config.json", pooling_mode_mean_tokens=False), ModelLoadFailed, "no pooling"),
        (rewrite("1_Pooling/config.json", pooling_mode="attention"), ModelLoadFailed, "pooling_mode"),
        (rewrite("1_Pooling/config.json", include_prompt=False), ModelLoadFailed, "include_prompt"),
        (write("config_sentence_transformers.json", truncate_dim=0), ModelCorrupt, "truncate_dim must be"),
        (write("config_sentence_transformers.json", truncate_dim="8"), ModelCorrupt, "truncate_dim must be"),
        (write("sentence_bert_config.json", max_seq_length=True), ModelCorrupt, "max_seq_length must be"),
        (rewrite("config.json", position_embedding_type="relative_key"), ModelLoadFailed, "relative"),
        (rewrite("config.json", hidden_act="mish"), ModelLoadFailed, "mish"),
        (rewrite("config.json", hidden_act=["gelu"]), ModelLoadFailed, "names an activation"),
        (rewrite("config.json", num_hidden_layers=3), ModelCorrupt, "do not fit"),
        (rewrite("config.json", hidden_size=36), ModelCorrupt, "do not fit"),
        (rewrite("config.json", num_attention_heads=5), ModelCorrupt, "do not fit each other"),
        (lambda folder: without(folder, "model.safetensors"), ModelCorrupt, "no weights"),
    ],
)
def test_what_is_not_known_or_broken_is_refused_by_name(
    tmp_path: Path, spoil: Any, kind: type[BaseMLXError], words: str
) -> None:
    write_encoder(tmp_path)
    spoil(tmp_path)
    with pytest.raises(kind, match=words) as caught:
        load_embedder(tmp_path, "m")
    assert str(tmp_path) not in str(caught.value)
