"""The one module that imports xgrammar, without torch and transformers where nothing else has them.

xgrammar's package imports both, for a dtype constant, type hints and helpers that are not used here: some 500 MB and
3 s, and an error where torch is not installed. While it is imported, stand-ins take their places, and are taken away
again, so that a later import by somebody else is the real one. In a process that has already imported torch, or where
the stand-ins do not suffice (a later xgrammar), the ordinary import is used.
"""

import importlib
import importlib.machinery
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_STOOD_IN = ("torch", "transformers")
_lock = threading.Lock()


def xgrammar() -> Any:
    """The module, imported on first use. Raises ImportError."""
    with _lock:
        if "xgrammar" in sys.modules:
            return sys.modules["xgrammar"]
        if "torch" in sys.modules:
            return importlib.import_module("xgrammar")
        try:
            with _stand_ins():
                return importlib.import_module("xgrammar")
        except Exception:
            for name in [name for name in sys.modules if name.split(".")[0] == "xgrammar"]:
                del sys.modules[name]
        return importlib.import_module("xgrammar")


class _StandIn(ModuleType):
    """Any attribute is a class without content: enough for annotations, defaults and constants."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []
        self.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (_Anything,), {})


class _Anything:
    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        """Constants are made at import (torch.tensor(-1))."""

    def __class_getitem__(cls, _item: Any) -> Any:
        return cls


@contextmanager
def _stand_ins() -> Iterator[None]:
    placed = [name for name in _STOOD_IN if name not in sys.modules]
    blocked = []
    # tvm_ffi looks for torch too, and takes an absent one well.
    if "torch" in placed and "tvm_ffi" not in sys.modules:
        sys.modules["torch"] = None  # type: ignore[assignment]
        try:
            importlib.import_module("tvm_ffi")
        finally:
            del sys.modules["torch"]
    for name in placed:
        sys.modules[name] = _StandIn(name)
        blocked.append(name)
    try:
        yield
    finally:
        for name in blocked:
            sys.modules.pop(name, None)
