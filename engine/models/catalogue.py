"""Short names for well-known MLX models (catalogue.json), and help with names that are not quite right.

Names are matched exactly, upper and lower case aside on the command line. Over HTTP a near miss is only ever suggested;
`guess` is for a person at a terminal, who sees what was made of the name. Knows no file of any model.
"""

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

MAX_NAME_CHARACTERS = 200
_MAX_SUGGESTIONS = 3
_CLOSE = 0.6


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A published model. `size_bytes` (of the download) and `context_tokens` are about: they help to choose, nothing is
    decided by them."""

    name: str
    repository: str
    size_bytes: int
    context_tokens: int
    capabilities: tuple[str, ...]


@cache
def catalogue() -> tuple[CatalogueEntry, ...]:
    """All entries, in the file's order."""
    data = json.loads((files("basemlx.engine.models") / "catalogue.json").read_text(encoding="utf-8"))
    return tuple(
        CatalogueEntry(
            name=entry["name"],
            repository=entry["repository"],
            size_bytes=int(entry["size_gb"] * 1e9),
            context_tokens=entry["context_tokens"],
            capabilities=tuple(entry["capabilities"]),
        )
        for entry in data["models"]
    )


def repository_of(name: str) -> str:
    """What a short name stands for; any other name as it is."""
    return next((entry.repository for entry in catalogue() if entry.name == name), name)


def aliases_of(repository: str) -> tuple[str, ...]:
    """The short names of a repository."""
    return tuple(entry.name for entry in catalogue() if entry.repository == repository)


def suggest(name: str, known: Iterable[str]) -> list[str]:
    """Up to three of the `known` names and short names that the name may have meant, closest first."""
    wanted = _simplified(name[:MAX_NAME_CHARACTERS])
    by_form: dict[str, str] = {}
    for candidate in [*known, *(entry.name for entry in catalogue())]:
        for form in (_simplified(candidate), _simplified(candidate.rpartition("/")[2])):
            by_form.setdefault(form, candidate)
    found = [
        by_form[form] for form in difflib.get_close_matches(wanted, by_form, 2 * _MAX_SUGGESTIONS, _CLOSE)
    ]
    return list(dict.fromkeys(found))[:_MAX_SUGGESTIONS]


def guess(name: str, known: Sequence[str], *, allows_prefix: bool = True) -> str | None:
    """The one name that a person meant: the same but for case and punctuation, or the only one that starts with it, if
    that is allowed. None where that leaves a choice."""
    wanted = _simplified(name)
    if not wanted:
        return None
    candidates = list(dict.fromkeys([*known, *(entry.name for entry in catalogue())]))
    for matches in (
        [c for c in candidates if _simplified(c) == wanted],
        [c for c in candidates if _simplified(c.rpartition("/")[2]) == wanted],
        [c for c in candidates if allows_prefix and _simplified(c.rpartition("/")[2]).startswith(wanted)],
    ):
        meant = {repository_of(match): match for match in matches}
        if len(meant) == 1:
            return matches[0]
        if meant:
            return None
    return None


def _simplified(name: str) -> str:
    return re.sub(r"[^a-z0-9/]", "", name.lower())
