"""The LiteLLM proxy itself, as its own process, with the config that is shipped: it answers with an engine of its own,
or at a server that the environment names. Its packages have an environment of their own: `make test-agents`.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.weather import MODEL, QUESTION, WIRE_TOOL, Weather, weather
from tests.serving import LOOPBACK, wait_until

CONFIG = Path(__file__).parents[2] / "examples" / "litellm_proxy.yaml"
EXECUTABLE = Path(sys.executable).with_name("litellm")
START_PATIENCE_S = 180.0

pytest.importorskip(
    "litellm_proxy_extras", reason="the proxy has an environment of its own: make test-agents"
)


@pytest.fixture(scope="module", params=["local", "http"])
def proxy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """OpenAI's client of a proxy that has come up; it has to end when it is told to."""
    from openai import OpenAI

    with socket.create_server((LOOPBACK, 0)) as probe:
        port = probe.getsockname()[1]
    key = f"sk-{secrets.token_hex(24)}"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BASEMLX_")}
    own = {"LITELLM_MASTER_KEY": key, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "BASEMLX_OPENBLAS": "off"}
    if request.param == "http":
        own["BASEMLX_API_BASE"] = request.getfixturevalue("api_base")
    log_path = tmp_path_factory.mktemp("proxy") / "log"
    with log_path.open("w") as log:
        process = subprocess.Popen(
            [EXECUTABLE, "--config", CONFIG, "--host", LOOPBACK, "--port", str(port), "--telemetry", "False"],
            env=clean | own,
            cwd=log_path.parent,
            stdout=log,
            stderr=subprocess.STDOUT,
        )

    def is_up() -> bool:
        assert process.poll() is None, log_path.read_text()
        try:
            return httpx.get(f"http://{LOOPBACK}:{port}/health/liveliness").status_code == 200
        except httpx.HTTPError:
            return False

    try:
        wait_until(is_up, "the proxy to come up", START_PATIENCE_S)
        with OpenAI(
            base_url=f"http://{LOOPBACK}:{port}/v1", api_key=key, max_retries=0, timeout=120
        ) as client:
            yield client
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM), log_path.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


ASKED: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": 80}


def test_an_answer_comes_whole_and_streamed_with_the_same_usage(proxy: Any) -> None:
    messages = [{"role": "user", "content": "Say hello."}]
    whole = proxy.chat.completions.create(messages=messages, **ASKED)
    assert whole.choices[0].message.content
    chunks = list(
        proxy.chat.completions.create(
            messages=messages, stream=True, stream_options={"include_usage": True}, **ASKED
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    usage = [chunk.usage for chunk in chunks if chunk.usage is not None][-1]
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert usage.prompt_tokens == whole.usage.prompt_tokens
    assert len(chunks) > 2


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_tool_is_called_and_its_result_answered(proxy: Any, is_streamed: bool) -> None:
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    asked = ASKED | {"messages": messages, "tools": [WIRE_TOOL], "tool_choice": "required"}
    if is_streamed:
        calls = [
            call
            for chunk in proxy.chat.completions.create(stream=True, **asked)
            for choice in chunk.choices
            for call in choice.delta.tool_calls or ()
        ]
        name, identity = calls[0].function.name, calls[0].id
        arguments = "".join(call.function.arguments or "" for call in calls)
    else:
        [call] = proxy.chat.completions.create(**asked).choices[0].message.tool_calls
        name, identity, arguments = call.function.name, call.id, call.function.arguments
    assert name == "weather"
    function = {"name": name, "arguments": arguments}
    messages += [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": identity, "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": identity, "content": weather(**json.loads(arguments))},
    ]
    last = proxy.chat.completions.create(messages=messages, tools=[WIRE_TOOL], **ASKED)
    assert last.choices[0].message.content or last.choices[0].message.tool_calls


def test_a_schema_is_enforced(proxy: Any) -> None:
    parsed = proxy.chat.completions.parse(
        messages=[{"role": "user", "content": "It rains in Rome."}], response_format=Weather, **ASKED
    )
    assert isinstance(parsed.choices[0].message.parsed, Weather)


def test_thinking_is_passed_on(proxy: Any) -> None:
    answer = proxy.chat.completions.create(
        messages=[{"role": "user", "content": "What is 2 + 3?"}],
        extra_body={"chat_template_kwargs": {"enable_thinking": True}},
        **ASKED,
    )
    assert answer.choices[0].message.reasoning_content


def test_refusals_keep_their_status(proxy: Any) -> None:
    import openai

    messages = [{"role": "user", "content": "Hi"}]
    with pytest.raises(openai.BadRequestError, match="temperature must be between"):
        proxy.chat.completions.create(messages=messages, **ASKED | {"temperature": 9})
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        proxy.chat.completions.create(messages=messages, **ASKED | {"max_tokens": 10**6})


def test_responses_go_through_it(proxy: Any) -> None:
    response = proxy.responses.create(model=MODEL, input="Say hello.", max_output_tokens=40)
    assert response.output_text
