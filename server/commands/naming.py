"""Model names as people type them: half remembered, in another case, without their hyphens. What was made of one is
said; an exact name, a path and an `org/name` are never changed."""

import sys
from pathlib import Path

from basemlx.engine.models.catalogue import catalogue, guess, repository_of
from basemlx.engine.models.discovery import Discovery


def meant(name: str, *, allows_prefix: bool = True) -> str:
    """The name of a model on this machine or of the catalogue, if only one can be meant; else the name as it is.
    `allows_prefix`: where it begins like that; else it may differ in case and punctuation only."""
    if "/" in name or name.startswith(("~", ".")) or any(entry.name == name for entry in catalogue()):
        return name
    known = [model.name for model in Discovery().scan() if model.problem is None]
    if name in known or Path(name).is_dir():
        return name
    found = guess(name, known, allows_prefix=allows_prefix)
    if found is None:
        return name
    repository = repository_of(found)
    print(f"{name}: taken for {found}{f' ({repository})' if repository != found else ''}", file=sys.stderr)
    return found
