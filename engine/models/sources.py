"""Where a model's files are: what discovery finds, and what was named by hand, which has to be found again later.

    bind ──▶ bound: this name's files while it is being loaded ──▶ loaded: for good │ failed: forgotten

A model that was loaded from a folder, or with an adapter, keeps its name and its files for as long as the engine lives:
it may leave memory and come back. A load that fails leaves the name as it was. Imports no MLX, loads nothing.
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
    """Models by name. Any thread; whoever binds holds a lock until the load is asked for."""

    def __init__(self, discovery: Discovery) -> None:
        self._discovery = discovery
        self._bound: dict[str, ModelSource] = {}
        self._by_hand: dict[str, ModelSource] = {}

    def __contains__(self, name: str) -> bool:
        """Whether it was named by hand, under this very name."""
        return self._known(name) is not None

    def name_of(self, name: str) -> str:
        """What a model is called in the books: short names stand for their repository, unless a model is called so."""
        repository = repository_of(name)
        if repository == name or name in self or self._discovery.find(name) is not None:
            return name
        return repository

    def named(self, name: str, folder: Path | None) -> FoundModel:
        """The model that somebody names who may name folders. Raises ModelNotFound, and InvalidRequest for a path whose
        last part is what another model is called: that would answer under this one's name."""
        if folder is not None:
            return FoundModel(name=name, folder=folder, source="folder")
        known = self._known(name)
        if known is not None:
            return known.found
        found = find_model(name, self._discovery, allow_paths=True)
        if found.source == "folder" and self._known(found.name) is None:
            namesake = self._discovery.find(found.name) or self._discovery.find(repository_of(found.name))
            if namesake is not None and not _is_same(namesake.folder, found.folder):
                raise InvalidRequest(
                    f"The folder is called {found.name!r}, and so is another model on this machine. Rename the folder, "
                    f"or give it a name of its own in Python: Engine.load(NAME, folder=FOLDER).",
                    param="model",
                )
        return found

    def bind(self, found: FoundModel, adapter: Path | None, *, in_use: bool) -> None:
        """The next load of that name is of these files; without an adapter, of the one that is known for them. Raises
        InvalidRequest where the name is `in_use`, in memory or on its way, with others."""
        known = self._known(found.name)
        if in_use:
            self._check_same(known or self.of(found.name), found, adapter)
            return
        if adapter is None and known is not None and _is_same(known.found.folder, found.folder):
            adapter = known.adapter
        self._bound[found.name] = ModelSource(found, adapter)

    def loaded(self, name: str) -> None:
        """What was bound is what the name stands for from now on."""
        bound = self._bound.pop(name, None)
        if bound is not None:
            self._by_hand[name] = bound

    def failed(self, name: str) -> None:
        """What was bound is forgotten."""
        self._bound.pop(name, None)

    def of(self, name: str) -> ModelSource:
        """Raises ModelNotFound. A folder is only ever found under a name that was bound to it."""
        known = self._known(name)
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
        source = self._known(name)
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

    def _known(self, name: str) -> ModelSource | None:
        return self._bound.get(name) or self._by_hand.get(name)

    @staticmethod
    def _check_same(there: ModelSource, found: FoundModel, adapter: Path | None) -> None:
        if not _is_same(found.folder, there.found.folder):
            differs = "from another folder"
        elif adapter is not None and (there.adapter is None or not _is_same(adapter, there.adapter)):
            differs = "with another adapter" if there.adapter is not None else "without that adapter"
        else:
            return
        raise InvalidRequest(
            f"The model {found.name!r} is in memory {differs}, or on its way there. Unload it first.",
            param="model",
        )


def _is_same(folder: Path, other: Path) -> bool:
    return folder.resolve() == other.resolve()


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
