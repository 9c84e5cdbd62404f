"""What models run on: MLX and its backend, the BLAS, the compiler, memory, cores."""

import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from basemlx.engine import openblas
from basemlx.engine.runtime import Device, RuntimeInfo, has_compiler, prepare
from basemlx.server.diagnosis.report import Check, gib, shareable

CPU_PACKAGES = ("mlx-cpu",)
CUDA_PACKAGES = ("mlx-cuda-13", "mlx-cuda-12")
PACKAGES = (
    "mlx",
    *CPU_PACKAGES,
    *CUDA_PACKAGES,
    "mlx-metal",
    "mlx-lm",
    "tokenizers",
    "transformers",
    "starlette",
)
DEVICE_NAMES: dict[Device, str] = {"metal": "Metal", "cuda": "CUDA", "cpu": "the CPU"}


def mlx() -> tuple[Check, RuntimeInfo | None]:
    """Imports MLX as the server does. The runtime's facts are None where that fails."""
    versions = installed_versions()
    conflict = backend_conflict(versions)
    if conflict is not None:
        return conflict, None
    try:
        info = prepare(stand_alone=True)
    except (ImportError, OSError) as error:
        details: tuple[str, ...] = ()
        if sys.platform == "darwin" and platform.machine() == "x86_64":
            details = ("MLX needs Apple silicon and a Python built for it; this Python is one for Intel.",)
        return Check("MLX", "FAIL", f"cannot be used: {shareable(str(error))}", details, versions), None
    device = f"{DEVICE_NAMES[info.device]} ({info.device_name})"
    summary = f"{info.mlx_version} with mlx-lm {info.mlx_lm_version}, on {device}"
    return Check(
        "MLX", "ok", summary, facts={"device": info.device, "device_name": info.device_name, **versions}
    ), info


def installed_versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def backend_conflict(versions: Mapping[str, str]) -> Check | None:
    """MLX's CPU and CUDA builds are the same files under one name: of two, one is broken."""
    found = [name for name in (*CPU_PACKAGES, *CUDA_PACKAGES) if name in versions]
    if len(found) < 2:
        return None
    advice = f"pip uninstall {' '.join(found)} and install one: basemlx[cpu] or basemlx[cuda13]."
    summary = f"{' and '.join(found)} are both installed and have overwritten each other"
    return Check("MLX", "FAIL", summary, (advice,), dict(versions))


def blas(info: RuntimeInfo) -> Check:
    """Which library multiplies matrices on Linux's CPU backend; elsewhere it is MLX's own business."""
    if info.device != "cpu" or sys.platform != "linux":
        return Check("BLAS", "ok", f"not needed on {DEVICE_NAMES[info.device]}", facts={"blas": None})
    if info.blas is not None:
        return Check("BLAS", "ok", info.blas, facts={"blas": info.blas})
    summary, facts = "the one that MLX brings, which is slow", {"blas": None}
    if (os.environ.get("BASEMLX_OPENBLAS") or "").lower() == openblas.OFF:
        return Check("BLAS", "note", f"{summary}: BASEMLX_OPENBLAS=off asks for it", facts=facts)
    details = (
        "With an OpenBLAS prompts are read, and several answers at once are written, several times as fast:",
        openblas.INSTALL_HINT,
        "It is found by itself; BASEMLX_OPENBLAS=/path/to/libopenblas.so.0 names one in an unusual place.",
    )
    return Check("BLAS", "note", summary, details, facts)


def compiler(info: RuntimeInfo) -> Check:
    facts = {"compiles": info.compiles, "g++": has_compiler()}
    if info.compiles:
        return Check("Compiler", "ok", f"mx.compile uses {DEVICE_NAMES[info.device]}'s own", facts=facts)
    found = "is there" if has_compiler() else "is not there either"
    return Check(
        "Compiler", "ok", f"not needed: mx.compile is off on Linux's CPU backend (g++ {found})", facts=facts
    )


def memory(info: RuntimeInfo) -> Check:
    """What there is, and the budgets that follow from it where no option sets them."""
    from basemlx.engine.memory import available_memory_bytes, device_memory_bytes, limit_free_list
    from basemlx.engine.models.shares import KV_SHARE, PREFIX_CONTEXTS, PREFIX_SHARE
    from basemlx.engine.runtime import mx

    total_bytes, available_bytes = device_memory_bytes(), available_memory_bytes()
    kv_bytes, prefix_bytes = int(KV_SHARE * available_bytes), int(PREFIX_SHARE * total_bytes)
    free_list_bytes = limit_free_list()
    facts = {
        "device_bytes": total_bytes,
        "available_bytes": available_bytes,
        "kv_budget_bytes": kv_bytes,
        "prefix_cache_max_bytes": prefix_bytes,
        "free_list_bytes": free_list_bytes,
    }
    details = [
        f"By default running answers get {KV_SHARE:.0%} of what a loaded model leaves: now {gib(kv_bytes)};",
        f"computed prefixes {PREFIX_CONTEXTS} full contexts of the model, at most {gib(prefix_bytes)};",
        f"freed memory kept for reuse at most {gib(free_list_bytes)}.",
    ]
    if info.device == "metal":
        details += metal_lines(mx.device_info())
    summary = f"{gib(total_bytes)} for models, of which {gib(available_bytes)} can be had now"
    return Check("Memory", "ok", summary, tuple(details), facts)


def metal_lines(device_info: Mapping[str, str | int]) -> list[str]:
    """What Metal lets a process use of a Mac's memory, and how that is changed. Not tried on a Mac yet."""
    limit, ram = device_info.get("max_recommended_working_set_size"), device_info.get("memory_size")
    if not isinstance(limit, int) or not isinstance(ram, int) or limit <= 0:
        return []
    return [
        f"Metal's working-set limit is {gib(limit)} of this Mac's {gib(ram)}.",
        "sudo sysctl iogpu.wired_limit_mb=N changes it until the next start of the Mac; leave some GiB for the system,",
        "since a limit close to all of the memory can make macOS panic.",
    ]


def cores(info: RuntimeInfo | None) -> Check:
    usable = openblas.usable_cores()
    facts = {"usable": usable, "machine": os.cpu_count()}
    threads = os.environ.get("OPENBLAS_NUM_THREADS")
    summary = f"{usable} of {os.cpu_count()} may be used"
    if info is not None and info.blas is not None and threads is not None:
        summary += f"; OPENBLAS_NUM_THREADS={threads[:8]}"
    return Check("Cores", "ok", summary, facts=facts)
