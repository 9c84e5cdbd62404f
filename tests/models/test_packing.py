"""Packed weights that contradict themselves or config.json: refused by name, before MLX divides by it."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from basemlx.engine.errors import ModelCorrupt
from basemlx.engine.models import loader
from basemlx.engine.models.folder import check_folder
from basemlx.engine.models.headers import TensorEntry
from basemlx.engine.models.packing import check_settings, check_tensors
from basemlx.engine.runtime import mx, nn
from tests.models.mutants import Model

Zoo = Callable[..., Path]


def edited(source: Path, folder: Path, *, config: dict[str, Any] | None = None, **shapes: list[int]) -> Path:
    """A copy with other settings, and other shapes of the tensors whose names end so (with _ for a point)."""
    shutil.copytree(source, folder)
    model = Model.read(source)
    for end, shape in shapes.items():
        name = next(name for name in model.header if name.replace(".", "_").endswith(end))
        model.header[name]["shape"] = shape
    text = json.dumps(model.header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + model.data)
    (folder / "config.json").write_text(json.dumps(model.config | (config or {})))
    return folder


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"k_proj_scales": [1, 128]}, r"k_proj\.scales' has another shape than its weight"),
        ({"embed_tokens_scales": [1, 768]}, r"embed_tokens\.scales' has another shape than its weight"),
        ({"k_proj_biases": [128]}, r"k_proj\.biases' has another shape than its scales"),
        ({"k_proj_weight": [32, 16]}, r"k_proj\.scales' has another shape"),
        ({"k_proj_weight": [64, 4, 2]}, r"k_proj\.scales' has another shape"),
    ],
)
def test_a_reshaped_part_of_packed_weights_is_refused_by_name(
    zoo: Zoo, tmp_path: Path, shapes: dict[str, list[int]], words: str
) -> None:
    folder = edited(zoo("qwen3", bits=4), tmp_path / "m", **shapes)
    with pytest.raises(ModelCorrupt, match=words):
        check_folder(folder)


def entry(dtype: str, *shape: int) -> TensorEntry:
    return TensorEntry(dtype, shape, 0)


@pytest.mark.parametrize(
    ("weight", "scales", "problem"),
    [
        (entry("U32", 8, 8), entry("BF16", 8, 2), None),  # affine, 4 bits and 32
        (entry("U32", 8, 12), entry("F16", 8, 2), None),  # 6 bits and 32, or 3 and 64
        (entry("U32", 4, 8, 16), entry("BF16", 4, 8, 1), None),  # experts, 4 bits and 128
        (entry("U32", 8, 8), entry("U8", 8, 4), None),  # nvfp4
        (entry("U32", 8, 16), entry("U8", 8, 2), None),  # mxfp8
        (entry("U32", 8, 8), entry("BF16", 8, 7), "no bits and group size"),
        (entry("U32", 8, 8), entry("U8", 8, 3), "no bits and group size"),
        (entry("U32", 8, 8), entry("BF16", 8, 0), "no bits and group size"),
        (entry("U32", 8, 8), entry("BF16"), "another shape"),
        (entry("F32", 8, 64), entry("BF16", 8, 2), "is not packed"),
    ],
)
def test_shapes_have_to_be_those_of_some_bits_and_group_size(
    weight: TensorEntry, scales: TensorEntry, problem: str | None
) -> None:
    tensors = {"a.weight": weight, "a.scales": scales}
    if problem is None:
        check_tensors(tensors)
        return
    with pytest.raises(ModelCorrupt, match=problem) as caught:
        check_tensors(tensors)
    assert "'a." in caught.value.message


@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8", "nvfp4", "affine"])
def test_what_mlx_itself_packs_passes(mode: str) -> None:
    for bits in (2, 3, 4, 5, 6, 8) if mode == "affine" else (None,):
        packed: Any = nn.Linear(256, 8).to_quantized(bits=bits, mode=mode)
        kinds = {mx.uint32: "U32", mx.uint8: "U8", mx.float32: "F32"}
        check_tensors(
            {
                f"a.{name}": entry(kinds[value.dtype], *value.shape)
                for name, value in packed.parameters().items()
            }
        )
        check_settings({"quantization": {"bits": packed.bits, "group_size": packed.group_size, "mode": mode}})


GOOD = {"group_size": 64, "bits": 4}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (GOOD | {"group_size": 0}, "group_size of quantization must be 32 or 64 or 128"),
        (GOOD | {"bits": 7}, "bits of quantization must be"),
        (GOOD | {"bits": True}, "bits of quantization must be"),
        (GOOD | {"mode": "mxfp4"}, "group_size of quantization must be 32 with mode mxfp4"),
        (GOOD | {"mode": "own"}, "names a mode"),
        (GOOD | {"mode": [1]}, "names a mode"),
        (GOOD | {"a.b": {"group_size": 0, "bits": 4}}, r"group_size of quantization of 'a\.b' must be"),
        (GOOD | {"a.b": {"group_size": 32, "bits": 0}}, r"bits of quantization of 'a\.b' must be"),
        ({"bits": 4}, "quantization has no group_size"),
        ([4], "not an object"),
        (False, "not an object"),
    ],
)
def test_settings_that_mlx_does_not_have_are_refused_by_field(settings: Any, words: str) -> None:
    with pytest.raises(ModelCorrupt, match=words):
        check_settings({"quantization": settings})


def test_settings_that_are_published_pass() -> None:
    for settings in (
        GOOD,
        GOOD | {"a.b": {"group_size": 32, "bits": 8}, "a.c": False, "quant_method": "mlx"},
        {
            "group_size": 32,
            "bits": 4,
            "mode": "mxfp4",
            "a.b": {"group_size": 64, "bits": 8, "mode": "affine"},
        },
    ):
        check_settings({"quantization": settings})
    check_settings({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": -1}})


@pytest.mark.parametrize("sizes", [{"hidden_size": 1}, {"intermediate_size": 3}, {"hidden_size": 32}])
def test_sizes_that_do_not_fit_the_packed_weights_are_refused_by_the_tensors_name(
    zoo: Zoo, tmp_path: Path, sizes: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group size that mlx-lm would work out of these is 0 for most."""
    utils = loader.mlx_lm_module("utils")
    monkeypatch.setattr(utils.nn, "quantize", lambda *_, **__: pytest.fail("MLX was asked to pack"))
    folder = edited(zoo("qwen3", bits=4), tmp_path / "m", config=sizes)
    prepared = loader.prepare_load(folder, "m")
    with pytest.raises(ModelCorrupt, match=r"\.scales' has \d+ groups, which does not fit the \d+ inputs"):
        list(loader.load_steps(prepared, precision="stored"))


@pytest.mark.parametrize("sizes", [{"intermediate_size": 0}, {"vocab_size": 0}, {"num_attention_heads": 0}])
def test_sizes_that_no_model_has_are_refused_in_words(
    zoo: Zoo, tmp_path: Path, sizes: dict[str, int]
) -> None:
    folder = edited(zoo("qwen3", bits=4), tmp_path / "m", config=sizes)
    with pytest.raises(ModelCorrupt, match=r"sizes that no model has|does not fit the"):
        list(loader.load_steps(loader.prepare_load(folder, "m"), precision="stored"))


def as_awq(source: Path, folder: Path, group: int = 32) -> Path:
    """A copy whose layers' matrices are packed as AutoAWQ packs them (any numbers): `qweight`, by rows of inputs."""
    shutil.copytree(source, folder)
    weights: Any = mx.load(str(source / "model.safetensors"))
    packed: dict[str, Any] = {}
    for name, value in weights.items():
        if not name.endswith("proj.weight"):
            packed[name] = value.astype(mx.float16)
            continue
        base, (outputs, inputs) = name.removesuffix(".weight"), value.shape
        packed[f"{base}.qweight"] = mx.ones((inputs, outputs // 8), dtype=mx.int32)
        packed[f"{base}.qzeros"] = mx.ones((inputs // group, outputs // 8), dtype=mx.int32)
        packed[f"{base}.scales"] = mx.ones((inputs // group, outputs), dtype=mx.float16)
    mx.eval(list(packed.values()))
    mx.save_safetensors(str(folder / "model.safetensors"), packed)
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq", "bits": 4, "group_size": group}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_weights_packed_otherwise_are_checked_against_the_sizes_too(zoo: Zoo, tmp_path: Path) -> None:
    folder = as_awq(zoo("qwen3"), tmp_path / "m")
    list(loader.load_steps(loader.prepare_load(folder, "m"), precision="stored"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 3}))
    with pytest.raises(
        ModelCorrupt, match=r"down_proj\.scales' has 4 groups, which does not fit the 3 inputs"
    ):
        list(loader.load_steps(loader.prepare_load(folder, "m"), precision="stored"))
