"""From a model's name to its folder on this machine. Nothing is ever downloaded here.

A name is `tiny` (the built-in model), a name that discovery found, a short name of the catalogue where nothing found is
called so, or, for callers on the command line and in Python only, a folder. It is matched exactly, over HTTP and here
alike; whoever came close is told.
"""

from pathlib import Path

from basemlx.engine.errors import ModelNotFound
from basemlx.engine.models.catalogue import MAX_NAME_CHARACTERS, repository_of, suggest
from basemlx.engine.models.discovery import Discovery, FoundModel, is_hub_name, usable


def find_model(name: str, discovery: Discovery, *, allow_paths: bool) -> FoundModel:
    """The model called `name`, short names included. Raises ModelNotFound: with the reason for one that is here and
    cannot be loaded, with names that are close for others.

    `allow_paths` lets `name` be a folder (with `/`, `./`, `../` or `~` in front, or an existing one); never set it for
    a name that came over HTTP.
    """
    if allow_paths and is_path(name):
        return _local_folder(name)
    models = discovery.scan()
    by_name = {model.name: model for model in models}
    found = by_name.get(name) or by_name.get(repository_of(name))
    if found is not None and found.problem is not None:
        raise ModelNotFound(
            f"The model {name!r} is on this machine but cannot be loaded: {found.problem}", param="model"
        )
    if found is not None:
        return found
    if allow_paths and "\0" not in name and name and Path(name).is_dir():
        return _local_folder(name)
    raise _not_found(name, [model.name for model in usable(models)])


def is_path(name: str) -> bool:
    """Whether a name can only mean a folder."""
    return name.startswith(("/", "./", "../", "~")) or name in (".", "..")


def _local_folder(name: str) -> FoundModel:
    if "\0" in name:
        raise _not_found(name, [])
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ModelNotFound(f"There is no folder {name!r}.", param="model")
    folder = folder.resolve()
    return FoundModel(name=folder.name, folder=folder, source="folder")


def _not_found(name: str, known: list[str]) -> ModelNotFound:
    shown = repr(name if len(name) <= MAX_NAME_CHARACTERS else name[:MAX_NAME_CHARACTERS] + "…")
    repository = repository_of(name)
    if is_hub_name(repository):
        hint = f"It is not on this machine: basemlx pull {name}."
    elif close := suggest(name, known):
        hint = f"Did you mean {' or '.join(close)}?"
    else:
        hint = f"Known here: {', '.join(known[:5]) or 'none'}."
    return ModelNotFound(f"The model {shown} does not exist. {hint}", param="model")
