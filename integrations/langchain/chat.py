"""ChatBaseMLX: a LangChain chat model over a Backend. What it sends and gets are OpenAI's dicts, in both transports."""

import functools
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel, LangSmithParams
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import ConfigDict, Field, model_validator

from basemlx.engine.environment import API_KEY_VARIABLE
from basemlx.engine.errors import InvalidRequest
from basemlx.integrations.langchain.messages import (
    CALLS_OF_BLOCKS,
    PROVIDER,
    CallsOfStream,
    sum_of_usage,
    to_chunk,
    to_message,
    to_openai,
)
from basemlx.integrations.langchain.names import sorted_call, sorted_in
from basemlx.integrations.langchain.parsers import ArgumentsOfCall, DictOfText, ObjectOfCall, ObjectOfText
from basemlx.integrations.langchain.place import EnginePlace
from basemlx.integrations.langchain.retry import aretried, retried
from basemlx.integrations.langchain.schemas import (
    Schema,
    Tool,
    response_format,
    tool_of,
    wire_choice,
    wire_fields,
    wire_tool,
)
from basemlx.provider.address import without_credentials
from basemlx.provider.body import is_several

_SENT = (
    "temperature",
    "top_p",
    "max_tokens",
    "seed",
    "stop",
    "logprobs",
    "top_logprobs",
    "n",
    "reasoning_effort",
    "timeout",
)


class ChatBaseMLX(EnginePlace, BaseChatModel):
    """None leaves a field out of the request, so that the model's own default holds. `model_kwargs` are further fields
    of the request; those that the engine knows (`min_p`, `top_k`, `chat_template_kwargs`, …) may be given as arguments
    just as well, and names that nobody knows are refused. `streaming` makes LangChain stream for `invoke` too, so that
    callbacks hear of every token. EnginePlace says where the model runs.
    """

    model: str
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: list[str] | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    n: int | None = None
    reasoning_effort: str | None = None
    streaming: bool = False
    model_kwargs: dict[str, Any] = Field(default_factory=dict)

    model_config = ConfigDict(populate_by_name=True, arbitrary_types_allowed=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _sort_arguments(cls, given: Any) -> Any:
        return sorted_in(given, cls.model_fields) if isinstance(given, dict) else given

    @property
    def lc_secrets(self) -> dict[str, str]:
        return {"api_key": API_KEY_VARIABLE}

    @classmethod
    def is_lc_serializable(cls) -> bool:
        return True

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        return ["basemlx", "integrations", "langchain"]

    @property
    def _llm_type(self) -> str:
        return PROVIDER

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        place = (
            {} if self.backend is None else {"backend": f"{type(self.backend).__name__} {id(self.backend)}"}
        )
        return {
            "model": self.model,
            "base_url": None if self.base_url is None else without_credentials(self.base_url),
            **place,
            **self._settings(),
            **self.model_kwargs,
        }

    def _combine_llm_outputs(self, llm_outputs: list[dict[str, Any] | None]) -> dict[str, Any]:
        told = [output for output in llm_outputs if output]
        if not told:
            return {}
        usages = [output["token_usage"] for output in told if output.get("token_usage")]
        return told[-1] | {"token_usage": functools.reduce(sum_of_usage, usages) if usages else None}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = LangSmithParams(
            ls_provider=PROVIDER, ls_model_name=kwargs.get("model", self.model), ls_model_type="chat"
        )
        temperature = kwargs.get("temperature", self.temperature)
        max_tokens = kwargs.get("max_tokens", self.max_tokens)
        if temperature is not None:
            params["ls_temperature"] = temperature
        if max_tokens is not None:
            params["ls_max_tokens"] = max_tokens
        if stop or self.stop:
            params["ls_stop"] = stop or ([self.stop] if isinstance(self.stop, str) else self.stop)
        return params

    # answers

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        body = self._body(messages, stop, kwargs)
        return _result(retried(lambda: self._backend().chat(body), self.max_retries))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        body = self._body(messages, stop, kwargs)
        return _result(await aretried(lambda: self._backend().achat(body), self.max_retries))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        body = self._streaming_body(messages, stop, kwargs)
        with retried(lambda: self._backend().chat_stream(body), self.max_retries) as stream:
            calls = CallsOfStream()
            for wire in stream:
                chunk = self._generation_chunk(wire, calls)
                if chunk is None:
                    continue
                if run_manager is not None:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        body = self._streaming_body(messages, stop, kwargs)
        async with await aretried(lambda: self._backend().achat_stream(body), self.max_retries) as stream:
            calls = CallsOfStream()
            async for wire in stream:
                chunk = self._generation_chunk(wire, calls)
                if chunk is None:
                    continue
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def _generation_chunk(self, wire: dict[str, Any], calls: CallsOfStream) -> ChatGenerationChunk | None:
        message = to_chunk(wire, CALLS_OF_BLOCKS if self.output_version == "v1" else 0)
        return None if message is None else ChatGenerationChunk(message=calls.see(message))

    # tools and structure

    def bind_tools(
        self,
        tools: Sequence[Tool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """`tool_choice`: a tool's name, "auto", "none", "required" or "any" or True (one of them), or OpenAI's dict. It
        is enforced."""
        wire = [wire_tool(tool, strict) for tool in tools]
        if tool_choice is not None and tool_choice is not False:
            kwargs["tool_choice"] = wire_choice(tool_choice, wire)
        if parallel_tool_calls is not None:
            kwargs["parallel_tool_calls"] = parallel_tool_calls
        return self.bind(tools=wire, **kwargs)

    def with_structured_output(
        self,
        schema: Schema,
        *,
        include_raw: bool = False,
        method: Literal["json_schema", "function_calling", "json_mode"] = "json_schema",
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """The answer as `schema` says: a pydantic class gives an object of it, everything else a dict.

        "json_schema" enforces the schema while the answer is made; `strict` False asks for that as far as it goes,
        instead of refusing what cannot be enforced. "json_mode" enforces JSON only: put the schema into the prompt.
        """
        is_class = isinstance(schema, type) and is_basemodel_subclass(schema)
        told = {"kwargs": {"method": method, "strict": strict}, "schema": schema}
        parser: Any
        if method == "function_calling":
            tool = tool_of(schema, strict)
            name = tool["function"]["name"]
            model = self.bind_tools([tool], tool_choice=name, ls_structured_output_format=told, **kwargs)
            if is_class:
                parser = ObjectOfCall(tools=[schema], first_tool_only=True)
            else:
                parser = ArgumentsOfCall(key_name=name, first_tool_only=True)
        elif method in ("json_schema", "json_mode"):
            form = {"type": "json_object"} if method == "json_mode" else response_format(schema, strict)
            model = self.bind(response_format=form, ls_structured_output_format=told, **kwargs)
            parser = ObjectOfText(pydantic_object=schema) if is_class else DictOfText()
        else:
            raise ValueError(f"method must be json_schema, function_calling or json_mode, not {method!r}.")
        if not include_raw:
            return model | parser
        parsed = RunnablePassthrough.assign(
            parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
        ).with_fallbacks([RunnablePassthrough.assign(parsed=lambda _: None)], exception_key="parsing_error")
        return RunnableMap(raw=model) | parsed

    # tokens, by the model's own tokenizer

    def get_token_ids(self, text: str) -> list[int]:
        if not text:  # of which the engine makes no request
            return []
        tokens: list[int] = self._backend().tokenize({"model": self.model, "prompt": text})["tokens"]
        return tokens

    def get_num_tokens_from_messages(
        self, messages: Sequence[BaseMessage], tools: Sequence[Any] | None = None, **kwargs: Any
    ) -> int:
        """What a request with these messages has as prompt, the template's own tokens included. `kwargs` are further
        fields of the request, as for `bind`: those of the model, and these, may change what the template makes."""
        if not messages:
            return 0
        body = self._body(messages, None, kwargs)
        if tools:
            body["tools"] = [wire_tool(tool) for tool in tools]
        count: int = self._backend().tokenize(body)["count"]
        return count

    # requests

    def _settings(self) -> dict[str, Any]:
        return {name: value for name in _SENT if (value := getattr(self, name)) is not None}

    def _body(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, kwargs: Mapping[str, Any]
    ) -> dict[str, Any]:
        call = sorted_call(kwargs if stop is None else {"stop": stop, **kwargs})
        body = {"model": self.model, **self._settings(), **self.model_kwargs, **call}
        return wire_fields(body) | {"messages": to_openai(messages)}

    def _streaming_body(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: Mapping[str, Any]
    ) -> dict[str, Any]:
        body = self._body(messages, stop, kwargs)
        if is_several(body.get("n")):
            raise InvalidRequest("n above 1 cannot be streamed through LangChain. Use generate.", param="n")
        return body | {"stream_options": {"include_usage": True}}


def _result(response: dict[str, Any]) -> ChatResult:
    generations = [
        ChatGeneration(
            message=to_message(choice, response),
            generation_info={"finish_reason": choice["finish_reason"], "logprobs": choice.get("logprobs")},
        )
        for choice in response["choices"]
    ]
    facts = {
        "token_usage": response.get("usage"),
        "model_name": response["model"],
        "system_fingerprint": response.get("system_fingerprint"),
    }
    return ChatResult(generations=generations, llm_output=facts)
