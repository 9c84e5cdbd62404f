"""Where a model's files are: what discovery finds, and what was named by hand, which has to be found again later.

A model that was loaded from a folder, or with an adapter, keeps its name and its files for as long as the engine lives:
it may leave memory and come back. Imports no MLX, loads nothing.
"""

from dataclasses import dataclass
from pathlib import Path

from basemlx.engine.errors import InvalidRequest
from basemlx.engine.models.catalogue import repository_of
from basemlx.engine.models.discovery import Discovery, FoundModel, usable
from basemlx.engine.models.names import find_model
from basemlx.engine.types import ModelInfo


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model's files are, and the adapter that goes on top."""

    found: FoundModel
    adapter: Path | None = None


class ModelSources:
    """Models by name. Any thread."""

    def __init__(self, discovery: Discovery) -> None:
        self._discovery = discovery
        self._by_hand: dict[str, ModelSource] = {}

    def __contains__(self, name: str) -> bool:
        """Whether it was loaded by hand, under this very name."""
        return name in self._by_hand

    def name_of(self, name: str) -> str:
        """What a model is called in the books: short names stand for their repository, unless a model is called so."""
        repository = repository_of(name)
        if repository == name or name in self._by_hand or self._discovery.find(name) is not None:
            return name
        return repository

    def named(self, name: str, folder: Path | None) -> FoundModel:
        """The model that somebody names who may name folders. Raises ModelNotFound."""
        if folder is not None:
            return FoundModel(name=name, folder=folder, source="folder")
        known = self._by_hand.get(name)
        return known.found if known is not None else find_model(name, self._discovery, allow_paths=True)

    def check_same(self, name: str, folder: Path | None, adapter: Path | None) -> None:
        """For a model in memory that is asked for again: raises InvalidRequest if that means other files."""
        there = self.of(name)
        if folder is not None and folder.resolve() != there.found.folder.resolve():
            differs = "from another folder"
        elif adapter is not None and (there.adapter is None or adapter.resolve() != there.adapter.resolve()):
            differs = "with another adapter" if there.adapter is not None else "without that adapter"
        else:
            return
        raise InvalidRequest(f"The model {name!r} is in memory {differs}. Unload it first.", param="model")

    def remember(self, found: FoundModel, adapter: Path | None) -> None:
        self._by_hand[found.name] = ModelSource(found, adapter)

    def of(self, name: str) -> ModelSource:
        """Raises ModelNotFound. A folder is only ever found under a name that `remember` was told."""
        known = self._by_hand.get(name)
        return known or ModelSource(find_model(name, self._discovery, allow_paths=False))

    def fresh(self, name: str) -> ModelSource:
        """`of`, with what discovery knows by now of the same folder."""
        source = self.of(name)
        found = self._discovery.find(name)
        if found is None or found.folder != source.found.folder:
            return source
        return ModelSource(found, source.adapter)

    def info(self, name: str) -> ModelInfo | None:
        """What is known of a model that is not in memory."""
        source = self._by_hand.get(name)
        found = self._discovery.find(name)
        if found is not None and (source is None or source.found.folder == found.folder):
            return _info_of(found)
        return None if source is None else _info_of(source.found)

    def infos(self) -> list[ModelInfo]:
        """All that could be loaded: by hand first."""
        known = {name: info for name in list(self._by_hand) if (info := self.info(name)) is not None}
        for found in usable(self._discovery.scan()):
            known.setdefault(found.name, _info_of(found))
        return list(known.values())


def _info_of(found: FoundModel) -> ModelInfo:
    return ModelInfo(
        name=found.name,
        loaded=False,
        model_type=found.model_type,
        context_tokens=found.context_tokens,
        size_bytes=found.size_bytes,
        quantization=found.quantization,
        created_s=found.created_s,
        source=found.source,
        capabilities=found.capabilities,
        aliases=found.aliases,
        problem=found.problem,
    )
