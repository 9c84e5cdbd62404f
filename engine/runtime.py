"""The one module that imports MLX and mlx-lm; all others take them from here, so that what must come first does.

    from basemlx.engine.runtime import mx, nn          # MLX, prepared
    cache = mlx_lm_module("models.cache")              # a module of mlx-lm

What comes first, and why:
- On Linux's CPU backend an OpenBLAS is loaded before MLX (see `openblas`).
- `mx.compile` is turned off on Linux's CPU backend. There it starts a C++ compiler for each new kernel (0.7 s each, and
  an error without one) and loads the result from a shared folder under /tmp; what it would save there is little.
- mlx-lm imports transformers, which imports torch where it finds it: 0.25 GB and 2.9 s for things not used here. A
  process that is all ours (`stand_alone`: server, CLI, tests) imports mlx-lm without both: 55 MB and 0.3 s. In somebody
  else's process imports are left alone.
- mlx-lm's import sets this process's limits of open files to 2,048 and 4,096. It is kept from lowering them.

Importing this module imports nothing heavy. It knows no model and no configuration.
"""

import importlib
import resource
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from basemlx.engine import openblas
from basemlx.engine.environment import Environment

if TYPE_CHECKING:
    import mlx.core as mx
    from mlx import nn
    from mlx.utils import tree_flatten, tree_map

__all__ = ["Device", "RuntimeInfo", "mlx_lm_module", "mx", "nn", "prepare", "tree_flatten", "tree_map"]

Device = Literal["metal", "cuda", "cpu"]


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """What MLX runs on. `blas`: file name of the OpenBLAS in use, None for MLX's own. Versions as installed."""

    device: Device
    device_name: str
    blas: str | None
    compiles: bool
    stand_alone: bool
    mlx_version: str
    mlx_lm_version: str


_lock = threading.RLock()
_info: RuntimeInfo | None = None


def prepare(stand_alone: bool = False) -> RuntimeInfo:
    """Imports MLX in the right order, once; later calls return the same facts.

    `stand_alone`: this process belongs to basemlx, so mlx-lm may be imported without transformers and torch. It must
    come before the first use of mlx-lm; after that it changes nothing. Raises ImportError where MLX has no backend.
    """
    global _info
    with _lock:
        if _info is None:
            _info = _import_mlx(stand_alone)
        elif stand_alone and not _info.stand_alone and "mlx_lm" not in sys.modules:
            _info = RuntimeInfo(
                **{name: getattr(_info, name) for name in RuntimeInfo.__slots__} | {"stand_alone": True}
            )
        return _info


def mlx_lm_module(name: str) -> Any:
    """`mlx_lm.<name>`, say "utils" or "models.cache". The package itself is imported first, as `prepare` was told."""
    with _lock:
        stand_alone = prepare().stand_alone
        if "mlx_lm" not in sys.modules:
            with _file_limits_kept():
                _import_mlx_lm(stand_alone)
    return importlib.import_module(f"mlx_lm.{name}")


def __getattr__(name: str) -> Any:
    """`mx`, `nn` and two functions on trees of arrays, on first use."""
    if name not in ("mx", "nn", "tree_flatten", "tree_map"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    prepare()
    if name in ("tree_flatten", "tree_map"):
        found = getattr(importlib.import_module("mlx.utils"), name)
    else:
        found = importlib.import_module({"mx": "mlx.core", "nn": "mlx.nn"}[name])
    globals()[name] = found
    return found


def _import_mlx(stand_alone: bool) -> RuntimeInfo:
    blas = None
    if (
        sys.platform == "linux"
        and "mlx.core" not in sys.modules
        and not _has_package("mlx-cuda-13", "mlx-cuda-12")
    ):
        blas = openblas.preload(Environment.read().openblas)
    try:
        mx = importlib.import_module("mlx.core")
    except ImportError as error:
        raise ImportError(
            "MLX has no backend here. On Linux install one: pip install 'basemlx[cpu]' or 'basemlx[cuda13]'."
        ) from error
    device: Device = "cpu"
    if mx.default_device() == mx.gpu:
        device = "metal" if mx.metal.is_available() else "cuda"
    compiles = device != "cpu" or sys.platform != "linux"
    if not compiles:
        mx.disable_compile()
    return RuntimeInfo(
        device=device,
        device_name=str(mx.device_info().get("device_name", "unknown")),
        blas=blas,
        compiles=compiles,
        stand_alone=stand_alone,
        mlx_version=version("mlx"),
        mlx_lm_version=version("mlx-lm"),
    )


def _import_mlx_lm(stand_alone: bool) -> None:
    if stand_alone:
        try:
            with _stand_ins({"transformers": _Absent("transformers"), "torch": None}):
                importlib.import_module("mlx_lm")
            return
        except Exception:  # a later mlx-lm that wants more of transformers than it does now
            _forget("mlx_lm")
        try:
            with _stand_ins({"torch": None}):
                importlib.import_module("mlx_lm")
            return
        except Exception:
            _forget("mlx_lm", "transformers")
    importlib.import_module("mlx_lm")


class _Absent(ModuleType):
    """Stands for transformers while mlx-lm is imported: every name is an empty class. mlx-lm uses it for tokenizers
    only, and basemlx has its own."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (_AbsentClass,), {})


class _AbsentClass:
    @staticmethod
    def register(*_args: Any, **_kwargs: Any) -> None:
        """mlx-lm registers a tokenizer class at import."""

    @staticmethod
    def from_pretrained(*_args: Any, **_kwargs: Any) -> Any:
        raise RuntimeError("mlx-lm's own tokenizers are not available in a stand-alone basemlx process")


@contextmanager
def _stand_ins(modules: dict[str, ModuleType | None]) -> Iterator[None]:
    """Puts `modules` (None: not importable) in place of what is not imported yet, and takes them away again."""
    placed = []
    for name, module in modules.items():
        if name in sys.modules:
            continue
        names = [name] if module is None else [name, f"{name}.tokenization_utils_base"]
        for placed_name in names:
            sys.modules[placed_name] = module  # type: ignore[assignment]
            placed.append(placed_name)
    try:
        yield
    finally:
        for name in placed:
            sys.modules.pop(name, None)


@contextmanager
def _file_limits_kept() -> Iterator[None]:
    """While mlx-lm is imported, limits of open files are only ever raised, and within what this process may."""
    set_limit = resource.setrlimit

    def raise_only(which: int, limits: tuple[int, int]) -> None:
        soft, hard = resource.getrlimit(which)
        if which != resource.RLIMIT_NOFILE:
            set_limit(which, limits)
        elif soft != resource.RLIM_INFINITY and soft < limits[0]:
            set_limit(which, (limits[0] if hard == resource.RLIM_INFINITY else min(limits[0], hard), hard))

    resource.setrlimit = raise_only
    try:
        yield
    finally:
        resource.setrlimit = set_limit


def _forget(*packages: str) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in packages]:
        del sys.modules[name]


def _has_package(*names: str) -> bool:
    for name in names:
        try:
            version(name)
        except PackageNotFoundError:
            continue
        return True
    return False


def has_compiler() -> bool:
    """Whether the C++ compiler that `mx.compile` would start on Linux's CPU backend is there."""
    return shutil.which("g++") is not None
