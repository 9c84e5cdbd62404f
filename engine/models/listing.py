"""What a hub says of a repository, and which of its files a model needs and are safe to have.

The hub's API, its addresses, tokens and settings (HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE) are huggingface_hub's. Names,
sizes and hashes come from strangers: a name that is more than a plain one is left out, a file without size and hash
refuses the repository, and so does what could not be loaded here. Fetches no file and knows no folder.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from basemlx.engine.errors import ModelLoadFailed, ModelNotFound
from basemlx.engine.models.folder import shards_of
from basemlx.engine.models.transfer import PullFailed, RemoteFile

ANSWER_TIMEOUT_S = 30.0
MAX_FILES = 2000
MAX_FILE_BYTES = 2**50
COMMIT = re.compile(r"[0-9a-f]{40}")
OID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._ +-]{0,199}")
_ROOT_SUFFIXES = frozenset({".json", ".jinja", ".txt", ".model", ".tiktoken", ".safetensors"})
_MODULE_FOLDER = re.compile(r"\d+_[A-Za-z]+")  # 1_Pooling, 2_Dense: parts of a sentence-transformers model
_FOREIGN = {".gguf": "GGUF", ".bin": "pickle", ".pth": "pickle", ".pt": "pickle", ".onnx": "ONNX"}


@dataclass(frozen=True, slots=True)
class Listing:
    """A repository at one commit: the files to have, where they are, and as whom they are fetched."""

    repository: str
    commit: str
    files: list[RemoteFile]
    endpoint: str
    token: str | None

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def hub_of(endpoint: str | None) -> tuple[str, str | None]:
    """Address and token, as huggingface_hub's settings have them."""
    import huggingface_hub

    if huggingface_hub.is_offline_mode():
        raise PullFailed("HF_HUB_OFFLINE is set, so nothing is downloaded. Unset it to pull.")
    return (endpoint or huggingface_hub.constants.ENDPOINT).rstrip("/"), huggingface_hub.get_token()


def list_repository(repository: str, revision: str, endpoint: str, token: str | None) -> Listing:
    """Raises ModelNotFound, ModelLoadFailed for what could not be run here, PullFailed for all else."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        info = HfApi(endpoint=endpoint, token=token or False).model_info(
            repository, revision=revision, files_metadata=True, timeout=ANSWER_TIMEOUT_S
        )
    except GatedRepoError:
        raise PullFailed(
            f"{repository} is gated: its makers want their conditions accepted. Do that on "
            f"{_shown(endpoint)}/{repository}, then set HF_TOKEN to a token of yours."
        ) from None
    except RevisionNotFoundError:
        raise PullFailed(f"{repository} has no revision {revision!r}.") from None
    except RepositoryNotFoundError:
        private = "" if token else " If it is private, set HF_TOKEN."
        raise ModelNotFound(
            f"{repository} does not exist on {_shown(endpoint)}.{private}", param="model"
        ) from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "an error")
        remedy = "Set HF_TOKEN to a token that it takes" if status in (401, 403) else "Try again later"
        raise PullFailed(f"The hub {_shown(endpoint)} answered {status}. {remedy}.") from None
    except Exception as error:  # the library's transport and parsing errors are of several libraries
        raise PullFailed(
            f"The hub {_shown(endpoint)} cannot be reached, or it is none ({type(error).__name__}). Check the network "
            "and HF_ENDPOINT."
        ) from None
    if not isinstance(info.sha, str) or not COMMIT.fullmatch(info.sha):
        raise PullFailed(f"The hub {_shown(endpoint)} names no commit for {repository}.")
    if info.id.lower() == repository.lower():
        repository = info.id  # as it is written: another case would be another folder
    return Listing(repository, info.sha, _chosen(repository, info.siblings or []), endpoint, token)


def _shown(endpoint: str) -> str:
    """Without the user and password that an address may have."""
    return re.sub(r"//[^/@]*@", "//", endpoint)


def _chosen(repository: str, siblings: list[Any]) -> list[RemoteFile]:
    """The files that a model needs and that are safe to have."""
    names = [str(sibling.rfilename) for sibling in siblings]
    has_plain_names = any(re.fullmatch(r"model.*\.safetensors", name) for name in names)
    files = []
    for sibling in siblings:
        name = str(sibling.rfilename)
        if not is_wanted(name, has_plain_names):
            continue
        oid = sibling.lfs.sha256 if sibling.lfs is not None else sibling.blob_id
        size = sibling.lfs.size if sibling.lfs is not None else sibling.size
        is_size = type(size) is int and 0 <= size <= MAX_FILE_BYTES
        if not is_size or not isinstance(oid, str) or not OID.fullmatch(oid):
            raise PullFailed(f"The hub gives no size and hash for {name[:100]!r}, so it cannot be checked.")
        files.append(RemoteFile(name, size, oid, sibling.lfs is not None))
    if "config.json" not in names or not any(f.name.endswith(".safetensors") for f in files):
        kinds = sorted({_FOREIGN[s] for name in names if (s := PurePosixPath(name).suffix) in _FOREIGN})
        found = f" It has {' and '.join(kinds)} files." if kinds else ""
        raise ModelLoadFailed(
            f"{repository} holds no safetensors model that could be run.{found} Look for an MLX version of it, for "
            "instance at mlx-community."
        )
    _check_loadable(repository, {file.name for file in files})
    if len(files) > MAX_FILES:
        raise PullFailed(f"{repository} has more files than any model.")
    return files


def _check_loadable(repository: str, names: set[str]) -> None:
    """Before anything is fetched: what `models.folder` will want of the files. Raises ModelLoadFailed."""
    weights = {name for name in names if re.fullmatch(r"model[^/]*\.safetensors", name)}
    lacking = sorted(shards_of(weights) - weights)
    if not weights:
        problem = "its weights are not called model*.safetensors, as those are that mlx-lm reads"
    elif lacking:
        problem = f"{len(lacking)} of its weight files are missing on the hub, {lacking[0]} for one"
    elif "tokenizer.json" not in names:
        problem = "it has no tokenizer.json, and basemlx reads no other kind of tokenizer"
    else:
        return
    raise ModelLoadFailed(
        f"{repository} could not be loaded here, so nothing was downloaded: {problem}. Look for an MLX version of it, "
        "for instance at mlx-community."
    )


def is_wanted(name: str, has_plain_names: bool) -> bool:
    """Whether a model needs a file of this name. `has_plain_names`: its weights are called model*.safetensors."""
    parts = name.split("/")
    if not all(_FILE_NAME.fullmatch(part) for part in parts) or len(parts) > 2:
        return False
    suffix = PurePosixPath(name).suffix
    if len(parts) == 2:
        return bool(_MODULE_FOLDER.fullmatch(parts[0])) and suffix in (".json", ".safetensors")
    if suffix == ".safetensors" and has_plain_names:
        return name.startswith("model")  # beside those, repositories keep other programs' copies
    return suffix in _ROOT_SUFFIXES
