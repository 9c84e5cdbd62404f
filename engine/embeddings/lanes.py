"""A batch in as many parts as there are cores, each on an MLX stream of its own, where MLX computes on Linux's CPU.

MLX runs a stream's operations one after another on one thread, and only OpenBLAS uses more than that; an encoder spends
a fifth of its time outside of it. With a part of the rows on each core, and matrix products on one thread each, all of
it runs in parallel: 1.2 times as fast on two cores. Other devices get the batch whole. For the engine thread alone,
which owns the streams.
"""

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from basemlx.engine.openblas import usable_cores
from basemlx.engine.runtime import mx, prepare

MAX_LANES = 8

_own = threading.local()
"""Streams of this thread, made once: MLX never gives one back."""


def num_lanes() -> int:
    """How many parts a batch is computed in, if it has as many rows."""
    return max(1, len(_streams()))


def in_lanes(
    rows: Sequence[Sequence[int]], compute: Callable[[Sequence[Sequence[int]]], mx.array]
) -> list[mx.array]:
    """Evaluated results of `compute`, each for a part of the rows: of n results, the i-th is for the rows i, i + n,
    i + 2n, … Rows that are sorted by length are shared out evenly so."""
    streams = _streams()[: len(rows)]
    if len(streams) < 2:
        whole = compute(rows)
        mx.eval(whole)
        return [whole]
    results = []
    with _blas_threads(max(1, usable_cores() // len(streams))):
        for index, stream in enumerate(streams):
            with mx.stream(stream):
                results.append(compute(rows[index :: len(streams)]))
        mx.eval(*results)
    return results


def _streams() -> list[mx.Stream]:
    if not hasattr(_own, "streams"):
        parallel = prepare().device == "cpu" and sys.platform == "linux"
        count = min(usable_cores(), MAX_LANES) if parallel else 1
        _own.streams = [mx.new_stream(mx.default_device()) for _ in range(count)] if count > 1 else []
    streams: list[mx.Stream] = _own.streams
    return streams


@contextmanager
def _blas_threads(count: int) -> Iterator[None]:
    """OpenBLAS with that many threads a call; nothing to do where MLX's own BLAS serves, which has one."""
    if prepare().blas is None:
        yield
        return
    library = ctypes.CDLL(None)  # it was loaded for the whole process
    before = library.openblas_get_num_threads()
    library.openblas_set_num_threads(count)
    try:
        yield
    finally:
        library.openblas_set_num_threads(before)
