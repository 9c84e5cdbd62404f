"""The one place where basemlx reads environment variables.

    BASEMLX_OPENBLAS   path of an OpenBLAS to use on a Linux CPU device, or `off` for MLX's own BLAS
    BASEMLX_MODELS     folders with models of one's own, separated as in PATH
    BASEMLX_API_BASE   URL of a server (http://127.0.0.1:11435/v1) that the provider uses instead of its own engine
    BASEMLX_API_KEY    the key of that server and of this machine's own: presented by clients, wanted by `basemlx serve`

Variables of others (HF_HOME, HF_HUB_OFFLINE, OPENBLAS_NUM_THREADS) are read by the libraries they belong to.
Knows nothing of what the values are used for.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PREFIX = "BASEMLX_"
API_KEY_VARIABLE = "BASEMLX_API_KEY"
"""Its value is shown nowhere."""

KNOWN_NAMES = frozenset({"BASEMLX_API_BASE", API_KEY_VARIABLE, "BASEMLX_MODELS", "BASEMLX_OPENBLAS"})


@dataclass(frozen=True, slots=True)
class Environment:
    """Settings that only make sense per machine. `unknown_names` are misspelt ones: a start-up error at the edge."""

    openblas: str | None = None
    model_folders: tuple[Path, ...] = ()
    api_base: str | None = None
    api_key: str | None = field(default=None, repr=False)
    unknown_names: tuple[str, ...] = ()

    @classmethod
    def read(cls, environ: Mapping[str, str] | None = None) -> "Environment":
        """Reads `environ`, the process's own by default; an empty value counts as unset."""
        values = os.environ if environ is None else environ
        return cls(
            openblas=values.get("BASEMLX_OPENBLAS") or None,
            model_folders=tuple(
                Path(part).expanduser().resolve()
                for part in values.get("BASEMLX_MODELS", "").split(os.pathsep)
                if part.strip()
            ),
            api_base=values.get("BASEMLX_API_BASE") or None,
            api_key=values.get(API_KEY_VARIABLE) or None,
            unknown_names=tuple(
                sorted(name for name in values if name.startswith(PREFIX) and name not in KNOWN_NAMES)
            ),
        )
