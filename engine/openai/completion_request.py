"""The body of a text completion, validated into a CompletionRequest. Knows no model: its ranges are checked later."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from basemlx.engine.errors import InvalidRequest, UnsupportedParameter
from basemlx.engine.openai.fields import Fields, checked_integer, checked_text, wrong_type
from basemlx.engine.openai.parameters import MAX_TOKEN_ID, RequestOptions, read_options, read_top_logprobs
from basemlx.engine.openai.response_format import AnswerFormat, read_answer_format

MAX_PROMPTS = 128

Prompt = str | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """One prompt or several, each a text or token ids. `echo` puts the prompt before what is generated."""

    options: RequestOptions
    prompts: tuple[Prompt, ...]
    echo: bool
    answer: AnswerFormat | None = None

    @property
    def model(self) -> str:
        return self.options.model

    @property
    def timeout_s(self) -> float | None:
        return self.options.timeout_s

    def within(self, timeout_s: float) -> Self:
        """The same with another deadline."""
        return replace(self, options=replace(self.options, timeout_s=timeout_s))

    @property
    def brings_grammar(self) -> bool:
        """Whether something may have to be compiled for it, which can take seconds."""
        return self.answer is not None


def completion_request(body: Mapping[str, Any]) -> CompletionRequest:
    """Raises InvalidRequest, whose `param` is the path of the field at fault."""
    fields = Fields(body)
    top_logprobs = read_top_logprobs(fields, "logprobs")
    options = read_options(fields, logprobs=top_logprobs is not None, top_logprobs=top_logprobs or 0)
    best_of = fields.integer("best_of")
    if best_of is not None and best_of != options.sampling.n:
        raise UnsupportedParameter("best_of other than n is not supported by basemlx.", param="best_of")
    echo = fields.boolean("echo")
    if echo and top_logprobs is not None:
        raise UnsupportedParameter("echo together with logprobs is not supported by basemlx.", param="echo")
    for name in ("tools", "functions"):
        if fields.get(name):
            raise UnsupportedParameter(f"{name} is for /v1/chat/completions only.", param=name)
    for name in ("tool_choice", "function_call", "parallel_tool_calls"):
        fields.get(name)  # they mean nothing without tools
    prompts, answer = _read_prompts(fields), read_answer_format(fields)
    return CompletionRequest(replace(options, ignored=fields.ignored()), prompts, echo, answer)


def _read_prompts(fields: Fields) -> tuple[Prompt, ...]:
    value = fields.get("prompt")
    if value is None:
        raise InvalidRequest("prompt is required.", param="prompt")
    if isinstance(value, str):
        return (_checked_prompt(value, "prompt"),)
    if not isinstance(value, list | tuple):
        raise wrong_type("prompt", "a string, a list of strings, or token ids", value)
    if not value:
        raise _empty("prompt")
    if not isinstance(value[0], str | list | tuple):
        return (_checked_prompt(value, "prompt"),)
    if len(value) > MAX_PROMPTS:
        raise InvalidRequest(f"prompt must hold at most {MAX_PROMPTS} prompts.", param="prompt")
    return tuple(_checked_prompt(prompt, f"prompt[{index}]") for index, prompt in enumerate(value))


def _checked_prompt(value: Any, path: str) -> Prompt:
    if isinstance(value, str):
        if not value:
            raise _empty(path)
        return checked_text(value, path)
    if not isinstance(value, list | tuple):
        raise wrong_type(path, "a string or token ids", value)
    if not value:
        raise _empty(path)
    if all(type(token_id) is int and 0 <= token_id <= MAX_TOKEN_ID for token_id in value):
        return tuple(value)
    return tuple(
        checked_integer(token_id, f"{path}[{index}]", 0, MAX_TOKEN_ID) for index, token_id in enumerate(value)
    )


def _empty(path: str) -> InvalidRequest:
    return InvalidRequest(f"{path} must not be empty.", param=path)
