"""LangChain's own suites (langchain-tests) in both transports: for ChatBaseMLX on the built-in model, for
BaseMLXEmbeddings on a small random encoder, since a model that chats is refused embeddings (docs/embeddings.md).
"""

from typing import Any

import pytest

pytest.importorskip("langchain_tests", reason="the extra integrations is not installed")

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_tests.integration_tests import ChatModelIntegrationTests, EmbeddingsIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests, EmbeddingsUnitTests

from basemlx.integrations.langchain import BaseMLXEmbeddings, ChatBaseMLX
from tests.transports import VECTORS

MODEL = "tiny"
ADDRESS = "http://127.0.0.1:11435/v1"


class _Placed:
    """`where` are the arguments by which a class finds its engine: here, or by a server's address."""

    is_local = True
    where: dict[str, Any] = {}  # noqa: RUF012 - set once the fixtures are there

    @pytest.fixture(autouse=True)
    def _place(self, request: pytest.FixtureRequest) -> None:
        if self.is_local:
            type(self).where = {"backend": request.getfixturevalue("local")}
        else:
            type(self).where = {"base_url": request.getfixturevalue("api_base")}


@pytest.mark.benchmark(max_time=0.05, min_rounds=1, calibration_precision=1)
class TestChatBaseMLXUnit(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[ChatBaseMLX]:
        return ChatBaseMLX

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": MODEL}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"BASEMLX_API_BASE": ADDRESS}, {"model": MODEL}, {"base_url": ADDRESS}

    @pytest.mark.xfail(
        reason="it loads with allowed_objects='all', by which LangChain means a list of its own partners; "
        "test_langchain.py loads with the class named"
    )
    def test_serdes(self, model: ChatBaseMLX, snapshot: Any) -> None:
        super().test_serdes(model, snapshot)


class _Chat(_Placed, ChatModelIntegrationTests):
    """Greedy, so that what passes once passes always; short, as nobody reads the answers."""

    @property
    def chat_model_class(self) -> type[ChatBaseMLX]:
        return ChatBaseMLX

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": MODEL, "temperature": 0, "max_tokens": 64, **type(self).where}

    @property
    def model_override_value(self) -> str:
        return MODEL

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def has_tool_choice(self) -> bool:
        return True

    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "json_schema"}

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    # What follows is what the suite skips. The engine takes text only and refuses a part of another kind by name, which
    # test_langchain.py shows; VCR records the HTTP of a hosted service, and here there is none.
    supports_image_inputs = supports_image_urls = supports_image_tool_message = False
    supports_pdf_inputs = supports_pdf_tool_message = False
    supports_audio_inputs = supports_video_inputs = False
    enable_vcr_tests = False

    @property
    def supported_usage_metadata_details(self) -> dict[str, list[str]]:
        """Not cache_creation_input: every prompt is cached, and nobody pays for it."""
        return {way: ["reasoning_output", "cache_read_input"] for way in ("invoke", "stream")}

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        """The suite would take 0 for an answer."""
        question = "The quick brown fox jumps over the lazy dog. What does the fox do?"
        self._answered(question, stream)
        message = self._answered(question, stream)
        assert message.usage_metadata is not None
        details = message.usage_metadata["input_token_details"]
        assert 0 < details["cache_read"] < message.usage_metadata["input_tokens"]
        return message

    def invoke_with_reasoning_output(self, *, stream: bool = False) -> AIMessage:
        message = self._answered("What is 2 + 3?", stream, chat_template_kwargs={"enable_thinking": True})
        assert message.usage_metadata is not None
        details = message.usage_metadata["output_token_details"]
        assert 0 < details["reasoning"] <= message.usage_metadata["output_tokens"]
        assert message.additional_kwargs["reasoning_content"]
        return message

    def _answered(self, question: str, stream: bool, **fields: Any) -> AIMessage:
        model = self.chat_model_class(**self.chat_model_params).bind(**fields)
        if not stream:
            return model.invoke(question)
        first, *rest = list(model.stream(question))
        assert isinstance(first, AIMessageChunk)
        return add_ai_message_chunks(first, *rest)


class TestLocal(_Chat):
    pass


@pytest.mark.slow
class TestHttp(_Chat):
    is_local = False


class TestBaseMLXEmbeddingsUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self) -> type[BaseMLXEmbeddings]:
        return BaseMLXEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": VECTORS}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"BASEMLX_API_BASE": ADDRESS}, {"model": VECTORS}, {"base_url": ADDRESS}


@pytest.mark.usefixtures("vectors")
class _Embeddings(_Placed, EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self) -> type[BaseMLXEmbeddings]:
        return BaseMLXEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": VECTORS, **type(self).where}


class TestEmbeddingsLocal(_Embeddings):
    pass


class TestEmbeddingsHttp(_Embeddings):
    is_local = False


del _Chat, _Embeddings
