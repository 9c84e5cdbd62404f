"""OpenAI requests against an engine: validate, render, encode, submit. What comes back is a Turn.

Everything here is CPU work of milliseconds and blocks: call it off the event loop. Bounds come before work: a text of
megabytes is refused after reading as much of it as the model's context could hold. Knows no HTTP.
"""

import secrets
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from basemlx.engine.chat.reasoning import State, reasoning_state
from basemlx.engine.chat.template import ChatTemplate
from basemlx.engine.config import EngineConfig
from basemlx.engine.core.constraint import Constraint
from basemlx.engine.errors import ContextLengthExceeded, InvalidRequest, ModelNotFound
from basemlx.engine.models.keeper import ModelLease
from basemlx.engine.openai.chat import ChatChunks
from basemlx.engine.openai.chat_request import ChatRequest, chat_request
from basemlx.engine.openai.check import AnswerCheck
from basemlx.engine.openai.chunks import Identity, fingerprint
from basemlx.engine.openai.completion_request import CompletionRequest, Prompt, completion_request
from basemlx.engine.openai.completions import CompletionChunks
from basemlx.engine.openai.conduct import Conduct, Conducts
from basemlx.engine.openai.constraint import check_of, check_schemas, compile_answer, plan_turn
from basemlx.engine.openai.embeddings import EmbeddingEngine, EmbeddingsTurn, submit_embeddings
from basemlx.engine.openai.embeddings_request import EmbeddingsRequest, embeddings_request
from basemlx.engine.openai.fold import ChatFold, CompletionFold
from basemlx.engine.openai.parameters import RequestOptions
from basemlx.engine.openai.turn import DeltaStream, Turn
from basemlx.engine.text.tokenizer import Tokenizer
from basemlx.engine.types import GenerationRequest, ModelInfo, SamplingParams

LONG_TEXT_CHARACTERS_PER_TOKEN = 6
"""A text with more characters than this for each token of the context is likely too long, and is counted first."""


class Loaded(Protocol):
    """A model in memory, as far as it is used here."""

    @property
    def info(self) -> ModelInfo: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def template(self) -> ChatTemplate | None: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def context_tokens(self) -> int: ...
    @property
    def eos_token_ids(self) -> Collection[int]: ...
    @property
    def generation_defaults(self) -> Mapping[str, float | int]: ...


class EngineLike(EmbeddingEngine, Protocol):
    """The engine, as far as it is used here."""

    @property
    def config(self) -> EngineConfig: ...

    def loaded(self, model: str | ModelLease) -> Loaded: ...
    def models(self) -> Sequence[ModelInfo]: ...
    def submit(self, request: GenerationRequest, held: ModelLease | None = None) -> DeltaStream: ...


class OpenAIService:
    """Safe to use from any thread. Raises BaseMLXError. A request may set itself a shorter deadline than the engine's,
    not a longer one. `on_checked` is told of each answer that was validated after generation whether it was valid;
    `tool_formats` go before those of the engine's configuration.

    Each kind of request has a `read_…`, which checks all of a body that can be checked without its model, and a method
    that submits what was read, or reads a body itself; whoever waits for models in another way than by blocking does
    that in between, and passes on what he then has `held`.
    """

    def __init__(
        self,
        engine: EngineLike,
        *,
        on_checked: Callable[[bool], None] | None = None,
        tool_formats: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._on_checked = on_checked
        self._clock = clock
        self._conducts = Conducts({**engine.config.tool_formats, **(tool_formats or {})})

    def read_chat(self, body: Mapping[str, Any]) -> ChatRequest:
        request = chat_request(body)
        self._check_limits(request.options)
        check_schemas(request)
        return request

    def read_completion(self, body: Mapping[str, Any]) -> CompletionRequest:
        request = completion_request(body)
        self._check_limits(request.options)
        check_schemas(request)
        choices, most = len(request.prompts) * request.options.sampling.n, self._engine.config.max_open
        if choices > most:  # waiting would not help
            raise InvalidRequest(
                f"prompt asks for {choices} choices (prompts times n), and at most {most} are taken at once. Send "
                "several requests.",
                param="prompt",
            )
        return request

    def read_embeddings(self, body: Mapping[str, Any]) -> EmbeddingsRequest:
        request = embeddings_request(body)
        self._check_timeout(request.timeout_s)
        return request

    def read_tokenize(self, body: Mapping[str, Any]) -> ChatRequest | CompletionRequest:
        if body.get("messages") is not None:
            return chat_request(body)
        request = completion_request(body)
        if len(request.prompts) != 1:
            raise InvalidRequest("prompt must be one text here, not several.", param="prompt")
        return request

    def chat(
        self,
        asked: Mapping[str, Any] | ChatRequest,
        *,
        request_id: str | None = None,
        cancelled: threading.Event | None = None,
        held: ModelLease | None = None,
    ) -> Turn:
        """Submits a chat completion. `request_id` is what the engine logs; by default the response's own id. Setting
        `cancelled` ends what may take long meanwhile: RequestAborted is raised then."""
        cancelled = cancelled or threading.Event()
        request = asked if isinstance(asked, ChatRequest) else self.read_chat(asked)
        options = request.options
        loaded = self._engine.loaded(held or options.model)
        conduct = self._conducts.of(loaded)
        prompt, state = _render(request, loaded, conduct)
        add_special_tokens = bool(options.add_special_tokens)  # templates bring their own
        token_ids = tuple(loaded.tokenizer.encode(prompt, add_special_tokens=add_special_tokens))
        response_id = f"chatcmpl-{uuid.uuid4().hex}"
        sampling = _checked_sampling(options, loaded)
        _check_room(token_ids, options, loaded, "messages")
        plan = plan_turn(request, conduct, state, cancelled)
        request_id = request_id or response_id
        options = replace(
            options, skip_special_tokens=options.skip_special_tokens and not conduct.hides_markers
        )
        streams = self._submit([token_ids], sampling, options, request_id, plan.constraint, held)
        maker = ChatChunks(
            self._identity(response_id, "chat.completion.chunk", loaded),
            loaded.tokenizer,
            plan.parser,
            include_usage=options.include_usage,
            check=self._observed(plan.check),
        )
        return Turn(
            request_id,
            streams,
            maker,
            ChatFold(),
            stream=options.stream,
            ignored=options.ignored,
            cancelled=cancelled,
        )

    def completion(
        self,
        asked: Mapping[str, Any] | CompletionRequest,
        *,
        request_id: str | None = None,
        cancelled: threading.Event | None = None,
        held: ModelLease | None = None,
    ) -> Turn:
        """Submits a text completion, one request of the engine for each prompt. `cancelled` as with `chat`."""
        cancelled = cancelled or threading.Event()
        request = asked if isinstance(asked, CompletionRequest) else self.read_completion(asked)
        options = request.options
        loaded = self._engine.loaded(held or options.model)
        sampling = _checked_sampling(options, loaded)
        prompts = [
            _encode_prompt(
                prompt, options, loaded, "prompt" if len(request.prompts) == 1 else f"prompt[{index}]"
            )
            for index, prompt in enumerate(request.prompts)
        ]
        for token_ids in prompts:
            _check_room(token_ids, options, loaded, "prompt")
        constraint, check = None, None
        if request.answer is not None:
            compiler = self._conducts.of(loaded).compiler
            constraint = compile_answer(request.answer, compiler, cancelled)
            check = check_of(request.answer, constraint, compiler, cancelled)
        echoes = [_text_of(prompt, loaded) for prompt in request.prompts] if request.echo else None
        response_id = f"cmpl-{uuid.uuid4().hex}"
        request_id = request_id or response_id
        streams = self._submit(prompts, sampling, options, request_id, constraint, held)
        maker = CompletionChunks(
            self._identity(response_id, "text_completion", loaded),
            loaded.tokenizer,
            num_choices=sampling.n,
            echoes=echoes,
            include_usage=options.include_usage,
            check=self._observed(check),
        )
        return Turn(
            request_id,
            streams,
            maker,
            CompletionFold(),
            stream=options.stream,
            ignored=options.ignored,
            cancelled=cancelled,
        )

    def embeddings(
        self,
        asked: Mapping[str, Any] | EmbeddingsRequest,
        *,
        request_id: str | None = None,
        held: ModelLease | None = None,
    ) -> EmbeddingsTurn:
        """Submits inputs to be embedded."""
        request = asked if isinstance(asked, EmbeddingsRequest) else self.read_embeddings(asked)
        return submit_embeddings(self._engine, request, request_id=request_id, held=held)

    def tokenize(
        self, asked: Mapping[str, Any] | ChatRequest | CompletionRequest, *, held: ModelLease | None = None
    ) -> dict[str, Any]:
        """The tokens of the prompt that `chat` (a body with `messages`) or `completion` (with one `prompt`) would make,
        as vLLM's /tokenize answers. Nothing is generated."""
        request = asked if isinstance(asked, ChatRequest | CompletionRequest) else self.read_tokenize(asked)
        options, loaded = request.options, self._engine.loaded(held or request.model)
        if isinstance(request, ChatRequest):
            text, _ = _render(request, loaded, self._conducts.of(loaded))
            token_ids = tuple(
                loaded.tokenizer.encode(text, add_special_tokens=bool(options.add_special_tokens))
            )
        else:
            token_ids = _encode_prompt(request.prompts[0], options, loaded, "prompt")
        return {"count": len(token_ids), "max_model_len": loaded.context_tokens, "tokens": list(token_ids)}

    def models(self) -> dict[str, Any]:
        return {"object": "list", "data": [_model_entry(info) for info in self._engine.models()]}

    def model(self, name: str) -> dict[str, Any]:
        """One entry of `models`. Raises ModelNotFound."""
        for info in self._engine.models():
            if info.name == name or name in info.aliases:
                return _model_entry(info)
        raise ModelNotFound(f"The model {name[:200]!r} does not exist. See /v1/models.", param="model")

    def _submit(
        self,
        prompts: Sequence[tuple[int, ...]],
        sampling: SamplingParams,
        options: RequestOptions,
        request_id: str,
        constraint: Constraint | None,
        held: ModelLease | None,
    ) -> list[DeltaStream]:
        """One stream a prompt, or none at all."""
        streams: list[DeltaStream] = []
        try:
            for index, token_ids in enumerate(prompts):
                request = GenerationRequest(
                    request_id=request_id if len(prompts) == 1 else f"{request_id}-{index}",
                    model=options.model,
                    prompt_token_ids=token_ids,
                    sampling=sampling,
                    timeout_s=options.timeout_s,
                    priority=options.priority,
                    cache_salt=options.cache_salt,
                    skip_special_tokens=options.skip_special_tokens,
                    constraint=constraint,
                )
                streams.append(self._submit_one(request, held))
        except BaseException:
            for stream in streams:
                stream.abort()
            raise
        return streams

    def _submit_one(self, request: GenerationRequest, held: ModelLease | None) -> DeltaStream:
        """Clients choose request ids and send them again when they retry; the engine wants each once at a time."""
        try:
            return self._engine.submit(request, held)
        except InvalidRequest as error:
            if error.param != "request_id":
                raise
        return self._engine.submit(
            replace(request, request_id=f"{request.request_id}-{secrets.token_hex(4)}"), held
        )

    def _check_limits(self, options: RequestOptions) -> None:
        self._check_timeout(options.timeout_s)
        if options.sampling.n > self._engine.config.max_num_sequences:
            raise InvalidRequest(
                f"n must be at most {self._engine.config.max_num_sequences} here.", param="n"
            )

    def _check_timeout(self, timeout_s: float | None) -> None:
        most_s = self._engine.config.request_timeout_s
        if timeout_s is not None and timeout_s > most_s:
            raise InvalidRequest(f"timeout must be at most {most_s:g} seconds here.", param="timeout")

    def _observed(self, check: AnswerCheck | None) -> AnswerCheck | None:
        return None if check is None else replace(check, observe=self._on_checked)

    def _identity(self, response_id: str, object_name: str, loaded: Loaded) -> Identity:
        return Identity(
            response_id, object_name, int(self._clock()), loaded.info.name, fingerprint(loaded.info)
        )


def _render(request: ChatRequest, loaded: Loaded, conduct: Conduct) -> tuple[str, State]:
    """The prompt, and where it leaves reasoning."""
    if loaded.template is None:
        raise InvalidRequest(
            f"The model {loaded.info.name!r} has no chat template, so it cannot chat; /v1/completions works.",
            param="model",
        )
    _check_length([_text_in(message) for message in request.messages], loaded, "messages")
    prompt = loaded.template.render(
        request.messages,
        tools=request.tool_use.offered,
        add_generation_prompt=request.add_generation_prompt,
        continue_final_message=request.continue_final_message,
        **request.template_kwargs,
    )
    if not prompt:
        raise InvalidRequest(
            "The model's chat template made an empty prompt of these messages.", param="messages"
        )
    _check_length([prompt], loaded, "messages")
    continued = request.messages[-1]["content"] if request.continue_final_message else ""
    return prompt, reasoning_state(prompt, conduct.read_style, continued=continued)


def _text_in(message: Mapping[str, Any]) -> str:
    """What a template surely puts into the prompt; of reasoning, many do not."""
    functions = [call["function"] for call in message.get("tool_calls", ())]
    calls = [text for function in functions for text in (function["name"], function["arguments"])]
    return "\n".join([message["content"] or "", *calls])


def _encode_prompt(prompt: Prompt, options: RequestOptions, loaded: Loaded, path: str) -> tuple[int, ...]:
    if not isinstance(prompt, str):
        if max(prompt) >= loaded.vocab_size:
            raise InvalidRequest(f"The token ids of {path} must be below {loaded.vocab_size}.", param=path)
        return prompt
    _check_length([prompt], loaded, path)
    add_special_tokens = options.add_special_tokens is not False
    return tuple(loaded.tokenizer.encode(prompt, add_special_tokens=add_special_tokens))


def _text_of(prompt: Prompt, loaded: Loaded) -> str:
    return prompt if isinstance(prompt, str) else loaded.tokenizer.decode(prompt)


def _checked_sampling(options: RequestOptions, loaded: Loaded) -> SamplingParams:
    """With the model's defaults, and token ids that the model has."""
    sampling = options.sampling_for(loaded.generation_defaults)
    for name, token_ids in (("logit_bias", sampling.logit_bias), ("stop_token_ids", sampling.stop_token_ids)):
        if any(token_id >= loaded.vocab_size for token_id in token_ids):
            raise InvalidRequest(f"The token ids of {name} must be below {loaded.vocab_size}.", param=name)
    return sampling


def _check_length(texts: Sequence[str], loaded: Loaded, path: str) -> None:
    """Refuses early what is surely too long, without encoding all of it."""
    if sum(map(len, texts)) <= LONG_TEXT_CHARACTERS_PER_TOKEN * loaded.context_tokens:
        return
    if loaded.tokenizer.is_longer_than(texts, loaded.context_tokens):
        raise ContextLengthExceeded(
            f"This model's maximum context length is {loaded.context_tokens} tokens, and {path} alone has more. "
            "Shorten it.",
            param=path,
        )


def _check_room(token_ids: Sequence[int], options: RequestOptions, loaded: Loaded, path: str) -> None:
    """Prompt and answer have to fit; without max_tokens the answer may take what is left, at least one token."""
    if not token_ids:
        raise InvalidRequest("The prompt has no tokens.", param=path)
    room = loaded.context_tokens - len(token_ids)
    wanted = options.sampling.max_tokens
    if room >= (wanted or 1):
        return
    asked = "" if wanted is None else f" and {wanted} more are asked for"
    raise ContextLengthExceeded(
        f"This model's maximum context length is {loaded.context_tokens} tokens, but {path} has {len(token_ids)}"
        f"{asked}. Shorten it or ask for fewer tokens.",
        param=path if room < 1 else options.max_tokens_name,
    )


def _model_entry(info: ModelInfo) -> dict[str, Any]:
    return {
        "id": info.name,
        "object": "model",
        "created": info.created_s,
        "owned_by": "basemlx",
        "loaded": info.loaded,
        "context_length": info.context_tokens,
        "size_bytes": info.size_bytes,
        "quantization": info.quantization,
        "model_type": info.model_type,
        "source": info.source,
        "capabilities": list(info.capabilities),
        "aliases": list(info.aliases),
        **(_residence(info) if info.state else {}),
    }


def _residence(info: ModelInfo) -> dict[str, Any]:
    """Of models that are in memory, or on their way in or out."""
    return {
        "state": info.state,
        "memory_bytes": info.memory_bytes,
        "users": info.users,
        "pinned": info.pinned,
        "expires_in_s": None if info.expires_in_s is None else round(info.expires_in_s, 1),
    }
