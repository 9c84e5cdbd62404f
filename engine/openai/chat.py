"""OutputDeltas to chat.completion.chunk objects, exactly in OpenAI's shape.

For each choice: a first chunk with the role, one for every piece of text or of a tool call, a last one with the finish
reason. Reasoning goes into `reasoning_content`, and into `reasoning`, as half of the clients read the one and half the
other. A choice that stopped finishes with `tool_calls` if there are calls and all of them are whole: what is announced
as calls can be carried out. One that a stop string cut within a call finishes with `stop`, whatever calls came before,
and what was sent of it stays. One that its limit cut keeps `length`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from basemlx.engine.chat.parser import (
    Event,
    OutputParser,
    TextPart,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from basemlx.engine.openai.check import AnswerCheck
from basemlx.engine.openai.chunks import Chunk, Identity, usage_dict
from basemlx.engine.openai.logprobs import chat_logprobs, without_stop
from basemlx.engine.text.tokenizer import Tokenizer
from basemlx.engine.types import OutputDelta, TokenLogprob, Usage


@dataclass(slots=True)
class _Choice:
    parser: OutputParser
    has_role: bool = False
    content: list[str] = field(default_factory=list)  # kept only where it is checked at the end
    calls: list[tuple[str, list[str]]] = field(default_factory=list)  # function, pieces of its arguments
    is_cut: bool = False  # within a call
    logprobs: list[TokenLogprob] = field(default_factory=list)  # of tokens whose text has not been sent yet


class ChatChunks:
    """A ChunkMaker for one chat request. `make_parser` gives each choice its own parser. The outcome of a `check` comes
    with the finish reason, in the chunk's `basemlx` object."""

    def __init__(
        self,
        identity: Identity,
        tokenizer: Tokenizer,
        make_parser: Callable[[], OutputParser],
        *,
        include_usage: bool,
        check: AnswerCheck | None = None,
    ) -> None:
        self.include_usage = include_usage
        self.blocks_at_end = check is not None
        self._check = check
        self._identity = identity
        self._tokenizer = tokenizer
        self._make_parser = make_parser
        self._choices: dict[int, _Choice] = {}
        self._num_reasoning_tokens = 0

    def push(self, prompt_index: int, delta: OutputDelta) -> list[Chunk]:
        choice = self._choices.get(delta.index)
        if choice is None:
            choice = self._choices[delta.index] = _Choice(self._make_parser())
        chunks = []
        if not choice.has_role:
            choice.has_role = True
            chunks.append(self._chunk(delta.index, {"role": "assistant", "content": ""}))
        was_reasoning = choice.parser.in_reasoning
        events = list(choice.parser.push(delta.text))
        if was_reasoning or choice.parser.in_reasoning:
            self._num_reasoning_tokens += len(delta.token_ids)
        else:
            choice.logprobs += delta.logprobs
            if isinstance(delta.stop_reason, str):
                choice.logprobs = without_stop(
                    self._tokenizer, choice.logprobs, delta.stop_reason, delta.text
                )
        if delta.finish_reason is not None:
            events += choice.parser.finish()
        chunks += [
            self._chunk(delta.index, part, self._take_logprobs(choice) if self._is_answer(event) else None)
            for event in events
            if (part := self._delta_of(event)) is not None
        ]
        self._remember(choice, events)
        if delta.finish_reason is not None:
            has_calls = bool(choice.calls) and not choice.is_cut
            reason = "tool_calls" if has_calls and delta.finish_reason == "stop" else delta.finish_reason
            chunks.append(self._chunk(delta.index, {}, self._take_logprobs(choice), reason))
            if self._check is not None:
                calls = [(name, "".join(pieces)) for name, pieces in choice.calls]
                outcome = self._check.outcome(delta.index, "".join(choice.content), calls)
                chunks[-1]["basemlx"] = {"validation": [outcome]}
        return chunks

    def _remember(self, choice: _Choice, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case ToolCallStart(name=name):
                    choice.calls.append((name, []))
                case ToolCallEnd(is_complete=False):
                    choice.is_cut = True
                case ToolCallArguments(text=text) if self._check is not None:
                    choice.calls[-1][1].append(text)
                case TextPart(kind="content", text=text) if self._check is not None:
                    choice.content.append(text)

    @staticmethod
    def _is_answer(event: Event) -> bool:
        """Log-probabilities are told with the answer's own text."""
        return not isinstance(event, TextPart) or event.kind == "content"

    @staticmethod
    def _delta_of(event: Event) -> dict[str, Any] | None:
        """An event as a message's delta; None for what has no place in one."""
        match event:
            case TextPart(kind="content", text=text):
                return {"content": text}
            case TextPart(text=text):
                return {"reasoning_content": text, "reasoning": text}
            case ToolCallStart(index=index, id=call_id, name=name):
                function = {"name": name, "arguments": ""}
                return {
                    "tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]
                }
            case ToolCallArguments(index=index, text=text):
                return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
        return None

    def finish(self, usages: Sequence[Usage]) -> list[Chunk]:
        if not self.include_usage:
            return []
        return [self._identity.chunk([]) | {"usage": usage_dict(usages, self._num_reasoning_tokens)}]

    def _take_logprobs(self, choice: _Choice) -> Chunk | None:
        if not choice.logprobs:
            return None
        taken, choice.logprobs = choice.logprobs, []
        return chat_logprobs(self._tokenizer, taken)

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: Chunk | None = None,
        finish_reason: str | None = None,
    ) -> Chunk:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        chunk = self._identity.chunk([choice])
        if self.include_usage:
            chunk["usage"] = None
        return chunk
