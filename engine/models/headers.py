"""Checks the header of a safetensors file before MLX maps it: format, bounds, and that the tensors tile the data. What
MLX itself does not read is refused here too, since its own words for it are those of a JSON parser.

The format is eight bytes of little-endian length, that many bytes of JSON, then the data. Each JSON entry names a
tensor's dtype, shape and byte range. Here every range must lie in the file, follow the one before without gap or
overlap, and hold exactly shape x dtype bytes. So a truncated or forged file is an error that names it, never a read
out of bounds. Reads the header only; imports no MLX.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from basemlx.engine.errors import ModelCorrupt

MAX_HEADER_BYTES = 16 * 2**20  # the largest published models stay below 1 MiB a file
MAX_DIMENSIONS = 8
_MAX_LENGTH = 2**31  # of a dimension; MLX counts in 32 bits and takes a larger one for a negative one
_FIELDS = {"dtype", "shape", "data_offsets"}

_DTYPE_BYTES = {  # those that MLX has
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E8M0": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "C64": 8,
}
_OTHER_DTYPES = frozenset({"F64", "F8_E5M2", "F6_E2M3", "F6_E3M2", "F4"})


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
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise _BadHeader("its header is not valid JSON") from None
    return header, file_bytes - 8 - header_bytes


def _no_constant(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are Python's idea of JSON alone


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise _BadHeader("its header names something twice")
    return entries


def _check_entries(header: dict[str, Any], data_bytes: int) -> dict[str, TensorEntry]:
    metadata = header.pop("__metadata__", None)
    if metadata is not None and not (
        isinstance(metadata, dict)
        and all(isinstance(value, str) and _is_text(key + value) for key, value in metadata.items())
    ):
        raise _BadHeader("its metadata are not texts by name")
    tensors: dict[str, TensorEntry] = {}
    ranges: list[tuple[int, int]] = []
    for name, entry in header.items():
        if not isinstance(entry, dict) or set(entry) != _FIELDS:
            raise _BadHeader("an entry of its header is not an object of dtype, shape and data_offsets")
        if not _is_text(name):
            raise _BadHeader("a tensor's name is not valid text")
        dtype = entry["dtype"]
        if not isinstance(dtype, str) or dtype not in _DTYPE_BYTES:
            known = dtype if isinstance(dtype, str) and dtype in _OTHER_DTYPES else None
            raise _BadHeader(
                "a tensor has an unknown dtype"
                if known is None
                else f"a tensor is {known}, which MLX does not read"
            )
        shape, offsets = _counts(entry["shape"]), _counts(entry["data_offsets"])
        if shape is None or len(shape) > MAX_DIMENSIONS or any(length >= _MAX_LENGTH for length in shape):
            raise _BadHeader("a tensor's shape is malformed")
        if offsets is None or len(offsets) != 2:
            raise _BadHeader("a tensor's data_offsets are malformed")
        begin, end = offsets
        if math.prod(shape) * _DTYPE_BYTES[dtype] != end - begin:
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


def _is_text(value: str) -> bool:
    """JSON's escapes can write half of a surrogate pair, which no UTF-8 has."""
    return value.isprintable() or not re.search("[\ud800-\udfff]", value)


def _counts(value: Any) -> tuple[int, ...] | None:
    """A list of integers that are not negative, else None. JSON's true is no integer here, though Python's is."""
    if isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value):
        return tuple(value)
    return None
