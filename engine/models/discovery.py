"""What lies on this machine: models of the Hugging Face cache, of LM Studio and of the user's own folders.

    built-in     the package's own `tiny`
    huggingface  <cache>/models--ORG--NAME/snapshots/COMMIT
    lmstudio     <folder>/PUBLISHER/NAME, where LM Studio keeps or kept its models or its settings say it does
    folder       BASEMLX_MODELS: folders that are models, or hold NAME or ORG/NAME

Names come from strangers over HTTP: they are looked up in the table made here and never joined to a path. A model
counts only if its files lie in its own part of the cache. What is incomplete or of a foreign format is in the table
too, with the reason. Reads names, sizes and small JSON; a scan that finds nothing changed reads no file.
"""

import errno
import os
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from basemlx.engine.embeddings.recipe import recipe_of
from basemlx.engine.environment import Environment
from basemlx.engine.errors import ModelLoadFailed
from basemlx.engine.models import config as model_config
from basemlx.engine.models.catalogue import aliases_of
from basemlx.engine.models.config import Config, read_json_object
from basemlx.engine.models.folder import check_folder
from basemlx.engine.models.purpose import RECIPE_FILE, embeds

BUILT_IN_NAME = "tiny"
CACHE_PREFIX = "models--"
NOTE_NAME = ".basemlx.json"
"""Beside the snapshots of a repository: what `pull` brought, and which commit it brought last."""

_MAX_ENTRIES = 10_000
_MAX_FILES = 2_000
_UNREADABLE = "cannot be read"

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
_HUB_NAME = re.compile(rf"{_PART}/{_PART}")
_LOCAL_NAME = re.compile(rf"{_PART}(?:/{_PART})?")

Signature = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model on this machine. `problem` says why it cannot be loaded as it lies there; then figures may be 0."""

    name: str
    folder: Path
    source: str
    size_bytes: int = 0
    context_tokens: int = 0
    model_type: str = ""
    quantization: str | None = None
    capabilities: tuple[str, ...] = ()
    created_s: int = 0
    problem: str | None = None

    @property
    def aliases(self) -> tuple[str, ...]:
        return aliases_of(self.name)


@dataclass(frozen=True, slots=True)
class ModelPlaces:
    """Where to look. `built_in` None: an installation without it."""

    built_in: Path | None
    hub_cache: Path
    lm_studio: tuple[Path, ...] = ()
    folders: tuple[Path, ...] = ()

    @classmethod
    def of_this_machine(cls) -> "ModelPlaces":
        return cls(
            built_in=built_in_folder(),
            hub_cache=hub_cache_folder(),
            lm_studio=lm_studio_folders(Path.home()),
            folders=Environment.read().model_folders,
        )


class Discovery:
    """Scans when asked and remembers what has not changed since. Safe to use from any thread.

    `places` None asks the machine at every scan, so that a changed setting counts."""

    def __init__(self, places: ModelPlaces | None = None) -> None:
        self._places = places
        self._known: dict[Path, tuple[Signature, FoundModel]] = {}
        self._lock = threading.Lock()

    def scan(self) -> tuple[FoundModel, ...]:
        """Every model, one a name: the built-in one, then by name. Of several with one name a whole one comes before a
        broken one, and the Hugging Face cache before other places."""
        with self._lock:
            found, self._known = self._look(None)
        built_in = found.pop(BUILT_IN_NAME, None)
        others = sorted(found.values(), key=lambda model: model.name.lower())
        return tuple(others if built_in is None else [built_in, *others])

    def find(self, name: str) -> FoundModel | None:
        """The one that `scan` would have under this name; only folders of that name are looked into."""
        with self._lock:
            found, seen = self._look(name)
            self._known |= seen
        return found.get(name)

    def _look(
        self, wanted: str | None
    ) -> tuple[dict[str, FoundModel], dict[Path, tuple[Signature, FoundModel]]]:
        """Models by name, that of one name only where one is `wanted`, and what is to be remembered of them."""
        seen: dict[Path, tuple[Signature, FoundModel]] = {}
        found: dict[str, FoundModel] = {}
        for name, folder, source in _candidates(self._places or ModelPlaces.of_this_machine(), wanted):
            if wanted is not None and name != wanted:
                continue
            model = self._described(name, folder, source, seen)
            if model is not None and (
                name not in found or (found[name].problem is not None and model.problem is None)
            ):
                found[name] = model
        return found, seen

    def _described(
        self, name: str, folder: Path, source: str, seen: dict[Path, tuple[Signature, FoundModel]]
    ) -> FoundModel | None:
        """None for what is no model, and for one that is removed meanwhile."""
        if not _LOCAL_NAME.fullmatch(name) or ".." in name:
            return None  # it could not be asked for
        root = folder.parent.parent if source == "huggingface" else None
        try:
            signature = _signature(folder)
            known = self._known.get(folder)
            if known is not None and known[0] == signature:
                seen[folder] = known
                return known[1]
            model = _describe(name, folder, source, root, signature)
            if model is not None and model.problem is not None:
                os.stat(folder)  # is it still there?
            if model is not None and _UNREADABLE not in (model.problem or ""):
                seen[folder] = signature, model  # what cannot be read now is tried again
            return model
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            return FoundModel(name, folder, source, problem=_unreadable(error.strerror))


# places


def built_in_folder() -> Path | None:
    """Where the package keeps `tiny`; None in an installation without it."""
    folder = Path(str(files("basemlx.engine"))) / "tiny" / "model"
    return folder if (folder / "config.json").is_file() else None


def hub_cache_folder() -> Path:
    """The Hugging Face cache, where HF_HOME and HF_HUB_CACHE say it is."""
    from huggingface_hub import constants  # takes 0.1 s, and not every process asks

    return Path(constants.HF_HUB_CACHE)


def lm_studio_folders(home: Path) -> tuple[Path, ...]:
    """Where LM Studio keeps its models: the folder of its settings, its usual one, and the one of older versions."""
    studio = home / ".lmstudio"
    try:
        pointed = (home / ".lmstudio-home-pointer").read_text(encoding="utf-8").strip()
        studio = Path(pointed) if pointed and Path(pointed).is_absolute() else studio
    except (OSError, ValueError):
        pass
    places = []
    try:
        chosen = read_json_object(studio / "settings.json").get("downloadsFolder")
        if isinstance(chosen, str) and Path(chosen).expanduser().is_absolute():
            places.append(Path(chosen).expanduser())
    except (ModelLoadFailed, ValueError, RuntimeError):
        pass
    places += [studio / "models", home / ".cache" / "lm-studio" / "models"]
    return tuple(dict.fromkeys(places))


def is_hub_name(name: str) -> bool:
    return _HUB_NAME.fullmatch(name) is not None and ".." not in name and "--" not in name


def _candidates(places: ModelPlaces, wanted: str | None) -> Iterator[tuple[str, Path, str]]:
    """(name, folder, source) of everything that may be a model, in order of preference. Where one name is `wanted`,
    others may be left out: those that cost a look to find out."""
    if places.built_in is not None:
        yield BUILT_IN_NAME, places.built_in, "built-in"
    yield from _hub_candidates(places.hub_cache, wanted)
    for folder in places.folders:
        yield from _folder_candidates(folder)
    for folder in places.lm_studio:
        for publisher in _subfolders(folder):
            if wanted is not None and not wanted.startswith(publisher.name + "/"):
                continue
            for model in _subfolders(publisher):
                yield f"{publisher.name}/{model.name}", model, "lmstudio"


def _hub_candidates(cache: Path, wanted: str | None) -> Iterator[tuple[str, Path, str]]:
    for entry in _subfolders(cache):
        if entry.name.startswith(CACHE_PREFIX):
            name = "/".join(entry.name.removeprefix(CACHE_PREFIX).split("--", 1))
            if wanted is not None and name != wanted:
                continue
            try:
                folder = _snapshot(entry) if is_hub_name(name) else None
            except OSError:
                folder = entry / "snapshots"  # listed, with the reason
            if folder is not None:
                yield name, folder, "huggingface"


def _snapshot(repository: Path) -> Path | None:
    """The snapshot that was pulled last, else what `main` points at, else the newest."""
    try:
        snapshots = {folder.name: folder for folder in _folders_in(repository / "snapshots")}
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        pulled = snapshots.get(str(read_json_object(repository / NOTE_NAME).get("current")))
    except ModelLoadFailed:  # most have none
        pulled = None
    if pulled is not None:
        return pulled
    try:
        main = (repository / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        main = ""
    if main in snapshots:
        return snapshots[main]
    return max(snapshots.values(), key=_modified_ns, default=None)


def _folder_candidates(folder: Path) -> Iterator[tuple[str, Path, str]]:
    if _looks_like_a_model(folder, formats=()):
        yield folder.name, folder, "folder"
        return
    for model in _subfolders(folder):
        if _looks_like_a_model(model):
            yield model.name, model, "folder"
            continue
        for nested in _subfolders(model):
            if _looks_like_a_model(nested):
                yield f"{model.name}/{nested.name}", nested, "folder"


def _looks_like_a_model(folder: Path, formats: tuple[str, ...] = ("*.gguf",)) -> bool:
    """Also what cannot be looked into: listed, with the reason."""
    try:
        return (folder / "config.json").is_file() or any(any(folder.glob(kind)) for kind in formats)
    except OSError:
        return True


def _subfolders(folder: Path) -> list[Path]:
    try:
        return _folders_in(folder)
    except OSError:
        return []


def _folders_in(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".") and _is_folder(entry)]
    return [folder / name for name in sorted(names)[:_MAX_ENTRIES]]


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link into what may not be read: those beside it count all the same
        return False


def _modified_ns(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


# one folder


def _signature(folder: Path) -> Signature:
    """What changes when a file of the folder does: names, sizes and times, those of permissions too, through links. A
    link that leads nowhere has size -1, and so has what cannot be read; the reason is then in the time's place. Files
    of folders within count (of RECIPE_FILE's steps), as NAME/FILE."""
    names = _names_in(folder)
    inner = [name for name in names if (folder / name).is_dir()] if RECIPE_FILE in names else []
    names += [f"{name}/{file}" for name in inner for file in _names_in(folder / name)]
    signature = []
    for name in names:
        try:
            status = os.stat(folder / name)
            signature.append((name, status.st_size, status.st_ctime_ns))
        except OSError as error:
            signature.append((name, -1, error.errno or 0))
    return tuple(signature)


def _names_in(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries)[:_MAX_FILES]


def _describe(
    name: str, folder: Path, source: str, root: Path | None, signature: Signature
) -> FoundModel | None:
    """None for what is no model at all: an empty folder, a data set. Raises OSError."""
    sizes = {file: size for file, size, _ in signature if "/" not in file}
    kinds = {Path(file).suffix for file in sizes}
    if not kinds & {".safetensors", ".gguf"} and "config.json" not in sizes:
        return None
    weights = sum(
        size for file, size in sizes.items() if file.endswith((".safetensors", ".gguf")) and size > 0
    )
    found = FoundModel(name=name, folder=folder, source=source, size_bytes=weights)
    reasons = {reason for _, size, reason in signature if size < 0}
    if reasons and reasons != {errno.ENOENT}:
        return replace(found, problem=_unreadable(os.strerror(max(reasons - {errno.ENOENT}))))
    if reasons:
        return replace(found, problem="incomplete: a file is missing; pull it again")
    if root is not None and not _is_contained(folder, root):
        return replace(found, problem="refused: a file of it lies outside of its part of the cache")
    try:
        checked = check_folder(folder)
        is_embedder = embeds(folder, name)
        if is_embedder:
            recipe_of(folder, checked.config)
    except ModelLoadFailed as error:
        return replace(found, problem=_reason(error.message, kinds))
    texts = _template_texts(folder, checked.tokenizer_config)
    return replace(
        found,
        size_bytes=checked.size_bytes,
        context_tokens=model_config.context_tokens(checked.config, checked.tokenizer_config),
        model_type=str(checked.config["model_type"]),
        quantization=model_config.quantization_name(checked.config),
        capabilities=("embedding",) if is_embedder else _capabilities(texts),
        created_s=checked.created_s,
    )


def _is_contained(folder: Path, root: Path) -> bool:
    """Links of the cache point into the repository's own blobs; one that leads out is not the hub's doing. Those of
    folders within are looked at too: models that embed keep settings there."""
    resolved, left, seen = root.resolve(), [folder.resolve()], set[Path]()
    while left:
        seen.add(inner := left.pop())
        for entry in inner.iterdir():
            try:
                path = entry.resolve()
            except RuntimeError:  # links in a circle
                return False
            if not path.is_relative_to(resolved):
                return False
            if path.is_dir() and path not in seen:
                left.append(path)
    return True


def _unreadable(reason: str | None) -> str:
    return f"{_UNREADABLE} ({reason})"


def _reason(message: str, kinds: set[str]) -> str:
    if ".gguf" in kinds and ".safetensors" not in kinds:
        return "GGUF: basemlx loads MLX and safetensors models"
    return f"incomplete: {message}" if "missing" in message or "has no" in message else message


def _template_texts(folder: Path, tokenizer_config: Config) -> str:
    """The chat template's text, whichever file has it; empty if none has."""
    texts = []
    for name in ("chat_template.jinja", "chat_template.json"):
        try:
            if (folder / name).stat().st_size <= model_config.MAX_JSON_BYTES:
                texts.append((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
    inline: Any = tokenizer_config.get("chat_template")
    if isinstance(inline, str):
        texts.append(inline)
    elif isinstance(inline, list):
        texts += [str(item.get("template")) for item in inline if isinstance(item, dict)]
    return "\n".join(texts)


def _capabilities(template: str) -> tuple[str, ...]:
    """Read off the files: chat models come with a template, and what that never mentions they were not taught."""
    if not template:
        return ("completion",)
    found = ["chat", "completion"]
    if re.search(r"\btools\b", template):
        found.append("tools")
    if "enable_thinking" in template or "<think>" in template or "reasoning" in template:
        found.append("reasoning")
    return tuple(found)


def usable(models: Sequence[FoundModel]) -> list[FoundModel]:
    return [model for model in models if model.problem is None]
