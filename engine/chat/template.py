"""A model's chat template: messages to prompt text, within limits, with errors that a caller can act on.

The template is compiled once and rendered in the sandbox (see `sandbox`), on whatever thread calls. It knows no tokens
and nothing of how the text is used.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2

from basemlx.engine.chat.messages import ArgumentForm, Message, normalise, with_arguments, with_system_role
from basemlx.engine.chat.sandbox import (
    TemplateRaised,
    TemplateTooLarge,
    TemplateTooSlow,
    make_environment,
    watchdog,
)
from basemlx.engine.errors import InvalidRequest, ModelCorrupt
from basemlx.engine.models.config import read_json_object
from basemlx.engine.text.tokenizer import Tokenizer

MAX_TEMPLATE_BYTES = 2**20
TIME_LIMIT_S = 2.0
OUTPUT_FACTOR, OUTPUT_EXTRA = 4, 2**20
"""A prompt may be this many times its input, and so many characters more: templates add instructions, not volumes."""

_NO_TOOLS: dict[str, Any] = {"tools": [], "functions": "[]"}
_FAILURES = (
    jinja2.TemplateError,
    TemplateRaised,
    TemplateTooLarge,
    TemplateTooSlow,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    RecursionError,
    MemoryError,
    ArithmeticError,
)

RESERVED_NAMES = frozenset(
    {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "chat_template"}
)
MAX_OPTIONS, MAX_OPTION_CHARACTERS = 32, 1024


class ChatTemplate:
    """One compiled template. Thread-safe."""

    def __init__(
        self,
        source: str,
        *,
        bos_token: str | None = None,
        eos_token: str | None = None,
        time_limit_s: float = TIME_LIMIT_S,
    ) -> None:
        if len(source.encode()) > MAX_TEMPLATE_BYTES:
            raise ModelCorrupt("The model's chat template is larger than 1 MiB.")
        self.source = source
        self._tokens = {"bos_token": bos_token or "", "eos_token": eos_token or ""}
        self._time_limit_s = time_limit_s
        self._needs_tool_list = False
        try:
            with watchdog.limit(time_limit_s):
                self._template = make_environment().from_string(source)
        except (jinja2.TemplateError, TemplateTooLarge, TemplateTooSlow, RecursionError) as error:
            raise ModelCorrupt(f"The model's chat template does not compile: {_brief(error)}") from error

    @classmethod
    def from_folder(cls, folder: Path, tokenizer: Tokenizer) -> "ChatTemplate | None":
        """`chat_template.jinja`, else what tokenizer_config.json names; None for a model without one."""
        path = folder / "chat_template.jinja"
        if path.is_file():
            if path.stat().st_size > MAX_TEMPLATE_BYTES:
                raise ModelCorrupt("chat_template.jinja is larger than 1 MiB.")
            source: Any = path.read_text(encoding="utf-8")
        else:
            config = folder / "tokenizer_config.json"
            source = read_json_object(config).get("chat_template") if config.is_file() else None
            if isinstance(source, list):  # several, by name
                named = {
                    entry.get("name"): entry.get("template") for entry in source if isinstance(entry, Mapping)
                }
                source = named.get("default")
        if not isinstance(source, str):
            return None
        return cls(source, bos_token=tokenizer.bos_token, eos_token=tokenizer.eos_token)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **options: Any,
    ) -> str:
        """The prompt for `messages`, in OpenAI's form.

        `continue_final_message` leaves the last message, the assistant's, open for the model to go on. `options` are
        the template's own (`enable_thinking` and the like). Raises InvalidRequest.
        """
        check_options(options)
        normal = normalise(messages)
        if not self._knows_developer:
            normal = with_system_role(normal)
        normal = with_arguments(normal, self._argument_form if _has_calls(normal) else "object")
        if not continue_final_message:
            return self._run(normal, tools, options, add_generation_prompt)
        if not normal or normal[-1]["role"] != "assistant":
            raise InvalidRequest(
                "continue_final_message needs a last message from the assistant.",
                param="continue_final_message",
            )
        # The end of the last message is found by a mark that no template changes and nobody else can write.
        mark = uuid.uuid4().hex
        normal[-1] = {**normal[-1], "content": normal[-1]["content"] + mark}
        prompt = self._run(normal, tools, options, add_generation_prompt=False)
        if prompt.count(mark) != 1:
            raise InvalidRequest(
                "This model's chat template does not allow its last message to be continued.",
                param="continue_final_message",
            )
        return prompt[: prompt.index(mark)]

    def _run(
        self, messages: list[Message], tools: Any, options: Mapping[str, Any], add_generation_prompt: bool
    ) -> str:
        context = {
            **self._tokens,
            **options,
            "messages": messages,
            "tools": list(tools) if tools else None,
            "add_generation_prompt": add_generation_prompt,
        }
        if not tools and self._needs_tool_list:
            context |= _NO_TOOLS
        try:
            return self._generate(context)
        except (TypeError, jinja2.UndefinedError) as error:
            # Some templates for tool use iterate over the tools without asking whether there are any.
            if tools or self._needs_tool_list:
                raise _refusal(error) from error
            text = self._run_without_tools(context, error)
            self._needs_tool_list = True
            return text
        except _FAILURES as error:
            raise _refusal(error) from error

    def _run_without_tools(self, context: dict[str, Any], first: Exception) -> str:
        try:
            return self._generate(context | _NO_TOOLS)
        except _FAILURES:
            raise _refusal(first) from first

    def _generate(self, context: Mapping[str, Any]) -> str:
        """The text, within the limits of time and size. Raises whatever the template raises."""
        given = json.dumps([context["messages"], context["tools"]], ensure_ascii=False, default=str)
        limit = OUTPUT_FACTOR * len(given) + OUTPUT_EXTRA
        pieces, size = [], 0
        with watchdog.limit(self._time_limit_s):
            for piece in self._template.generate(context):
                size += len(piece)
                if size > limit:
                    raise TemplateTooLarge("the prompt is many times its input")
                pieces.append(piece)
        return "".join(pieces)

    # what this template wants, found out by trying

    @cached_property
    def _knows_developer(self) -> bool:
        return "developer" in self.source

    @cached_property
    def _argument_form(self) -> ArgumentForm:
        """Whether earlier calls' arguments come out as JSON when given as objects; if not, strings are what it wants."""
        call = {
            "id": "call00000",  # nine characters, as Mistral's templates insist
            "type": "function",
            "function": {"name": "f", "arguments": {"k": "v"}},
        }
        messages: list[Message] = [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "r", "tool_call_id": "call00000", "name": "f"},
        ]
        try:
            text = self._run(messages, None, {}, add_generation_prompt=False)
        except InvalidRequest as error:
            return "string" if isinstance(error.__cause__, TypeError) else "object"
        return "string" if "{'k'" in text else "object"


def check_options(options: Mapping[str, Any]) -> None:
    """Template options from a request: a few plain values under names that are not taken. Raises InvalidRequest."""
    if len(options) > MAX_OPTIONS:
        raise InvalidRequest(
            f"At most {MAX_OPTIONS} template options are taken.", param="chat_template_kwargs"
        )
    for name, value in options.items():
        path = f"chat_template_kwargs.{name[:64]}"
        if name in RESERVED_NAMES or not name.isidentifier() or name.startswith("_") or name == "tokenize":
            raise InvalidRequest(f"{path} cannot be set by a request.", param=path)
        if not isinstance(value, str | bool | int | float | None) or len(str(value)) > MAX_OPTION_CHARACTERS:
            raise InvalidRequest(f"{path} must be a short string, a number, true, false or null.", param=path)


def _has_calls(messages: Sequence[Message]) -> bool:
    return any(message.get("tool_calls") for message in messages)


def _refusal(error: Exception) -> InvalidRequest:
    """What a failed rendering means to the caller."""
    if isinstance(error, TemplateRaised):
        text = f"refuses these messages: {_brief(error)}"
    elif isinstance(
        error, TemplateTooLarge | TemplateTooSlow | RecursionError | MemoryError | ArithmeticError
    ):
        text = f"exceeds its limits on these messages: {_brief(error)}"
    else:
        text = f"fails on these messages: {_brief(error)}"
    return InvalidRequest(f"The model's chat template {text}", param="messages")


def _brief(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:300]
