"""How the model is made: packing, quantisation, both optimisers' steps, checkpoints, export."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from basemlx.engine.runtime import mx
from basemlx.engine.tiny import MODEL_DIR
from basemlx.engine.tiny.training import optimisers_mlx
from basemlx.engine.tiny.training.architecture import SHAPE, Shape, parameter_count, parameter_shapes
from basemlx.engine.tiny.training.data.mixture import samples
from basemlx.engine.tiny.training.export import export, quantised, read_weights
from basemlx.engine.tiny.training.packing import Encoder, sequences
from basemlx.engine.tiny.training.quantisation import Floats, dequantise, quantise, to_bfloat16
from basemlx.engine.tiny.training.supply import Supply
from basemlx.engine.tiny.training.tokenizer import END_OF_TURN
from basemlx.engine.tiny.training.train import Trainer, as_4_bit, rate_at

SMALL = Shape(layers=1, hidden=64, intermediate=128, heads=1, kv_heads=1)
TOKENIZER = MODEL_DIR / "tokenizer.json"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(Tokenizer.from_file(str(TOKENIZER)))


def weights_of(rows: int, columns: int, seed: int) -> Floats:
    return np.random.default_rng(seed).normal(0, 0.05, (rows, columns)).astype(np.float32)


def test_the_tokenizer_gives_back_every_text_byte_for_byte(encoder: Encoder) -> None:
    tokenizer = encoder.tokenizer
    for text in (
        "Hello,  world!\n\n\tnaïve 東京 🙂",
        '{"a": [1, 2.50, "x_y"]}',
        " lead and trail ",
        "ß\u200bﬁ",
    ):
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
    assert tokenizer.encode("2025").tokens == ["2", "0", "2", "5"]
    assert tokenizer.get_vocab_size() == SHAPE.vocab_size <= 8192


def test_the_loss_counts_the_turn_to_be_written_and_no_word_of_the_user(encoder: Encoder) -> None:
    for sample in islice(samples(2), 60):
        ids, counted = encoder.encode(sample)
        completion = encoder.tokenizer.encode(sample.completion()).ids
        assert ids[-len(completion) :] == completion
        assert all(counted[-len(completion) :])
        assert encoder.tokenizer.decode(completion[-1:], skip_special_tokens=False) == END_OF_TURN
        said = encoder.tokenizer.decode(
            [token for token, count in zip(ids, counted, strict=True) if count], skip_special_tokens=False
        )
        assert "<|im_start|>" not in said
        assert "<tool_response>" not in said


def test_sequences_are_full_length_repeatable_and_mostly_filled(encoder: Encoder) -> None:
    first = list(islice(sequences(encoder, 1, 1024), 4))
    again = list(islice(sequences(encoder, 1, 1024), 4))
    for (tokens, counted), (same_tokens, same_counted) in zip(first, again, strict=True):
        assert tokens.shape == counted.shape == (1024,)
        assert (tokens == same_tokens).all()
        assert (counted == same_counted).all()
        assert counted.sum() > 50
    filled = np.mean([np.mean(tokens != encoder.end_of_text) for tokens, _ in first])
    assert filled > 0.9


def test_quantisation_is_what_mlx_computes_with() -> None:
    weight = weights_of(96, 384, seed=1)
    packed, scales, biases = quantise(weight)
    ours = dequantise(packed, scales, biases)
    unpacked = mx.dequantize(mx.array(packed), mx.array(scales), mx.array(biases), group_size=64, bits=4)
    assert np.abs(ours - np.array(unpacked)).max() < 1e-6
    assert (scales == to_bfloat16(scales)).all()  # so storing them in bfloat16 loses nothing
    assert (biases == to_bfloat16(biases)).all()
    own = mx.dequantize(*mx.quantize(mx.array(weight), group_size=64, bits=4), group_size=64, bits=4)
    error, own_error = np.abs(ours - weight).mean(), np.abs(np.array(own) - weight).mean()
    assert error == pytest.approx(own_error, rel=0.02)
    assert np.abs(ours - weight).max() < np.ptp(weight) / 15


def test_training_sees_a_matrix_as_the_export_holds_it() -> None:
    weight = weights_of(64, 256, seed=2)
    weight[0] = 0.0
    weight[1, :64] = 0.25
    seen = np.array(as_4_bit(mx.array(weight)))
    assert np.abs(seen - dequantise(*quantise(weight))).max() < 1e-6
    gradient = mx.grad(lambda array: (as_4_bit(array) * 3.0).sum())(mx.array(weight))
    assert (np.array(gradient) == 3.0).all()


def test_updates_of_matrices_are_nearly_orthogonal() -> None:
    for rows, columns in ((32, 80), (80, 32)):
        updates = mx.array(np.stack([weights_of(rows, columns, seed) for seed in range(3)]))
        for made in np.array(optimisers_mlx.orthogonal(updates)):
            singular = np.linalg.svd(made, compute_uv=False)
            assert singular.min() > 0.5
            assert singular.max() < 1.5


def test_the_rate_warms_up_and_falls_to_zero() -> None:
    assert rate_at(0, 1000) < 0.01
    assert rate_at(199, 1000) == pytest.approx(0.801)
    assert rate_at(999, 1000) == pytest.approx(0.001)


def test_training_lowers_the_loss_and_goes_on_from_a_checkpoint(encoder: Encoder, tmp_path: Path) -> None:
    tokens, counted = next(sequences(encoder, 1, 512))
    batch = tokens[None, :256], counted[None, :256]
    trainer = Trainer(SMALL, micro_sequences=1)
    first = trainer.step(*batch, rate=1.0, imitate=False)
    assert first == pytest.approx(np.log(SMALL.vocab_size), rel=0.1)
    for _ in range(14):
        last = trainer.step(*batch, rate=1.0, imitate=False)
    assert last < 0.8 * first
    trainer.save(tmp_path)
    other = Trainer(SMALL, seed=9, micro_sequences=1)
    assert other.restore(tmp_path)
    assert other.state.steps == 15
    imitated = trainer.step(*batch, rate=0.5, imitate=True)
    assert other.step(*batch, rate=0.5, imitate=True) == pytest.approx(imitated, rel=1e-5)
    assert imitated == pytest.approx(last, rel=0.2)


def test_sequences_in_parts_give_the_step_that_they_give_together(encoder: Encoder) -> None:
    made = list(islice(sequences(encoder, 3, 512), 2))
    tokens, counted = np.stack([each[0] for each in made]), np.stack([each[1] for each in made])
    one, two = Trainer(SMALL, micro_sequences=2), Trainer(SMALL, micro_sequences=1)
    assert one.step(tokens, counted, 1.0, False) == pytest.approx(
        two.step(tokens, counted, 1.0, False), rel=1e-5
    )
    for name, weight in one.weights.items():
        assert np.abs(np.array(weight) - np.array(two.weights[name])).max() < 2e-3


def test_text_comes_from_worker_processes() -> None:
    supply = Supply(str(TOKENIZER), 1, 2048, 0.0, workers=1, start_method="spawn", chunk_sequences=1)
    try:
        tokens, counted = supply.batch(2)
    finally:
        supply.close()
    assert tokens.shape == counted.shape == (2, 2048)
    assert tokens.max() < SHAPE.vocab_size
    assert counted.any(axis=1).all()


def test_a_supply_whose_workers_died_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("basemlx.engine.tiny.training.supply._ALIVE_CHECK_S", 0.05)
    supply = Supply(str(TOKENIZER), 1, 512, 0.0, workers=1, start_method="spawn")
    try:
        supply.processes[0].kill()
        supply.processes[0].join()
        with pytest.raises(RuntimeError, match="has died"):
            supply.batch(1)
    finally:
        supply.close()


def test_export_writes_a_folder_that_holds_the_weights_in_4_bits(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    weights = {
        name: rng.normal(0, 0.05, shape).astype(np.float32) for name, shape in parameter_shapes().items()
    }
    export(weights, MODEL_DIR, tmp_path / "model")
    files = {file.name for file in (tmp_path / "model").iterdir()}
    assert files == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    described = json.loads((tmp_path / "model" / "config.json").read_text())
    assert described["quantization"] == {"group_size": 64, "bits": 4}
    assert described["vocab_size"] == SHAPE.vocab_size
    stored = mx.load(str(tmp_path / "model" / "model.safetensors"))
    assert isinstance(stored, dict)
    assert set(stored) == set(quantised(weights))


def test_weights_that_do_not_fit_the_architecture_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    mx.save_safetensors(str(file), {"model.norm.weight": mx.ones(SHAPE.hidden)})
    with pytest.raises(ValueError, match="missing"):
        read_weights([file])


def test_the_packaged_model_is_of_this_architecture_and_small() -> None:
    stored = mx.load(str(MODEL_DIR / "model.safetensors"))
    assert isinstance(stored, dict)
    names = {name.removesuffix("scales").removesuffix("biases").removesuffix("weight") for name in stored}
    assert names == {name.removesuffix("weight") for name in parameter_shapes()}
    assert parameter_count() == 14_163_328
    assert sum(file.stat().st_size for file in MODEL_DIR.iterdir()) <= 12_000_000
    assert SHAPE.context_tokens >= 4096
