"""Checks the header of a safetensors file before MLX maps it: format, bounds, and that the tensors tile the data.

The format is eight bytes of little-endian length, that many bytes of JSON, then the data. Each JSON entry names a
tensor's dtype, shape and byte range. Here every range must lie in the file, follow the one before without gap or
overlap, and hold exactly shape x dtype bytes. So a truncated or forged file is an error that names it, never a read
out of bounds. Reads the header only; imports no MLX.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from basemlx.engine.errors import ModelCorrupt

MAX_HEADER_BYTES = 16 * 2**20  # the largest published models stay below 1 MiB a file
MAX_DIMENSIONS = 8

_DTYPE_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
    "F4": 4,
}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file: its dtype in safetensors' spelling, its shape and the size of its data."""

    dtype: str
    shape: tuple[int, ...]
    size_bytes: int


def read_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors of the file by name. Raises ModelCorrupt, which names the file, for anything out of order."""
    try:
        with path.open("rb") as file:
            header, data_bytes = _read_json(file, path.stat().st_size)
        return _check_entries(header, data_bytes)
    except _BadHeader as problem:
        raise ModelCorrupt(
            f"{path.name} is not a whole safetensors file: {problem}. Download or convert the model again."
        ) from None
    except OSError as error:
        raise ModelCorrupt(f"{path.name} cannot be read ({error.strerror}).") from None


class _BadHeader(Exception):
    """What is wrong, as a clause of a sentence."""


def _read_json(file: BinaryIO, file_bytes: int) -> tuple[dict[str, Any], int]:
    """The parsed header and the number of bytes that follow it."""
    if file_bytes < 8:
        raise _BadHeader(f"it has only {file_bytes} bytes")
    header_bytes = int.from_bytes(file.read(8), "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise _BadHeader(f"its header claims {header_bytes:,} bytes")
    if 8 + header_bytes > file_bytes:
        raise _BadHeader("it ends inside its header")
    text = file.read(header_bytes)
    if not text.startswith(b"{"):
        raise _BadHeader("its header is not a JSON object")
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError):
        raise _BadHeader("its header is not valid JSON") from None
    return header, file_bytes - 8 - header_bytes


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise _BadHeader("its header names something twice")
    return entries


def _check_entries(header: dict[str, Any], data_bytes: int) -> dict[str, TensorEntry]:
    header.pop("__metadata__", None)
    tensors: dict[str, TensorEntry] = {}
    ranges: list[tuple[int, int]] = []
    for name, entry in header.items():
        if not isinstance(entry, dict):
            raise _BadHeader("an entry of its header is not an object")
        dtype = entry.get("dtype")
        bits = _DTYPE_BITS.get(dtype) if isinstance(dtype, str) else None
        if not isinstance(dtype, str) or bits is None:
            raise _BadHeader("a tensor has an unknown dtype")
        shape, offsets = _counts(entry.get("shape")), _counts(entry.get("data_offsets"))
        if shape is None or len(shape) > MAX_DIMENSIONS:
            raise _BadHeader("a tensor's shape is malformed")
        if offsets is None or len(offsets) != 2:
            raise _BadHeader("a tensor's data_offsets are malformed")
        begin, end = offsets
        if math.prod(shape) * bits != (end - begin) * 8:
            raise _BadHeader("a tensor's shape does not match the size of its data")
        tensors[name] = TensorEntry(dtype, shape, end - begin)
        ranges.append((begin, end))
    position = 0
    for begin, end in sorted(ranges):
        if begin != position:
            raise _BadHeader("its tensors overlap or leave gaps")
        position = end
    if position > data_bytes:
        raise _BadHeader(f"{position - data_bytes:,} bytes are missing at its end")
    if position < data_bytes:
        raise _BadHeader(f"it has {data_bytes - position:,} bytes too many")
    return tensors


def _counts(value: Any) -> tuple[int, ...] | None:
    """A list of integers that are not negative, else None. JSON's true is no integer here, though Python's is."""
    if isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value):
        return tuple(value)
    return None
