"""Gives memory that the C library holds and nobody uses back to the system, where it does not do so by itself.

glibc keeps what was freed below the top of its heaps for the next allocation: tens of megabytes that no count of MLX's
shows, but that other programs miss. Other C libraries, and macOS, have no such call and need none.
"""

import ctypes
import sys
from functools import cache


def trim_heap() -> None:
    """Takes milliseconds; for moments when much has been freed."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> "ctypes._NamedFuncPointer | None":
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
