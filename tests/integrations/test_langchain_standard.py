"""LangChain's own suites (langchain-tests) for ChatBaseMLX on the built-in model, in both transports."""

from typing import Any

import pytest

pytest.importorskip("langchain_tests", reason="the extra integrations is not installed")

from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from basemlx.integrations.langchain import ChatBaseMLX

MODEL = "tiny"


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
        address = "http://127.0.0.1:11435/v1"
        return {"BASEMLX_API_BASE": address}, {"model": MODEL}, {"base_url": address}

    @pytest.mark.xfail(
        reason="it loads with allowed_objects='all', by which LangChain means a list of its own partners; "
        "test_langchain.py loads with the class named"
    )
    def test_serdes(self, model: ChatBaseMLX, snapshot: Any) -> None:
        super().test_serdes(model, snapshot)


class _Standard(ChatModelIntegrationTests):
    """Greedy, so that what passes once passes always; short, as nobody reads the answers."""

    @pytest.fixture(autouse=True)
    def _transport(self, request: pytest.FixtureRequest) -> None:
        type(self).backend = request.getfixturevalue(self.fixture)

    fixture = ""
    backend: Any = None

    @property
    def chat_model_class(self) -> type[ChatBaseMLX]:
        return ChatBaseMLX

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": MODEL, "backend": type(self).backend, "temperature": 0, "max_tokens": 64}

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
    def supported_usage_metadata_details(self) -> dict[str, list[str]]:
        return {"invoke": ["reasoning_output", "cache_read_input"], "stream": []}

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> Any:
        model = self.chat_model_class(**self.chat_model_params)
        messages = [("user", "The quick brown fox jumps over the lazy dog. What does the fox do?")]
        model.invoke(messages)
        return model.invoke(messages)

    def invoke_with_reasoning_output(self, *, stream: bool = False) -> Any:
        return self.chat_model_class(**self.chat_model_params).invoke("Hi")


class TestLocal(_Standard):
    fixture = "shared_local"


@pytest.mark.slow
class TestHttp(_Standard):
    fixture = "shared_http"


del _Standard
