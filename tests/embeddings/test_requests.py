"""Over HTTP, as OpenAI's own client and as others ask."""

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest

from basemlx.engine.embeddings.loader import LoadedEmbedder
from basemlx.engine.engine import Engine
from basemlx.engine.openai.service import OpenAIService
from tests.embeddings.test_engine import TEXTS, gate
from tests.embeddings.zoo import HIDDEN
from tests.serving import LOOPBACK, Answer, LiveServer, Noise, connect, exchange, get, post, wait_until

PATH = "/v1/embeddings"


@pytest.fixture(scope="module")
def live(embedding_engine: Engine) -> Iterator[LiveServer]:
    with LiveServer(Noise(embedding_engine)) as server:
        yield server


@pytest.fixture
def client(live: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://{LOOPBACK}:{live.port}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(live: LiveServer, **body: Any) -> Answer:
    return exchange(live.port, post(live.port, PATH, {"model": "bert"} | body))


def test_openais_client_gets_what_the_engine_gives(client: openai.OpenAI, embedding_engine: Engine) -> None:
    wanted = embedding_engine.embed("bert", TEXTS)
    for options in ({}, {"encoding_format": "float"}):  # its default is base64
        answer = client.embeddings.create(model="bert", input=TEXTS, user="me", **options)  # type: ignore[arg-type]
        assert [entry.index for entry in answer.data] == list(range(40))
        found = np.array([entry.embedding for entry in answer.data], np.float32)
        np.testing.assert_allclose(found, wanted.vectors, atol=1e-5)
        assert answer.usage.prompt_tokens == answer.usage.total_tokens == wanted.prompt_tokens
        assert answer.model == "bert"


def test_every_shape_of_input_is_taken(live: LiveServer) -> None:
    for given, count in (
        ("a fox", 1),
        (["a", "fox"], 2),
        ([5, 6], 1),
        ([[5, 6], [7]], 2),
        (["a", [5, 6]], 2),
    ):
        answer = ask(live, input=given)
        assert answer.status == 200, answer.body
        assert [len(entry["embedding"]) for entry in answer.json["data"]] == [HIDDEN] * count
        assert set(answer.json) == {"object", "data", "model", "usage"}


def test_base64_is_the_same_numbers(live: LiveServer) -> None:
    numbers = ask(live, input="fox").json["data"][0]["embedding"]
    packed = ask(live, input="fox", encoding_format="base64").json["data"][0]["embedding"]
    np.testing.assert_array_equal(
        np.frombuffer(base64.b64decode(packed), "<f4"), np.array(numbers, np.float32)
    )


def test_over_http_and_in_this_process_the_response_is_the_same(
    live: LiveServer, embedding_engine: Engine
) -> None:
    body = {"model": "bert", "input": TEXTS[:3]}
    assert ask(live, **body).json == OpenAIService(embedding_engine).embeddings(body).response()


def test_dimensions_and_prompts(live: LiveServer) -> None:
    answer = ask(live, model="matryoshka", input="fox", dimensions=8, prompt_name="query")
    assert len(answer.json["data"][0]["embedding"]) == 8


def test_the_most_inputs_are_answered_and_one_more_is_refused(live: LiveServer) -> None:
    answer = ask(live, input=["a"] * 2048)
    assert len(answer.json["data"]) == 2048
    answer = ask(live, input=["a"] * 2049)
    assert (answer.status, answer.json["error"]["param"]) == (400, "input")


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "input"),
        ({"input": None}, 400, "input"),
        ({"input": ""}, 400, "input"),
        ({"input": []}, 400, "input"),
        ({"input": {}}, 400, "input"),
        ({"input": ["a", ""]}, 400, "input[1]"),
        ({"input": ["a", 5]}, 400, "input[1]"),
        ({"input": [5, "a"]}, 400, "input[1]"),
        ({"input": [[5], [True]]}, 400, "input[1][0]"),
        ({"input": [5, -1]}, 400, "input[1]"),
        ({"input": [5, 1.0]}, 400, "input[1]"),
        ({"input": [[5], [500]]}, 400, "input[1]"),
        ({"input": ["a", "fox " * 60]}, 400, "input[1]"),
        ({"input": ["\ud800"]}, 400, "input[0]"),
        ({"input": "a", "encoding_format": "int8"}, 400, "encoding_format"),
        ({"input": "a", "dimensions": 8}, 400, "dimensions"),
        ({"input": "a", "dimensions": "8"}, 400, "dimensions"),
        ({"input": "a", "prompt_name": "query"}, 400, "prompt_name"),
        ({"input": "a", "truncate_prompt_tokens": 8}, 400, "truncate_prompt_tokens"),
        ({"input": "a", "timeout": 0}, 400, "timeout"),
        ({"input": "a", "model": None}, 400, "model"),
        ({"input": "a", "model": "qwen3"}, 400, "model"),
        ({"input": "a", "model": "nobody/knows"}, 404, "model"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    live: LiveServer, body: dict[str, Any], status: int, param: str
) -> None:
    answer = ask(live, **body)
    assert answer.status == status
    assert answer.code is not None or status == 400  # the envelope is OpenAI's
    assert answer.json["error"]["param"] == param


def test_fields_that_nobody_knows_are_named_in_a_header(live: LiveServer) -> None:
    answer = ask(live, input="a", user="me", input_type="query", odd=None)
    assert answer.headers["x-basemlx-ignored"] == "input_type"
    assert answer.json["basemlx"] == {"ignored": ["input_type"]}
    assert "x-basemlx-ignored" not in ask(live, input="a", user="me").headers


def test_a_chat_with_a_model_that_embeds_is_refused(live: LiveServer) -> None:
    body = {"model": "bert", "messages": [{"role": "user", "content": "hi"}]}
    answer = exchange(live.port, post(live.port, "/v1/chat/completions", body))
    assert (answer.status, answer.json["error"]["param"]) == (400, "model")
    assert "/v1/embeddings" in answer.json["error"]["message"]


def test_a_client_that_leaves_stops_its_request(live: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with gate(monkeypatch, after=1) as (reached, sizes):
        with connect(live.port) as connection:
            connection.sendall(post(live.port, PATH, {"model": "bert", "input": TEXTS * 50}))
            assert reached.wait(30)
        wait_until(lambda: not live.lifecycle.watches, "the server to notice")
    assert ask(live, input="a").status == 200
    assert sizes[2:] in ([], [1]), "no batch of it came after"


def test_models_that_embed_are_listed_with_the_others(live: LiveServer) -> None:
    names = {entry["id"] for entry in get(live.port, "/v1/models").json["data"]}
    assert {"bert", "matryoshka", "decoder", "qwen3"} <= names


def test_a_failure_while_computing_is_a_500_with_the_envelope(
    live: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = ["out of luck"]
    compute = LoadedEmbedder.vectors

    def failing(self: LoadedEmbedder, rows: Any) -> Any:
        if faults:
            raise RuntimeError(faults.pop())
        return compute(self, rows)

    monkeypatch.setattr(LoadedEmbedder, "vectors", failing)
    answer = ask(live, input="a")
    assert (answer.status, answer.code) == (500, "generation_failed")
    assert "luck" not in answer.body.decode()
    assert ask(live, input="a").status == 200
