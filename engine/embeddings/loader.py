"""Loads a model folder that embeds, and turns inputs into requests that the loaded model can take.

Loading happens on the engine thread, which owns every MLX object; `prepare` is plain CPU work for any thread. Folders
get the same checks as those of language models (`engine.models.folder`), and the same float32 rule on a CPU.
"""

import logging
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from basemlx.engine.embeddings import bert
from basemlx.engine.embeddings.decoder import last_hidden, load_decoder
from basemlx.engine.embeddings.lanes import in_lanes
from basemlx.engine.embeddings.matryoshka import check_dimensions, is_matryoshka
from basemlx.engine.embeddings.pooling import normalized, pool
from basemlx.engine.embeddings.recipe import Recipe, recipe_of
from basemlx.engine.embeddings.types import MAX_SCORES_BYTES, EmbeddingRequest, Vectors
from basemlx.engine.errors import (
    BaseMLXError,
    ContextLengthExceeded,
    InvalidRequest,
    ModelCorrupt,
    ModelLoadFailed,
    OutOfMemory,
)
from basemlx.engine.memory import limit_free_list
from basemlx.engine.models import config as model_config
from basemlx.engine.models.estimate import Precision
from basemlx.engine.models.folder import ModelFolder, check_folder
from basemlx.engine.models.loader import check_room
from basemlx.engine.models.loading import Stage
from basemlx.engine.models.precision import estimate_bytes, materialise
from basemlx.engine.models.purpose import ENCODER_TYPES
from basemlx.engine.runtime import mx, nn, prepare
from basemlx.engine.text.tokenizer import Tokenizer
from basemlx.engine.types import ModelInfo

logger = logging.getLogger("basemlx.engine")

Input = str | Sequence[int]

_SHOWN = 5
_ADDED_TOKENS = 1024  # entries of a tokenizer that the weights may lack: added and never trained
_CHARACTERS_PER_TOKEN = (
    6  # a text with more than this for each token of the limit is counted before it is encoded
)


@dataclass(frozen=True, slots=True)
class LoadedEmbedder:
    """A model in memory that embeds. `dimensions` of a whole vector; `max_tokens` of an input, special tokens included.

    `vectors` is for the engine thread alone; everything else may be used from any.
    """

    info: ModelInfo
    tokenizer: Tokenizer
    recipe: Recipe
    dimensions: int
    max_tokens: int
    vocab_size: int
    num_heads: int
    matryoshka: bool
    end_token_id: int | None
    weights_bytes: int
    _model: Any

    def vectors(self, rows: Sequence[Sequence[int]]) -> Vectors:
        """One forward: [N, D] float32 for N rows of token ids."""
        if not isinstance(self._model, bert.Encoder):
            hidden = last_hidden(self._model, _padded(rows), [len(row) for row in rows], self.num_heads)
            return np.array(self._finished(hidden.astype(mx.float32)))
        parts = in_lanes(rows, self._encoded)
        if len(parts) == 1:
            return np.array(parts[0])
        vectors = np.empty((len(rows), parts[0].shape[1]), dtype=np.float32)
        for index, part in enumerate(parts):
            vectors[index :: len(parts)] = part
        return vectors

    def _encoded(self, rows: Sequence[Sequence[int]]) -> mx.array:
        lengths = mx.array([len(row) for row in rows])
        return self._finished(pool(self._model(_padded(rows), lengths), lengths, self.recipe.pooling))

    def _finished(self, pooled: mx.array) -> mx.array:
        return normalized(pooled) if self.recipe.normalize else pooled

    def max_rows(self, width: int) -> int:
        """How many rows of `width` tokens one forward may take, by the attention scores that they need."""
        return max(MAX_SCORES_BYTES // (self.num_heads * width * width * 4), 1)

    def prepare(
        self,
        inputs: Input | Sequence[Input],
        *,
        request_id: str,
        prompt_name: str | None = None,
        dimensions: int | None = None,
        timeout_s: float | None = None,
    ) -> EmbeddingRequest:
        """Checks and encodes. Raises InvalidRequest or ContextLengthExceeded, whose `param` is the input's path."""
        if dimensions is None:
            dimensions = self.recipe.truncate_dim
        else:
            check_dimensions(dimensions, self.dimensions, self.matryoshka, self.info.name)
        prompt = self._prompt(prompt_name)
        single = isinstance(inputs, str) or _is_tokens(inputs)
        items: Sequence[Any] = [inputs] if single else inputs
        if not isinstance(items, list | tuple):
            raise InvalidRequest("input must be a text, token ids, or a list of these.", param="input")
        if not items:
            raise InvalidRequest("input must not be empty.", param="input")
        rows, too_long = [], []
        for index, item in enumerate(items):
            path = "input" if single else f"input[{index}]"
            if not isinstance(item, str | list | tuple):
                raise InvalidRequest(f"{path} must be a text or a list of token ids.", param=path)
            if len(item) == 0:
                raise InvalidRequest(f"{path} must not be empty.", param=path)
            row = self._encode(prompt + item, path) if isinstance(item, str) else self._checked(item, path)
            if prompt_name is not None and not isinstance(item, str):
                raise InvalidRequest(
                    f"prompt_name cannot be used with token ids, as {path} is; put the prompt's tokens first.",
                    param="prompt_name",
                )
            if row is None or len(row) > self.max_tokens:
                too_long.append((path, None if row is None else len(row)))
            else:
                rows.append(tuple(row))
        if too_long:
            raise self._too_long(too_long)
        return EmbeddingRequest(request_id, self.info.name, tuple(rows), dimensions, timeout_s)

    def _prompt(self, name: str | None) -> str:
        prompts = self.recipe.prompts
        if name is None:
            return prompts.get(self.recipe.default_prompt or "", "")
        if name not in prompts:
            known = ", ".join(repr(known) for known in prompts) or "none"
            raise InvalidRequest(f"The model has no such prompt. Its prompts: {known}.", param="prompt_name")
        return prompts[name]

    def _encode(self, text: str, path: str) -> list[int] | None:
        """Token ids, or None for a text that is surely too long. Space around a text is part of it, as in
        sentence-transformers 6."""
        if self.recipe.lowercase:
            text = text.lower()
        is_long = len(text) > _CHARACTERS_PER_TOKEN * self.max_tokens  # megabytes are not worth encoding
        if is_long and self.tokenizer.is_longer_than([text], self.max_tokens):
            return None
        token_ids = self.tokenizer.encode(text, add_special_tokens=True)
        if self.end_token_id is not None and token_ids[-1:] != [self.end_token_id]:
            token_ids.append(self.end_token_id)
        if not token_ids:
            raise InvalidRequest(f"{path} has no tokens.", param=path)
        return token_ids

    def _checked(self, token_ids: Sequence[int], path: str) -> Sequence[int]:
        if not _is_tokens(token_ids):
            raise InvalidRequest(f"{path} must have token ids, which are whole numbers.", param=path)
        if min(token_ids) < 0 or max(token_ids) >= self.vocab_size:
            raise InvalidRequest(f"The token ids of {path} must be below {self.vocab_size}.", param=path)
        return token_ids

    def _too_long(self, found: list[tuple[str, int | None]]) -> ContextLengthExceeded:
        shown = ", ".join(
            f"{path} has {'more' if count is None else f'{count} tokens'}" for path, count in found[:_SHOWN]
        )
        rest = f" and {len(found) - _SHOWN} more inputs are too long" if len(found) > _SHOWN else ""
        return ContextLengthExceeded(
            f"An input of {self.info.name!r} may have {self.max_tokens} tokens, special tokens included; "
            f"{shown}{rest}. Split or shorten them.",
            param=found[0][0],
        )


def _is_tokens(value: Any) -> bool:
    """Token ids, and at least one."""
    return isinstance(value, list | tuple) and bool(value) and all(type(item) is int for item in value)


@dataclass(frozen=True, slots=True)
class PreparedEmbedder:
    """All of a model but what MLX holds. `name` is what callers know it by, `source` where it was found."""

    name: str
    checked: ModelFolder
    tokenizer: Tokenizer
    recipe: Recipe
    source: str
    aliases: tuple[str, ...]

    @property
    def is_encoder(self) -> bool:
        return self.checked.config["model_type"] in ENCODER_TYPES


def prepare_embedder(
    folder: Path, name: str, *, source: str = "folder", aliases: tuple[str, ...] = ()
) -> PreparedEmbedder:
    """Checks the folder and reads what is text. Raises ModelCorrupt or ModelLoadFailed."""
    checked = check_folder(folder)
    recipe = recipe_of(folder, checked.config)
    return PreparedEmbedder(name, checked, Tokenizer.from_folder(folder), recipe, source, aliases)


def embedder_steps(
    prepared: PreparedEmbedder, *, precision: Precision, max_context_tokens: int | None = None
) -> Generator[Stage, None, LoadedEmbedder]:
    """Loads as it is advanced, on the engine thread, in the `precision` that was decided on (`models.needs`), and
    returns the model. Raises ModelCorrupt, ModelLoadFailed or OutOfMemory; giving it up before its end (`close`) leaves
    nothing in memory."""
    checked, config = prepared.checked, prepared.checked.config
    limit_free_list()
    yield "architecture", 0.0
    try:
        model: Any = _encoder(checked) if prepared.is_encoder else load_decoder(checked.folder, config)
        weights_bytes = estimate_bytes(model, precision)
        check_room(weights_bytes, prepared.name)
        for share in materialise(model, precision):
            yield "weights", share
    except BaseMLXError:
        raise
    except Exception as error:
        raise _load_failed(checked, error) from error
    finally:
        mx.clear_cache()
    words = model.words if prepared.is_encoder else model.embed_tokens
    vocab_size = int(words.weight.shape[0])
    if prepared.tokenizer.vocab_size > vocab_size + _ADDED_TOKENS:
        raise ModelCorrupt("tokenizer.json and the weights are not of the same model.")
    max_tokens = _max_tokens(prepared)
    info = ModelInfo(
        name=prepared.name,
        loaded=True,
        model_type=str(config["model_type"]),
        context_tokens=min(max_tokens, max_context_tokens or max_tokens),
        size_bytes=checked.size_bytes,
        quantization=model_config.quantization_name(config),
        created_s=checked.created_s,
        source=prepared.source,
        capabilities=("embedding",),
        aliases=prepared.aliases,
    )
    loaded = LoadedEmbedder(
        info=info,
        tokenizer=prepared.tokenizer,
        recipe=prepared.recipe,
        dimensions=0,
        max_tokens=info.context_tokens,
        vocab_size=vocab_size,
        num_heads=_num_heads(config),
        matryoshka=is_matryoshka(prepared.name, config) or prepared.recipe.truncate_dim is not None,
        end_token_id=None if prepared.is_encoder else _end_token_id(checked, prepared.tokenizer),
        weights_bytes=weights_bytes,
        _model=model,
    )
    yield "warming up", 0.0
    return _measured(loaded)


def _padded(rows: Sequence[Sequence[int]]) -> mx.array:
    """Right-padded, [N, T] int32."""
    padded = np.zeros((len(rows), max(map(len, rows))), dtype=np.int32)
    for padded_row, row in zip(padded, rows, strict=True):
        padded_row[: len(row)] = row
    return mx.array(padded)


def load_embedder(folder: Path, name: str) -> LoadedEmbedder:
    """Both at once, in the precision the device is fast in, for callers that own MLX's thread."""
    precision: Precision = "dense" if prepare().device == "cpu" else "stored"
    steps = embedder_steps(prepare_embedder(folder, name), precision=precision)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            loaded: LoadedEmbedder = end.value
            return loaded


def _measured(loaded: LoadedEmbedder) -> LoadedEmbedder:
    """With the width of its vectors, asked of the model itself; which also warms it up."""
    dimensions = loaded.vectors([[0, 0, 0], [0, 0]]).shape[1]
    logger.info(
        "embedder loaded name=%s type=%s dimensions=%d max_tokens=%d pooling=%s weights_mb=%d",
        loaded.info.name,
        loaded.info.model_type,
        dimensions,
        loaded.max_tokens,
        "+".join(loaded.recipe.pooling),
        loaded.weights_bytes // 10**6,
    )
    return replace(loaded, dimensions=dimensions)


def _encoder(checked: ModelFolder) -> bert.Encoder:
    """The encoder with its weights bound but not yet read."""
    model = bert.Encoder(bert.encoder_shape(checked.config))
    stored: dict[str, Any] = {}
    for file in sorted(checked.folder.glob("model*.safetensors")):
        found: Any = mx.load(str(file))
        stored |= found
    weights = bert.own_names(stored)
    quantization = checked.config.get("quantization")
    if isinstance(quantization, dict):
        nn.quantize(
            model,
            group_size=quantization.get("group_size", 64),
            bits=quantization.get("bits", 4),
            mode=quantization.get("mode", "affine"),
            class_predicate=lambda path, module: (
                hasattr(module, "to_quantized") and f"{path}.scales" in weights
            ),
        )
    model.load_weights(list(weights.items()), strict=True)
    model.eval()
    return model


def _max_tokens(prepared: PreparedEmbedder) -> int:
    """The smallest of what the recipe, the positions and (where the recipe is silent) the tokenizer's config allow."""
    checked, recipe = prepared.checked, prepared.recipe
    config = checked.config
    if prepared.is_encoder:
        positions = bert.encoder_shape(config).context_tokens
    else:
        positions = model_config.context_tokens(config, checked.tokenizer_config)
    if recipe.max_tokens is not None:
        return min(recipe.max_tokens, positions)
    limit = checked.tokenizer_config.get("model_max_length")
    return min(limit, positions) if type(limit) is int and limit > 0 else positions


def _num_heads(config: model_config.Config) -> int:
    value = config.get("num_attention_heads", config.get("n_head"))
    return value if type(value) is int and value > 0 else 32


def _end_token_id(checked: ModelFolder, tokenizer: Tokenizer) -> int | None:
    """What a decoder's input has to end with, where its tokenizer does not see to it: Qwen3-Embedding was trained on
    <|endoftext|>, others say `add_eos_token`."""
    if checked.config["model_type"] == "qwen3":
        return _single_id("<|endoftext|>", tokenizer)
    if checked.tokenizer_config.get("add_eos_token") is True and tokenizer.eos_token is not None:
        return _single_id(tokenizer.eos_token, tokenizer)
    return None


def _single_id(token: str, tokenizer: Tokenizer) -> int | None:
    token_ids = tokenizer.encode(token)
    return token_ids[0] if len(token_ids) == 1 else None


def _load_failed(checked: ModelFolder, error: Exception) -> BaseMLXError:
    logger.warning("loading an embedding model failed", exc_info=error)
    words = " ".join(str(error).replace(str(checked.folder), "the model's folder").split())[:300]
    if isinstance(error, MemoryError) or "allocate" in words.lower():
        return OutOfMemory("Memory ran out while the model was loaded. Use a smaller model, or free memory.")
    if isinstance(error, ValueError):
        return ModelCorrupt(f"The weights do not fit config.json: {words}")
    return ModelLoadFailed(f"The model could not be loaded ({type(error).__name__}): {words}")
