"""How much memory there is, and how much MLX uses, in bytes, on every backend.

Counts of MLX are of its own allocations (weights, KV rows, temporaries), not of the process: files that are mapped and
Python's own memory are not in them. "Available" is an estimate of what could still be allocated without swapping:
on Linux what the kernel says, lowered to a container's limit; on macOS what Metal recommends as a working set, less
what MLX holds. Nothing here evaluates or frees what is in use, so any thread may call it.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from basemlx.engine.heap import trim_heap
from basemlx.engine.runtime import mx, prepare

_MIB = 2**20
_CGROUP = Path("/sys/fs/cgroup")
_MODELS_SHARE = {"metal": 0.9, "cuda": 0.9, "cpu": 0.75}


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """`active` is in use, `cache` is freed and kept for reuse, `peak` the most that was active at once."""

    active_bytes: int
    cache_bytes: int
    peak_bytes: int


def memory_use() -> MemoryUse:
    return MemoryUse(mx.get_active_memory(), mx.get_cache_memory(), mx.get_peak_memory())


def reset_peak() -> None:
    """Starts the peak again from what is active now."""
    mx.reset_peak_memory()


def device_memory_bytes() -> int:
    """What models, KV rows and temporaries may use together at most.

    Metal: the recommended working set (about 3/4 of RAM, the rest is the system's). CUDA: the device's memory.
    CPU: RAM, or the container's limit where that is lower.
    """
    device = prepare().device
    if device == "cpu":
        return _ram_bytes()
    facts = mx.device_info()
    for key in ("max_recommended_working_set_size", "total_memory", "memory_size"):
        size = facts.get(key)
        if isinstance(size, int) and size > 0:
            return size
    return _ram_bytes()


def available_memory_bytes() -> int:
    """What could be allocated now, on top of what MLX holds."""
    device = prepare().device
    if device == "cpu":
        return _available_ram_bytes()
    if device == "cuda":
        free = mx.device_info().get("free_memory")
        if isinstance(free, int) and free > 0:
            return free + mx.get_cache_memory()
    return max(device_memory_bytes() - mx.get_active_memory(), 0)


def default_max_memory_bytes() -> int:
    """What models may take together unless told otherwise: a share that leaves the machine usable. Metal's recommended
    working set already is one."""
    return int(device_memory_bytes() * _MODELS_SHARE[prepare().device])


def limit_free_list() -> int:
    """Caps the freed memory that MLX keeps for reuse; returns the cap. Called once, at `prepare`'s first use.

    Without a cap the list grows to the largest mix of shapes ever seen. Where memory is the device's, allocating is
    slow: 1/16 of it, within 64 MiB and 2 GiB. On a CPU the system's allocator is quick, and what is kept here is
    missing elsewhere: 64 MiB, which holds what decoding steps use again and again.
    """
    limit_bytes = 64 * _MIB
    if prepare().device != "cpu":
        limit_bytes = min(max(device_memory_bytes() // 16, limit_bytes), 2048 * _MIB)
    mx.set_cache_limit(limit_bytes)
    return limit_bytes


def give_back_freed() -> None:
    """What MLX and the C library keep for reuse goes back to the system. Takes milliseconds, and so do the next
    allocations: for when there is nothing to do."""
    mx.clear_cache()
    trim_heap()


def _ram_bytes() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _cgroup_number("memory.max")
    return total if limit is None else min(total, limit)


def _available_ram_bytes() -> int:
    available = _ram_bytes() // 2  # where the system does not say (a Mac that uses its CPU): half of all
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
                break
    except OSError:
        return available
    limit, used = _cgroup_number("memory.max"), _cgroup_number("memory.current")
    if limit is not None and used is not None:
        available = min(available, max(limit - used + _reclaimable_bytes(), 0))
    return available


def _cgroup_number(name: str) -> int | None:
    try:
        return int((_CGROUP / name).read_text())
    except (OSError, ValueError):
        return None  # no cgroup v2, or "max"


def _reclaimable_bytes() -> int:
    """File pages of this container that the kernel gives up when memory is wanted."""
    try:
        for line in (_CGROUP / "memory.stat").read_text().splitlines():
            if line.startswith("inactive_file "):
                return int(line.split()[1])
    except OSError:
        pass
    return 0
