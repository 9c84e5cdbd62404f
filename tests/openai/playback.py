"""An engine that computes nothing: it plays back token ids through the real tokenizer, detokeniser and stop matcher.

So that what a request gets back is known exactly, and failures come at the moment a test wants them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from basemlx.engine.chat.template import ChatTemplate
from basemlx.engine.config import EngineConfig
from basemlx.engine.core.output import ChoiceOutput
from basemlx.engine.errors import BaseMLXError, InvalidRequest, ModelNotFound, QueueFull
from basemlx.engine.text.tokenizer import Tokenizer
from basemlx.engine.types import GenerationRequest, ModelInfo, OutputDelta, Timings, TokenLogprob, Usage

Script = Callable[[GenerationRequest, int], str]


@dataclass(frozen=True, eq=False)
class PlayedModel:
    tokenizer: Tokenizer
    template: ChatTemplate | None
    context_tokens: int = 256
    generation_defaults: Mapping[str, float | int] = field(default_factory=dict)

    @property
    def eos_token_ids(self) -> frozenset[int]:
        return self.tokenizer.eos_token_ids

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size + 8

    @property
    def info(self) -> ModelInfo:
        return ModelInfo("played", True, "qwen3", self.context_tokens, 1000, "4-bit", 1_700_000_000)


class PlayedStream:
    """Deltas of all choices in turn, one token each."""

    def __init__(self, engine: "PlaybackEngine", request: GenerationRequest) -> None:
        self.request = request
        self.usage = Usage(len(request.prompt_token_ids))
        self.timings: Timings | None = None
        self.prompt_progress = (len(request.prompt_token_ids), len(request.prompt_token_ids))
        self._engine = engine
        self._deltas = self._played()
        self._ended = False

    def _played(self) -> Iterator[OutputDelta]:
        request, tokenizer = self.request, self._engine.model.tokenizer
        sampling = request.sampling
        ends = tokenizer.eos_token_ids
        rows: dict[int, tuple[ChoiceOutput, list[int]]] = {}
        for index in range(sampling.n):
            detokenizer = tokenizer.detokenizer(skip_special_tokens=request.skip_special_tokens)
            token_ids = tokenizer.encode(self._engine.script(request, index)) + sorted(ends)[:1]
            most = sampling.max_tokens or 10_000
            rows[index] = ChoiceOutput(index, detokenizer, sampling, ends, most), token_ids
        num_tokens = 0
        while rows:
            for index, (output, token_ids) in list(rows.items()):
                if self._engine.error is not None and num_tokens >= self._engine.error_after:
                    raise self._engine.error
                token_id = token_ids.pop(0)
                num_tokens += 1
                self.usage = Usage(len(request.prompt_token_ids), num_tokens, 1)
                top = tuple((token_id + i, -0.5 - i) for i in range(sampling.top_logprobs))
                delta = output.push(
                    token_id, TokenLogprob(token_id, -0.5, top) if sampling.logprobs else None
                )
                if delta.finish_reason is not None:
                    del rows[index]
                yield delta

    def __next__(self) -> OutputDelta:
        try:
            return next(self._deltas)
        except BaseException:
            self._ended = True
            self._engine.open.discard(self.request.request_id)
            raise

    async def __anext__(self) -> OutputDelta:
        try:
            return self.__next__()
        except StopIteration:
            raise StopAsyncIteration from None

    def abort(self) -> None:
        if not self._ended:
            self._ended = True
            self._engine.open.discard(self.request.request_id)
            self._engine.aborted.append(self.request.request_id)

    def __del__(self) -> None:
        self.abort()


class PlaybackEngine:
    """`script(request, choice)` is what a choice says. `error` is raised after `error_after` tokens of a stream."""

    def __init__(self, model: PlayedModel, script: Script) -> None:
        self.config = EngineConfig()
        self.model = model
        self.script = script
        self.error: BaseMLXError | None = None
        self.error_after = 0
        self.capacity = 100
        self.requests: list[GenerationRequest] = []
        self.open: set[str] = set()
        self.aborted: list[str] = []

    def loaded(self, name: object) -> PlayedModel:
        if name != "played":
            raise ModelNotFound(f"no {name}", param="model")
        return self.model

    def models(self) -> list[ModelInfo]:
        return [self.model.info]

    def submit(self, request: GenerationRequest, held: object = None) -> PlayedStream:
        if len(self.open) >= self.capacity:
            raise QueueFull("full", retry_after_s=1)
        if request.request_id in self.open:
            raise InvalidRequest("running already", param="request_id")
        self.requests.append(request)
        self.open.add(request.request_id)
        return PlayedStream(self, request)


def chat_body(**fields: Any) -> dict[str, Any]:
    return {"model": "played", "messages": [{"role": "user", "content": "Hi"}], **fields}
