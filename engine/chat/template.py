"""A model's chat template: messages to the exact prompt that the model was trained on.

Templates are Jinja programs of strangers and run elsewhere (`renderers`), within limits of time, memory and size. What
a template needs of its messages is found out by rendering small probes, once each and only where it matters. Knows no
token and no OpenAI request; a template that fails is the request's failure, named so.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from basemlx.engine.chat.formats import Format, format_of
from basemlx.engine.chat.formats.hermes import Hermes
from basemlx.engine.chat.messages import Message, Traits, adapted, as_object
from basemlx.engine.chat.renderers import RenderFailed, pool
from basemlx.engine.chat.tools import Call
from basemlx.engine.errors import EngineUnavailable, InvalidRequest, ModelCorrupt
from basemlx.engine.models.config import read_json_object

MAX_TEMPLATE_BYTES = 1 << 20
MAX_RUNAWAYS = 3
RUNAWAY_REST_S = 60.0
"""After so many in a row a template is left alone for so long: it would take a renderer's time from other models. Not
for ever: it may have been one caller's conversation that was too much for it."""

LOCK_LIMIT_S = 10.0

_DEVELOPER_ROLE = re.compile(r"""(["'])developer\1""")
_PROBE = "qZprobeQz"
_PROBE_RESULT = "qZresultQz"
_END_MARK = "qZendOfMessageQz"


class NamedTokens(Protocol):
    """What a template has to know of the tokenizer: texts by names like bos_token."""

    @property
    def special_tokens(self) -> Mapping[str, str]: ...


class ChatTemplate:
    """Renders conversations. Safe to use from any thread; renders of one template take turns.

    `source` is the template for plain conversations, `tool_source` that for tools, where the model has two.
    `call_format` is how the model writes tool calls, as far as the template shows it; an override is set before
    anything is rendered.
    """

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str] | None = None,
        *,
        tool_source: str | None = None,
        vocabulary: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for text in (source, tool_source or ""):
            if len(text.encode("utf-8", "replace")) > MAX_TEMPLATE_BYTES:
                raise ModelCorrupt("The model's chat template is larger than 1 MiB.")
        self.source = source
        self.call_format: Format | None = format_of(tool_source or source, vocabulary)
        self._sources = {False: source.encode(), True: (tool_source or source).encode()}
        self._special_tokens = dict(special_tokens or {})
        self._lock = threading.Lock()
        self._clock = clock
        self._num_runaways = 0
        self._rests_until_s = 0.0
        self._traits: Traits | None = None
        self._call_traits: Traits | None = None

    @classmethod
    def from_folder(cls, folder: Path, tokenizer: NamedTokens) -> "ChatTemplate | None":
        """The template of a model's folder, None if it has none. Raises ModelCorrupt."""
        sources = _read_sources(folder)
        if "default" not in sources:
            return None
        with suppress(EngineUnavailable):  # a model that cannot chat here can still complete texts
            pool.warm_up()
        return cls(sources["default"], tokenizer.special_tokens, tool_source=sources.get("tool_use"))

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **kwargs: Any,
    ) -> str:
        """The prompt.

        With `continue_final_message` the last message must be the assistant's, and its text ends the prompt exactly.
        `kwargs` are variables of the template (`enable_thinking`). Raises InvalidRequest, `param` messages, if the
        template refuses the conversation or fails.
        """
        options = {**kwargs, "tools": list(tools) if tools else None}
        if continue_final_message:
            return self._render_open(messages, options)
        return self._render(messages, options | {"add_generation_prompt": add_generation_prompt})

    def _render_open(self, messages: Sequence[Message], options: dict[str, Any]) -> str:
        """Marks the end of the last message, renders, and cuts there."""
        *before, last = messages or [{"role": ""}]
        text = last.get("content")
        if last["role"] != "assistant" or not isinstance(text, str) or last.get("tool_calls"):
            raise InvalidRequest(
                "continue_final_message needs a last message of the assistant that is text.",
                param="continue_final_message",
            )
        mark = _END_MARK
        while any(mark in str(message.get("content")) for message in messages):
            mark += "z"
        marked = [*before, {**last, "content": text + mark}]
        prompt, found, _ = self._render(marked, options | {"add_generation_prompt": False}).rpartition(mark)
        if not found or mark in prompt or not prompt.endswith((text, text.lstrip())):
            raise InvalidRequest(
                "The model's chat template changes the last message, so it cannot be continued.",
                param="continue_final_message",
            )
        return prompt

    def _render(self, messages: Sequence[Message], options: dict[str, Any]) -> str:
        if not self._lock.acquire(timeout=LOCK_LIMIT_S):
            raise EngineUnavailable(
                "The model's chat template keeps other requests waiting.", retry_after_s=5
            )
        try:
            return self._run(messages, self._traits_for(messages, options), options)
        except RenderFailed as failure:
            raise _refusal(failure) from None
        finally:
            self._lock.release()

    def _run(self, messages: Sequence[Message], traits: Traits, options: Mapping[str, Any]) -> str:
        if self._num_runaways >= MAX_RUNAWAYS and self._clock() < self._rests_until_s:
            raise RenderFailed(
                f"it had to be stopped {self._num_runaways} times in a row and is not tried again for a while"
            )
        tools = options["tools"]
        variables = {**self._special_tokens, "documents": None, **options}
        variables["messages"] = adapted(messages, traits, self._calls_as_text)
        if traits.empty_tools:
            variables["tools"] = []
        if traits.empty_tools or (tools is not None and "datetime" in self.source):  # FireFunction
            functions = json.dumps([tool.get("function", tool) for tool in tools or ()], ensure_ascii=False)
            variables |= {"functions": functions, "datetime": time.strftime("%Y-%m-%d %H:%M:%S")}
        try:
            prompt = pool.render(self._sources[tools is not None], variables)
        except RenderFailed as failure:
            self._num_runaways = self._num_runaways + 1 if failure.ran_away else 0
            self._rests_until_s = self._clock() + RUNAWAY_REST_S
            raise
        except (TypeError, ValueError):
            raise InvalidRequest(
                "A message holds a value that JSON does not have.", param="messages"
            ) from None
        self._num_runaways = 0
        return prompt

    def _calls_as_text(self, calls: Sequence[Mapping[str, Any]]) -> str:
        """Past calls as the model writes them; where that is not known, as most models do."""
        found = []
        for call in calls:
            arguments = as_object(call["function"].get("arguments"))
            name = call["function"]["name"]
            found.append(Call(name, arguments if isinstance(arguments, dict) else {}, call.get("id") or ""))
        return (self.call_format or Hermes()).render(found)

    # what the template needs, found by probes

    def _traits_for(self, messages: Iterable[Message], options: Mapping[str, Any]) -> Traits:
        """What matters for these messages."""
        traits = self._traits
        if traits is None:
            traits = self._traits = self._find_traits(options)
        if any(message.get("tool_calls") for message in messages):
            if self._call_traits is None:
                self._call_traits = self._find_call_traits(traits, options)
            traits = self._call_traits
        return traits if options["tools"] is None else replace(traits, empty_tools=False)

    def _find_traits(self, options: Mapping[str, Any]) -> Traits:
        """The first way of giving a text in which it reaches the prompt, and whether a developer's does so as well."""
        ways = [
            Traits(content_parts=parts, empty_tools=empty_tools)
            for empty_tools in ((False, True) if options["tools"] is None else (False,))
            for parts in (False, True)
        ]
        message = {"role": "user", "content": _PROBE}
        for traits in ways:
            prompt = self._probe([message], traits, options)
            if _PROBE in prompt and "'text'" not in prompt:
                break
        else:
            traits = ways[0]
        if _DEVELOPER_ROLE.search(self.source):
            with_role = replace(traits, developer=True)
            developer = {"role": "developer", "content": _PROBE}
            if _PROBE in self._probe([developer, {"role": "user", "content": "?"}], with_role, options):
                return with_role
        return traits

    def _find_call_traits(self, traits: Traits, options: Mapping[str, Any]) -> Traits:
        """The first way of giving a past tool call in which its name, its arguments as JSON, and its result reach the
        prompt."""
        function = {"name": "probe_name", "arguments": f'{{"probe_key": "{_PROBE}"}}'}
        call = {"id": "call_probe0001", "type": "function", "function": function}
        messages: list[Message] = [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": _PROBE_RESULT, "tool_call_id": "call_probe0001"},
        ]
        ways = [
            replace(traits, argument_objects=objects, null_content=null_content, short_ids=short_ids)
            for short_ids in (False, True)
            for null_content in (False, True)
            for objects in (True, False)
        ]
        ways += [replace(traits, calls_as_text=True, results_as_user=as_user) for as_user in (False, True)]
        for way in ways:
            prompt = self._probe(messages, way, options)
            garbled = "'probe_key'" in prompt or '\\"probe_key' in prompt
            if all(part in prompt for part in ("probe_name", _PROBE, _PROBE_RESULT)) and not garbled:
                return way
        raise InvalidRequest(
            "The model's chat template has no place for tool calls of the assistant.", param="messages"
        )

    def _probe(self, messages: Sequence[Message], traits: Traits, options: Mapping[str, Any]) -> str:
        """The prompt, or nothing if there is none."""
        try:
            return self._run(messages, traits, {**options, "add_generation_prompt": False})
        except RenderFailed as failure:
            if failure.ran_away:
                raise
            return ""


def _refusal(failure: RenderFailed) -> InvalidRequest:
    if failure.refused:
        return InvalidRequest(
            f"The model's chat template refuses these messages: {failure}", param="messages"
        )
    return InvalidRequest(f"The model's chat template failed: {str(failure).rstrip('.')}.", param="messages")


def _read_sources(folder: Path) -> dict[str, str]:
    """Templates by name: from chat_template.jinja, else from the JSON files that may hold one or several."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        if path.stat().st_size > MAX_TEMPLATE_BYTES:
            raise ModelCorrupt("chat_template.jinja is larger than 1 MiB.")
        try:
            return {"default": path.read_text(encoding="utf-8")}
        except (OSError, UnicodeDecodeError):
            raise ModelCorrupt("chat_template.jinja cannot be read as UTF-8 text.") from None
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            found = read_json_object(folder / name).get("chat_template")
            sources = _named_sources(found, name)
            if sources:
                return sources
    return {}


def _named_sources(found: Any, file_name: str) -> dict[str, str]:
    if found is None:
        return {}
    if isinstance(found, str):
        return {"default": found}
    if isinstance(found, dict):
        found = [{"name": name, "template": source} for name, source in found.items()]
    sources: dict[str, str] = {}
    for entry in found if isinstance(found, list) else [None]:
        name, source = (entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(source, str):
            raise ModelCorrupt(
                f"{file_name} has a chat_template that is neither a text nor a list of named texts."
            )
        sources[name] = source
    return sources
