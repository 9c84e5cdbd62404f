"""OutputDeltas to text_completion chunks, exactly in OpenAI's shape.

Choices of several prompts are numbered through: prompt p's choice c is p * n + c.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from basemlx.engine.openai.check import AnswerCheck
from basemlx.engine.openai.chunks import Chunk, Identity, usage_dict
from basemlx.engine.openai.logprobs import completion_logprobs, without_stop
from basemlx.engine.text.tokenizer import Tokenizer
from basemlx.engine.types import OutputDelta, TokenLogprob, Usage


@dataclass(slots=True)
class _Choice:
    pending_text: str = ""
    offset: int = 0
    generated: list[str] = field(default_factory=list)  # kept only where it is checked at the end
    logprobs: list[TokenLogprob] = field(default_factory=list)  # of tokens whose text has not been sent yet


class CompletionChunks:
    """A ChunkMaker for one completion request. `echoes` are the texts to repeat before the output, one a prompt."""

    def __init__(
        self,
        identity: Identity,
        tokenizer: Tokenizer,
        *,
        num_choices: int,
        echoes: Sequence[str] | None,
        include_usage: bool,
        check: AnswerCheck | None = None,
    ) -> None:
        self.include_usage = include_usage
        self.blocks_at_end = check is not None
        self._check = check
        self._identity = identity
        self._tokenizer = tokenizer
        self._num_choices = num_choices
        self._echoes = echoes
        self._choices: dict[int, _Choice] = {}

    def push(self, prompt_index: int, delta: OutputDelta) -> list[Chunk]:
        index = prompt_index * self._num_choices + delta.index
        choice = self._choices.get(index)
        if choice is None:
            echo = self._echoes[prompt_index] if self._echoes is not None else ""
            choice = self._choices[index] = _Choice(pending_text=echo)
        choice.pending_text += delta.text
        if self._check is not None:
            choice.generated.append(delta.text)
        choice.logprobs += delta.logprobs
        if isinstance(delta.stop_reason, str):
            choice.logprobs = without_stop(self._tokenizer, choice.logprobs, delta.stop_reason, delta.text)
        if not choice.pending_text and delta.finish_reason is None:
            return []
        text, choice.pending_text = choice.pending_text, ""
        logprobs = None
        if choice.logprobs:
            logprobs = completion_logprobs(self._tokenizer, choice.logprobs, choice.offset)
            choice.offset += sum(map(len, logprobs["tokens"]))
            choice.logprobs = []
        chunk = self._identity.chunk(
            [{"index": index, "text": text, "logprobs": logprobs, "finish_reason": delta.finish_reason}]
        )
        if self.include_usage:
            chunk["usage"] = None
        if self._check is not None and delta.finish_reason is not None:
            chunk["basemlx"] = {"validation": [self._check.outcome(index, "".join(choice.generated), ())]}
        return [chunk]

    def finish(self, usages: Sequence[Usage]) -> list[Chunk]:
        if not self.include_usage:
            return []
        return [self._identity.chunk([]) | {"usage": usage_dict(usages)}]
