"""The body of a chat completion, validated into a ChatRequest. Knows no model: its ranges are checked later."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from basemlx.engine.errors import InvalidRequest, UnsupportedParameter
from basemlx.engine.openai.fields import Fields, checked_number, checked_text, wrong_type
from basemlx.engine.openai.messages import read_messages
from basemlx.engine.openai.parameters import RequestOptions, read_options, read_top_logprobs
from basemlx.engine.openai.response_format import AnswerFormat, read_answer_format
from basemlx.engine.openai.tools import ToolUse, read_tools

MAX_TEMPLATE_KWARGS = 32
MAX_REASONING_TOKENS = 1_000_000
MAX_TEMPLATE_TEXT_CHARACTERS = 1024
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

# What the engine sets itself, or what would make rendering something else than rendering.
_RESERVED = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "documents",
        "max_length",
        "messages",
        "padding",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "tokenize",
        "tokenizer_kwargs",
        "tools",
        "truncation",
        "cycler",
        "dict",
        "joiner",
        "lipsum",
        "namespace",
        "raise_exception",
        "range",
        "strftime_now",
    }
)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """`template_kwargs` are variables for the chat template, scalars only. `answer` None is free text;
    `max_reasoning_tokens` None does not bound reasoning."""

    options: RequestOptions
    messages: tuple[dict[str, Any], ...]
    template_kwargs: Mapping[str, Any]
    add_generation_prompt: bool
    continue_final_message: bool
    tool_use: ToolUse = field(default_factory=ToolUse)
    answer: AnswerFormat | None = None
    max_reasoning_tokens: int | None = None

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
        return self.answer is not None or bool(self.tool_use.tools) or self.max_reasoning_tokens is not None


def chat_request(body: Mapping[str, Any]) -> ChatRequest:
    """Raises InvalidRequest, whose `param` is the path of the field at fault."""
    fields = Fields(body)
    logprobs = fields.boolean("logprobs")
    top_logprobs = read_top_logprobs(fields, "top_logprobs") or 0
    options = read_options(fields, logprobs=logprobs, top_logprobs=top_logprobs)
    messages = read_messages(fields)
    continue_final_message = fields.boolean("continue_final_message")
    add_generation_prompt = fields.boolean("add_generation_prompt", not continue_final_message)
    if continue_final_message and add_generation_prompt:
        raise InvalidRequest(
            "continue_final_message and add_generation_prompt exclude each other.",
            param="add_generation_prompt",
        )
    if fields.boolean("echo"):
        raise UnsupportedParameter("echo is supported for /v1/completions only.", param="echo")
    tool_use, answer = read_tools(fields), read_answer_format(fields)
    budget = _read_reasoning_budget(fields)
    template_kwargs = _read_reasoning(fields) | _read_template_kwargs(fields)
    return ChatRequest(
        options=replace(options, ignored=fields.ignored()),
        messages=messages,
        template_kwargs=template_kwargs,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
        tool_use=tool_use,
        answer=answer,
        max_reasoning_tokens=budget,
    )


def _read_reasoning_budget(fields: Fields) -> int | None:
    """The most tokens of reasoning: `thinking_token_budget` as vLLM names it, `thinking_budget` as Qwen's API does, or
    `reasoning.max_tokens` as OpenRouter does."""
    for name in ("thinking_token_budget", "thinking_budget"):
        budget = fields.integer(name, 1, MAX_REASONING_TOKENS)
        if budget is not None:
            return budget
    reasoning = fields.object("reasoning")
    return None if reasoning is None else reasoning.integer("max_tokens", 1, MAX_REASONING_TOKENS)


def _read_reasoning(fields: Fields) -> dict[str, Any]:
    """`reasoning_effort` in the words of templates: some know a switch, under one of two names, some the effort."""
    effort = fields.string("reasoning_effort", max_characters=16, choices=EFFORTS)
    reasoning = fields.object("reasoning")
    if effort is None and reasoning is not None:
        effort = reasoning.string("effort", max_characters=16, choices=EFFORTS)
    if effort is None:
        return {}
    thinks = effort != "none"
    return {"enable_thinking": thinks, "thinking": thinks} | ({"reasoning_effort": effort} if thinks else {})


def _read_template_kwargs(fields: Fields) -> dict[str, Any]:
    values = fields.mapping("chat_template_kwargs")
    if values is None:
        return {}
    if len(values) > MAX_TEMPLATE_KWARGS:
        raise InvalidRequest(
            f"chat_template_kwargs must have at most {MAX_TEMPLATE_KWARGS} entries.",
            param="chat_template_kwargs",
        )
    return {name: _checked_kwarg(name, value) for name, value in values.items()}


def _checked_kwarg(name: Any, value: Any) -> Any:
    if not isinstance(name, str) or not name.isidentifier() or not name.isascii() or len(name) > 64:
        raise InvalidRequest(
            "The names in chat_template_kwargs must be short ASCII words.", param="chat_template_kwargs"
        )
    path = f"chat_template_kwargs.{name}"
    if name in _RESERVED or name.startswith("_") or name.endswith("_token"):
        raise InvalidRequest(f"{path} cannot be set by a request.", param=path)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        checked_number(value, path, -(2.0**63), 2.0**63)
        return value
    if isinstance(value, str) and len(value) <= MAX_TEMPLATE_TEXT_CHARACTERS:
        return checked_text(value, path)
    raise wrong_type(path, "a short string, a number, true, false or null", value)
