"""LiteLLM's custom provider: its calls become OpenAI bodies for a Backend, what comes back becomes LiteLLM's objects.

Requests are checked and accepted before a streaming method returns, so that a refusal is raised by the call itself and
by its class (`except litellm.RateLimitError`). That is why `astreaming` is a plain function: LiteLLM calls it in a
thread, and an async generator would only be asked when LiteLLM has wrapped it. Nothing is retried here.
"""

from collections.abc import Callable, Mapping
from typing import Any

import litellm
from litellm.litellm_core_utils.llm_response_utils.convert_dict_to_response import (
    convert_to_model_response_object,
)
from litellm.types.utils import EmbeddingResponse, ModelResponse

from basemlx.engine.errors import InvalidRequest, ModelNotFound
from basemlx.engine.models.names import is_path
from basemlx.provider.backend import Backend
from basemlx.provider.body import is_several
from basemlx.provider.connect import connect
from basemlx.provider.litellm.chunks import LiteLLMStream
from basemlx.provider.litellm.errors import PROVIDER, litellm_errors
from basemlx.provider.litellm.request import chat_body, embedding_body

Connect = Callable[..., Backend]


class BaseMLXLLM(litellm.CustomLLM):
    """`on_model(model, mode)` hears of every model that has taken a request, so that it exists; `connect` finds its
    backend. A folder in place of a model's name is a model that does not exist, unless `allows_folders`."""

    def __init__(
        self,
        on_model: Callable[[str, str], None] = lambda model, mode: None,
        *,
        connect: Connect = connect,
        allows_folders: bool = False,
    ) -> None:
        super().__init__()
        self._allows_folders = allows_folders
        self._on_model = on_model
        self._connect = connect

    def completion(
        self, *, model: str, messages: list[Any], model_response: ModelResponse, **call: Any
    ) -> ModelResponse:
        with litellm_errors(model):
            backend, body = self._chat(model, messages, call)
            response = backend.chat(body)
        return self._filled(model, model_response, response)

    async def acompletion(
        self, *, model: str, messages: list[Any], model_response: ModelResponse, **call: Any
    ) -> ModelResponse:
        with litellm_errors(model):
            backend, body = self._chat(model, messages, call)
            response = await backend.achat(body)
        return self._filled(model, model_response, response)

    def streaming(self, *, model: str, messages: list[Any], **call: Any) -> LiteLLMStream:
        return self._stream(model, messages, call).started()

    def astreaming(self, *, model: str, messages: list[Any], **call: Any) -> LiteLLMStream:
        return self._stream(model, messages, call)

    def embedding(
        self, *, model: str, input: list[Any], model_response: EmbeddingResponse, **call: Any
    ) -> EmbeddingResponse:
        with litellm_errors(model):
            backend, body = self._embedding(model, input, call)
            response = backend.embeddings(body)
        return self._filled_embedding(model, model_response, response)

    async def aembedding(
        self, *, model: str, input: list[Any], model_response: EmbeddingResponse, **call: Any
    ) -> EmbeddingResponse:
        with litellm_errors(model):
            backend, body = self._embedding(model, input, call)
            response = await backend.aembeddings(body)
        return self._filled_embedding(model, model_response, response)

    def _stream(self, model: str, messages: list[Any], call: Mapping[str, Any]) -> LiteLLMStream:
        with litellm_errors(model):
            backend, body = self._chat(model, messages, call, stream=True)
            if is_several(body.get("n")):
                raise InvalidRequest(
                    "n above 1 cannot be streamed through LiteLLM, which keeps one finish reason for all choices. "
                    "Leave out stream, or ask the server directly.",
                    param="n",
                )
            # Always asked for: LiteLLM decides itself who sees it, and else counts with another tokenizer.
            body["stream_options"] = {"include_usage": True}
            stream = backend.chat_stream(body)
        self._on_model(model, "chat")
        return LiteLLMStream(stream, model)

    def _chat(
        self, model: str, messages: list[Any], call: Mapping[str, Any], *, stream: bool = False
    ) -> tuple[Backend, dict[str, Any]]:
        params = call.get("optional_params") or {}
        body = chat_body(model, messages, params, call.get("timeout"), stream=stream)
        return self._backend(model, call), body

    def _embedding(
        self, model: str, inputs: list[Any], call: Mapping[str, Any]
    ) -> tuple[Backend, dict[str, Any]]:
        body = embedding_body(model, inputs, call.get("optional_params") or {}, call.get("timeout"))
        return self._backend(model, call), body

    def _backend(self, model: str, call: Mapping[str, Any]) -> Backend:
        if is_path(model) and not self._allows_folders:  # whether there is such a folder is nobody's business
            raise ModelNotFound(f"The model {model[:200]!r} does not exist.", param="model")
        return self._connect(
            call.get("api_base"), api_key=call.get("api_key"), headers=call.get("headers") or None
        )

    def _filled(self, model: str, model_response: ModelResponse, response: dict[str, Any]) -> ModelResponse:
        """By the function that LiteLLM's own `openai/` uses, so that fields end up in the same places."""
        self._on_model(model, "chat")  # before LiteLLM looks for its price
        made = convert_to_model_response_object(
            response_object=response, model_response_object=model_response
        )
        assert isinstance(made, ModelResponse)
        made.model = response["model"]
        return made

    def _filled_embedding(
        self, model: str, model_response: EmbeddingResponse, response: dict[str, Any]
    ) -> EmbeddingResponse:
        self._on_model(model, "embedding")
        made = convert_to_model_response_object(
            response_object=response, model_response_object=model_response, response_type="embedding"
        )
        assert isinstance(made, EmbeddingResponse)
        return made


__all__ = ["PROVIDER", "BaseMLXLLM"]
