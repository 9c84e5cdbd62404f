"""From a model's name to its folder on this machine. Nothing is ever downloaded here.

A name is `tiny` (the built-in model), a Hugging Face `org/name` that is in the local cache, or, for callers on the
command line and in Python only, a folder. Names come from strangers over HTTP: they are looked up in a table of what is
there and never joined to a path, and a cached model counts only if its files lie in its own part of the cache.
"""

import difflib
import os
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from basemlx.engine.errors import ModelNotFound

BUILT_IN_NAME = "tiny"
MAX_NAME_CHARACTERS = 200

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
_HUB_NAME = re.compile(rf"{_PART}/{_PART}")
_CACHE_PREFIX = "models--"


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A model on this machine and the folder that `load_model` takes."""

    name: str
    folder: Path


def resolve(name: str, *, allow_paths: bool) -> Path:
    """The folder of the model called `name`. Raises ModelNotFound, with names that are close.

    `allow_paths` lets `name` be a folder (with `/`, `./`, `../` or `~` in front, or an existing one); never set it for
    a name that came over HTTP.
    """
    looks_like_path = name.startswith(("/", "./", "../", "~")) or name in (".", "..")
    if allow_paths and looks_like_path:
        return _local_folder(name)
    for model in installed():
        if model.name == name:
            return model.folder
    if allow_paths and "\0" not in name and name and Path(name).is_dir():
        return Path(name).resolve()
    raise _not_found(name)


def installed() -> list[InstalledModel]:
    """The built-in model, then what the Hugging Face cache holds with config and weights, by name."""
    built_in = built_in_folder()
    models = [] if built_in is None else [InstalledModel(BUILT_IN_NAME, built_in)]
    return models + sorted(_cached(hub_cache_folder()), key=lambda model: model.name)


def built_in_folder() -> Path | None:
    """Where the package keeps `tiny`; None in an installation without it."""
    folder = Path(str(files("basemlx.engine"))) / "tiny" / "model"
    return folder if (folder / "config.json").is_file() else None


def hub_cache_folder() -> Path:
    """The Hugging Face cache, where HF_HOME and HF_HUB_CACHE say it is."""
    from huggingface_hub import constants  # takes 0.1 s, and not every process asks

    return Path(constants.HF_HUB_CACHE)


def _cached(cache: Path) -> list[InstalledModel]:
    """Models of the cache, read from its folder names: models--ORG--NAME/{refs/main,snapshots/COMMIT}."""
    models = []
    try:
        entries = [entry.name for entry in os.scandir(cache) if entry.name.startswith(_CACHE_PREFIX)]
    except OSError:
        return []
    for entry in entries:
        name = "/".join(entry.removeprefix(_CACHE_PREFIX).split("--", 1))
        if not _is_hub_name(name):
            continue
        folder = _snapshot(cache / entry)
        if folder is not None:
            models.append(InstalledModel(name, folder))
    return models


def _is_hub_name(name: str) -> bool:
    return _HUB_NAME.fullmatch(name) is not None and ".." not in name


def _snapshot(repository: Path) -> Path | None:
    """The snapshot that `main` points at, else the newest, if it has config and weights and nothing from elsewhere."""
    try:
        snapshots = {entry.name: Path(entry.path) for entry in os.scandir(repository / "snapshots")}
    except OSError:
        return None
    try:
        main = (repository / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        main = ""
    candidates = sorted(snapshots.values(), key=lambda folder: folder.stat().st_mtime, reverse=True)
    if main in snapshots:
        candidates.insert(0, snapshots[main])
    return next((folder for folder in candidates if _is_whole(folder, repository)), None)


def _is_whole(folder: Path, repository: Path) -> bool:
    root = repository.resolve()
    try:
        # Links of the cache point into the repository's own blobs; one that leads out is not the hub's doing.
        contained = all(entry.resolve(strict=True).is_relative_to(root) for entry in folder.iterdir())
    except OSError:
        return False  # a link whose blob is gone
    return contained and (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def _local_folder(name: str) -> Path:
    if "\0" in name:
        raise _not_found(name)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ModelNotFound(f"There is no folder {name!r}.", param="model")
    return folder.resolve()


def _not_found(name: str) -> ModelNotFound:
    shown = repr(name if len(name) <= MAX_NAME_CHARACTERS else name[:MAX_NAME_CHARACTERS] + "…")
    known = [model.name for model in installed()]
    close = difflib.get_close_matches(
        name[:MAX_NAME_CHARACTERS].lower(), [item.lower() for item in known], n=3
    )
    suggestions = [item for item in known if item.lower() in close]
    if suggestions:
        hint = f"Did you mean {' or '.join(suggestions)}?"
    elif _is_hub_name(name):
        hint = f"It is not on this machine: basemlx pull {name}."
    else:
        hint = f"Known here: {', '.join(known[:5]) or 'none'}."
    return ModelNotFound(f"The model {shown} does not exist. {hint}", param="model")
