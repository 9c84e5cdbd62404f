"""Loads a checked model folder into memory through mlx-lm, and puts together all the engine needs to run it.

    prepare_load    reads and checks files, makes tokenizer and template: any thread, no MLX
    load_steps      builds the architecture, reads and evaluates the weights: the engine thread, which owns every MLX
                    object, in steps short enough that other models go on answering between them

mlx-lm builds the architecture and reads the weights; its tokenizers, downloads and custom-code hooks are not used. A
failure leaves nothing behind but an error that names the model's file or the figure at fault, with what to do about it.
"""

import logging
import sys
import traceback
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basemlx.engine.chat.template import ChatTemplate
from basemlx.engine.errors import BaseMLXError, ModelCorrupt, ModelLoadFailed, OutOfMemory
from basemlx.engine.memory import available_memory_bytes, limit_free_list
from basemlx.engine.models import config as model_config
from basemlx.engine.models import cpu_attention
from basemlx.engine.models.adapter import Adapter, apply_adapter, check_adapter
from basemlx.engine.models.estimate import Precision
from basemlx.engine.models.folder import ModelFolder, check_folder
from basemlx.engine.models.packing import checked_classes
from basemlx.engine.models.precision import estimate_bytes, materialise
from basemlx.engine.runtime import mlx_lm_module, mx, nn
from basemlx.engine.text.tokenizer import Tokenizer
from basemlx.engine.types import ModelInfo

logger = logging.getLogger("basemlx.engine")

Stage = tuple[str, float]
"""What a load is at, and how much of that is done."""

WEIGHTS_SHARE = 0.9
"""Of the memory that is available; the rest is for KV rows, temporaries and the rest of the machine."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class LoadedModel:
    """A model in memory.

    `vocab_size` is the width of its logits, often wider than the tokenizer. `generation_defaults` are the makers'
    sampling settings, named as in SamplingParams. `weights_bytes` is what the weights take in memory.
    """

    info: ModelInfo
    model: nn.Module
    config: dict[str, Any]
    tokenizer: Tokenizer
    template: ChatTemplate | None
    vocab_size: int
    context_tokens: int
    eos_token_ids: frozenset[int]
    generation_defaults: Mapping[str, float | int]
    precision: Precision
    weights_bytes: int


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """All of a model but what MLX holds. `name` is what callers know it by, `source` where it was found."""

    name: str
    checked: ModelFolder
    tokenizer: Tokenizer
    template: ChatTemplate | None
    adapter: Adapter | None
    source: str
    capabilities: tuple[str, ...]
    aliases: tuple[str, ...]


def prepare_load(
    folder: Path,
    name: str,
    *,
    adapter: Path | None = None,
    source: str = "folder",
    capabilities: tuple[str, ...] = (),
    aliases: tuple[str, ...] = (),
) -> PreparedModel:
    """Checks the folder and reads what is text. Raises ModelCorrupt or ModelLoadFailed."""
    checked = check_folder(folder)
    tokenizer = Tokenizer.from_folder(folder)
    template = ChatTemplate.from_folder(folder, tokenizer)
    checked_adapter = None if adapter is None else check_adapter(adapter)
    return PreparedModel(name, checked, tokenizer, template, checked_adapter, source, capabilities, aliases)


def load_steps(
    prepared: PreparedModel, *, precision: Precision, max_context_tokens: int | None = None
) -> Generator[Stage, None, LoadedModel]:
    """Loads as it is advanced, in the `precision` that was decided on (`needs`), and returns the model. Raises
    ModelCorrupt, ModelLoadFailed or OutOfMemory; giving it up before its end (`close`) leaves nothing in memory."""
    checked, tokenizer = prepared.checked, prepared.tokenizer
    limit_free_list()
    yield "architecture", 0.0
    model, config = _build(checked)
    if prepared.adapter is not None:
        apply_adapter(model, prepared.adapter)
    yield "weights", 0.0
    try:
        weights_bytes = estimate_bytes(model, precision)
        check_room(weights_bytes, prepared.name)
        for share in materialise(model, precision):
            yield "weights", share
        vocab_size = _logit_width(model)
    except BaseMLXError:
        raise
    except Exception as error:
        raise _load_failed(checked, error) from error
    finally:
        mx.clear_cache()  # what unpacking left behind
    _check_tokenizer_fits(tokenizer, vocab_size)
    context_tokens = model_config.context_tokens(config, checked.tokenizer_config)
    eos_token_ids = tokenizer.eos_token_ids | model_config.eos_token_ids(
        checked.generation_config, checked.config
    )
    info = ModelInfo(
        name=prepared.name,
        loaded=True,
        model_type=str(checked.config["model_type"]),
        context_tokens=min(context_tokens, max_context_tokens or context_tokens),
        size_bytes=checked.size_bytes,
        quantization=model_config.quantization_name(checked.config),
        created_s=checked.created_s,
        source=prepared.source,
        capabilities=prepared.capabilities,
        aliases=prepared.aliases,
    )
    logger.info(
        "model loaded name=%s type=%s precision=%s weights_mb=%d context_tokens=%d",
        info.name,
        info.model_type,
        precision,
        weights_bytes // 10**6,
        info.context_tokens,
    )
    return LoadedModel(
        info=info,
        model=model,
        config=config,
        tokenizer=tokenizer,
        template=prepared.template,
        vocab_size=vocab_size,
        context_tokens=info.context_tokens,
        eos_token_ids=frozenset(token for token in eos_token_ids if token < vocab_size),
        generation_defaults=model_config.generation_defaults(checked.generation_config),
        precision=precision,
        weights_bytes=weights_bytes,
    )


def _build(checked: ModelFolder) -> tuple[nn.Module, dict[str, Any]]:
    """The model with its weights bound but not yet read."""
    utils = mlx_lm_module("utils")
    try:
        model_class, _ = utils._get_classes(checked.config)
        cpu_attention.use_in(sys.modules[model_class.__module__])
    except (ValueError, AttributeError):
        own_code = model_config.wants_own_code(checked.config)
        raise ModelLoadFailed(
            f"The architecture {checked.config['model_type']!r} is not one that the installed mlx-lm has"
            + (
                ", and the model's own code (auto_map) is never run."
                if own_code
                else "; a newer mlx-lm may have it."
            )
        ) from None
    try:
        model, config = utils.load_model(
            checked.folder,
            lazy=True,
            strict=True,
            trust_remote_code=False,
            get_model_classes=checked_classes(utils._get_classes),
        )
    except BaseMLXError:
        raise
    except Exception as error:
        raise _load_failed(checked, error) from error
    return model, config


def check_room(weights_bytes: int, name: str) -> None:
    """Whether there is still the memory that the plan counted on. Raises OutOfMemory."""
    available_bytes = available_memory_bytes()
    if weights_bytes > WEIGHTS_SHARE * available_bytes:
        raise OutOfMemory(
            f"The weights of {name} need {weights_bytes / 2**30:.1f} GiB and {available_bytes / 2**30:.1f} GiB are "
            "available. Use a smaller or more strongly quantised model, or free memory."
        )


def _logit_width(model: Any) -> int:
    """Asked of the model itself, since configs disagree with their weights. Only shapes are computed."""
    cache = mlx_lm_module("models.cache").make_prompt_cache(model)
    return int(model(mx.zeros((1, 1), dtype=mx.int32), cache=cache).shape[-1])


def _check_tokenizer_fits(tokenizer: Tokenizer, vocab_size: int) -> None:
    """A few entries beyond the logits are published (added tokens never trained); a whole other tokenizer is not."""
    if tokenizer.vocab_size > vocab_size + 1024:
        raise ModelCorrupt(
            f"tokenizer.json has {tokenizer.vocab_size:,} entries but the model knows {vocab_size:,} tokens: "
            "they are not of the same model."
        )


def _load_failed(checked: ModelFolder, error: Exception) -> BaseMLXError:
    """mlx-lm's own words, less what they tell of this machine. The whole of it is in the log."""
    # As text: a record that held the exception would hold its frames, and they the weights.
    logger.warning("loading failed in mlx-lm\n%s", "".join(traceback.format_exception(error)).rstrip())
    words = " ".join(str(error).replace(str(checked.folder), "the model's folder").split())[:300]
    if isinstance(error, MemoryError) or "allocate" in words.lower():
        return OutOfMemory("Memory ran out while the model was loaded. Use a smaller model, or free memory.")
    if isinstance(error, ValueError) and ("parameters" in words or "shape" in words):
        return ModelCorrupt(f"The weights do not fit config.json: {words}")
    if isinstance(error, ArithmeticError | AssertionError):  # their own words say nothing: "division by zero"
        return ModelCorrupt("config.json has sizes that no model has, or that do not fit each other.")
    return ModelLoadFailed(f"mlx-lm could not load the model ({type(error).__name__}): {words}")
