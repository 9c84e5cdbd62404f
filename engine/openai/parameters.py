"""What chat and completion requests share: model, sampling, streaming, and the fields that mean nothing or too much.

Every parameter of OpenAI's API, and those of vLLM's that change what is generated, is honoured, accepted as meaningless
here, or refused by name. Nothing is dropped in silence.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from basemlx.engine.errors import InvalidRequest, UnsupportedParameter
from basemlx.engine.openai.fields import Fields, checked_integer, checked_number, checked_text, wrong_type
from basemlx.engine.types import MAX_LOGIT_BIAS_ENTRIES, MAX_STOP_STRINGS, MAX_TOP_LOGPROBS, SamplingParams

MAX_MODEL_CHARACTERS = 256
MAX_STOP_TOKEN_IDS = 64
MAX_TIMEOUT_S = 86_400.0
MAX_TOKEN_ID = 2**31 - 1
_MAX_TOKENS = ("max_tokens", "max_completion_tokens")  # the older name and the newer
_DEFAULTED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_TOKEN_ID = re.compile(r"[0-9]{1,10}")

# They tell OpenAI who asks, how to bill, cache or watch, or how to phrase: a local model has no use for them.
MEANINGLESS = (
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "verbosity",
    "prediction",
    "moderation",
)


def _is_empty(value: Any) -> bool:
    return value in ([], (), {}, "", 0) or value is False


# Known, and not to be had (yet): name -> what value asks for nothing and may pass.
REFUSED: dict[str, Callable[[Any], bool]] = {
    "modalities": lambda value: value in (["text"], ("text",)),
    "audio": lambda value: False,
    "web_search_options": lambda value: False,
    "chat_template": lambda value: False,
    "documents": _is_empty,
    "min_tokens": _is_empty,
    "bad_words": _is_empty,
    "allowed_token_ids": lambda value: False,
    "prompt_logprobs": lambda value: False,
    "prompt_embeds": lambda value: False,
    "truncate_prompt_tokens": lambda value: False,
    "use_beam_search": _is_empty,
    "logits_processors": _is_empty,
    "suffix": _is_empty,
}


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """`sampling` with OpenAI's defaults; `given` names what the request itself set. `ignored` are the paths of fields
    that nobody knows."""

    model: str
    sampling: SamplingParams
    given: frozenset[str]
    stream: bool
    include_usage: bool
    timeout_s: float | None
    priority: int
    cache_salt: str
    skip_special_tokens: bool
    add_special_tokens: bool | None
    ignored: tuple[str, ...] = ()

    @property
    def max_tokens_name(self) -> str:
        """What the request itself calls the limit."""
        return "max_tokens" if "max_tokens" in self.given else "max_completion_tokens"

    def sampling_for(self, model_defaults: Mapping[str, float | int]) -> SamplingParams:
        """The sampling, with the model's recommended settings where the request says nothing."""
        defaults: dict[str, Any] = {
            name: value
            for name, value in model_defaults.items()
            if name in _DEFAULTED and name not in self.given
        }
        return replace(self.sampling, **defaults)


def read_options(fields: Fields, *, logprobs: bool, top_logprobs: int) -> RequestOptions:
    """Reads all that is common; log-probabilities are asked for differently and come from the caller. Raises
    InvalidRequest. `ignored` is left empty: only the caller has read everything."""
    model = fields.string("model", max_characters=MAX_MODEL_CHARACTERS)
    if not model:
        raise InvalidRequest("model is required: the name of a model as in /v1/models.", param="model")
    refuse_unsupported(fields)
    for name in MEANINGLESS:
        fields.get(name)
    stream = fields.boolean("stream")
    numbers = _read_numbers(fields)
    return RequestOptions(
        model=model,
        sampling=SamplingParams(
            max_tokens=_read_max_tokens(fields),
            logit_bias=_read_logit_bias(fields),
            seed=fields.integer("seed", -(2**63), 2**64 - 1),
            stop=_read_stop(fields),
            stop_token_ids=_read_token_ids(fields, "stop_token_ids", MAX_STOP_TOKEN_IDS),
            ignore_eos=fields.boolean("ignore_eos"),
            logprobs=logprobs,
            top_logprobs=top_logprobs,
            **numbers,
        ),
        given=frozenset(numbers) | {name for name in _MAX_TOKENS if fields.get(name) is not None},
        stream=stream,
        include_usage=_read_include_usage(fields, stream),
        timeout_s=_read_timeout_s(fields),
        priority=fields.integer("priority", -(2**31), 2**31 - 1) or 0,
        cache_salt=fields.string("cache_salt", max_characters=256) or "",
        skip_special_tokens=fields.boolean("skip_special_tokens", True),
        add_special_tokens=None
        if fields.get("add_special_tokens") is None
        else fields.boolean("add_special_tokens"),
    )


def refuse_unsupported(fields: Fields) -> None:
    for name, passes in REFUSED.items():
        value = fields.get(name)
        if value is not None and not passes(value):
            raise UnsupportedParameter(f"{name} is not supported by basemlx yet.", param=name)


def read_top_logprobs(fields: Fields, name: str) -> int | None:
    return fields.integer(name, 0, MAX_TOP_LOGPROBS)


def _read_numbers(fields: Fields) -> dict[str, Any]:
    """Sampling figures that were given. Ranges are SamplingParams' own."""
    figures: dict[str, Any] = {
        name: fields.number(name)
        for name in (
            "temperature",
            "top_p",
            "min_p",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
        )
    }
    top_k = fields.integer("top_k", -1, 2**31 - 1)
    figures["top_k"] = 0 if top_k == -1 else top_k  # vLLM's way of saying "off"
    figures["n"] = fields.integer("n")
    return {name: value for name, value in figures.items() if value is not None}


def _read_max_tokens(fields: Fields) -> int | None:
    """`max_completion_tokens` is the newer name of `max_tokens`."""
    newer = fields.integer("max_completion_tokens", 1)
    older = fields.integer("max_tokens", 1)
    if newer is not None and older is not None and newer != older:
        raise InvalidRequest(
            "max_completion_tokens and max_tokens are given and differ; give one of them.", param="max_tokens"
        )
    return newer if newer is not None else older


def _read_stop(fields: Fields) -> tuple[str, ...]:
    value = fields.get("stop")
    if isinstance(value, str):
        return (checked_text(value, "stop"),)
    if value is not None and not isinstance(value, list | tuple):
        raise wrong_type("stop", "a string or a list of strings", value)
    texts = fields.array("stop", MAX_STOP_STRINGS) or []
    return tuple(checked_text(text, f"stop[{index}]") for index, text in enumerate(texts))


def _read_token_ids(fields: Fields, name: str, max_items: int) -> tuple[int, ...]:
    values = fields.array(name, max_items) or []
    path = fields.path_of(name)
    return tuple(
        checked_integer(value, f"{path}[{index}]", 0, MAX_TOKEN_ID) for index, value in enumerate(values)
    )


def _read_logit_bias(fields: Fields) -> dict[int, float]:
    entries = fields.mapping("logit_bias")
    if entries is None:
        return {}
    if len(entries) > MAX_LOGIT_BIAS_ENTRIES:
        raise InvalidRequest(
            f"logit_bias must have at most {MAX_LOGIT_BIAS_ENTRIES} entries.", param="logit_bias"
        )
    bias = {}
    for key, value in entries.items():
        if isinstance(key, bool) or not _TOKEN_ID.fullmatch(str(key)):
            raise InvalidRequest("The keys of logit_bias must be token ids.", param="logit_bias")
        path = f"logit_bias.{key}"
        token_id = checked_integer(int(key), path, 0, MAX_TOKEN_ID)
        bias[token_id] = checked_number(value, path, -100.0, 100.0)
    return bias


def _read_include_usage(fields: Fields, stream: bool) -> bool:
    options = fields.object("stream_options")
    if options is None:
        return False
    if not stream:
        raise InvalidRequest("stream_options is only allowed when stream is true.", param="stream_options")
    options.get("include_obfuscation")  # chunks here are as long as what they say
    return options.boolean("include_usage")


def _read_timeout_s(fields: Fields) -> float | None:
    timeout_s = fields.number("timeout", 0.0, MAX_TIMEOUT_S)
    if timeout_s == 0:
        raise InvalidRequest("timeout must be a positive number of seconds.", param="timeout")
    return timeout_s
