"""Safetensors headers that are well-formed for one reader and not for MLX, and files that go while they are read:
refused in words of ours."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from basemlx.engine.errors import ModelCorrupt
from basemlx.engine.models import folder as module
from basemlx.engine.models.folder import check_folder
from basemlx.engine.models.headers import read_header
from basemlx.engine.runtime import mx


def entry(dtype: str = "F32", shape: Any = (1,), size: int = 4, **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [0, size], **more}


def written(folder: Path, header: dict[str, Any] | bytes, size: int = 4) -> Path:
    """Zeros for data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + size)
    return path


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = {"a": value}
    return value


REFUSED: list[tuple[Any, int, str]] = [
    ({"__metadata__": 5, "x": entry()}, 4, "metadata"),
    ({"__metadata__": ["a"], "x": entry()}, 4, "metadata"),
    ({"__metadata__": {"format": 5}, "x": entry()}, 4, "metadata"),
    ({"__metadata__": {"a": nested(3)}, "x": entry()}, 4, "metadata"),
    ({"__metadata__": nested(900), "x": entry()}, 4, "metadata|not valid JSON"),
    ({"__metadata__": {"a": "\ud800"}, "x": entry()}, 4, "metadata"),
    (b'{"__metadata__":{"a":NaN},"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4, "not valid JSON"),
    ({"\ud800": entry()}, 4, "not valid text"),
    ({"a\udfffb": entry()}, 4, "not valid text"),
    ({"x": entry(z=[1])}, 4, "not an object of dtype"),
    ({"x": entry("F64", size=8)}, 8, "F64, which MLX does not read"),
    ({"x": entry("F8_E5M2", size=1)}, 1, "F8_E5M2, which MLX"),
    ({"x": entry("F4", [8], 4)}, 4, "F4, which MLX"),
    ({"x": entry("F128", size=16)}, 16, "unknown dtype"),
    ({"x": entry("F32", [0, 2**63 - 1], 0)}, 0, "shape is malformed"),
    ({"x": entry("F32", [2**31, 0], 0)}, 0, "shape is malformed"),
    ({"x": entry("U8", [2**31], 2**31)}, 2**31, "shape is malformed"),  # a file with holes: takes no room
    ({"x": entry("U8", [2**32 + 5], 2**32 + 5)}, 2**32 + 5, "shape is malformed"),
]


@pytest.mark.parametrize(("header", "size", "words"), REFUSED)
def test_what_mlx_would_not_read_is_refused_in_words(
    tmp_path: Path, header: Any, size: int, words: str
) -> None:
    with pytest.raises(ModelCorrupt, match=words):
        read_header(written(tmp_path, header, size))


SIZES = {
    1: ("BOOL", "U8", "I8", "F8_E4M3", "F8_E8M0"),
    2: ("U16", "I16", "F16", "BF16"),
    4: ("U32", "I32", "F32"),
    8: ("U64", "I64", "C64"),
}


@pytest.mark.parametrize(
    "header",
    [
        *({"x": entry(dtype, [4], 4 * size)} for size, dtypes in SIZES.items() for dtype in dtypes),
        {"__metadata__": None, "x": entry()},
        {"__metadata__": {"format": "pt", "é": "東京 🙂"}, "x": entry()},
        {"a\0b": entry()},
        {"é": entry()},
        {"x": entry(shape=[])},
        {"x": entry("F32", [0, 2**31 - 1], 0)},
    ],
)
def test_what_passes_mlx_reads(tmp_path: Path, header: dict[str, Any]) -> None:
    [tensor] = [value for name, value in header.items() if name != "__metadata__"]
    path = written(tmp_path, header, tensor["data_offsets"][1])
    found = read_header(path)
    read: Any = mx.load(str(path))
    mx.eval(list(read.values()))
    assert {name: value.shape for name, value in found.items()} == {
        name: value.shape for name, value in read.items()
    }


def test_weights_that_are_removed_while_they_are_checked_are_an_error_of_the_model(
    tmp_path: Path, zoo: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(zoo("qwen3"), tmp_path / "m"))

    def read(path: Path) -> Any:
        header = read_header(path)
        path.unlink()
        return header

    monkeypatch.setattr(module, "read_header", read)
    with pytest.raises(ModelCorrupt, match=r"cannot be read \(No such file") as caught:
        check_folder(folder)
    assert str(tmp_path) not in caught.value.message
