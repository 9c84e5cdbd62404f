"""The engine fails, dies or hangs: clients are told, /health says so, and what can go on goes on.

The faults are planted into a real engine's model, since a healthy one cannot be made to have them.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from basemlx.engine.openai.chat_request import chat_request
from basemlx.server.settings import ServerSettings
from tests.serving import (
    NOISE,
    LiveServer,
    Noise,
    ask,
    chat_body,
    connect,
    events_of,
    get,
    noise_engine,
    post,
    read_answer,
    wait_until,
)

CHAT = "/v1/chat/completions"


@dataclass
class Planted:
    """A model whose forward raises `failures` times, or waits while `held`."""

    model: Any
    failures: int = 0
    free: threading.Event = field(default_factory=threading.Event)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.free.wait(60)
        if self.failures:
            self.failures -= 1
            raise RuntimeError("canary: [METAL] Command buffer execution failed: Insufficient Memory")
        return self.model(*args, **kwargs)


@pytest.fixture
def faulty(zoo: Callable[..., Path]) -> Iterator[tuple[Noise, Planted]]:
    with noise_engine(zoo("qwen3"), stall_timeout_s=0.3) as noise:
        worker = noise.engine._workers[NOISE]
        planted = Planted(worker.loaded.model)
        planted.free.set()
        worker._runner._model = planted
        yield noise, planted
        planted.free.set()


def test_a_failed_step_ends_its_requests_with_an_error_and_the_next_is_served(
    faulty: tuple[Noise, Planted],
) -> None:
    noise, planted = faulty
    with LiveServer(noise) as live:
        streamed, whole = connect(live.port), connect(live.port)
        with streamed, whole:
            streamed.sendall(post(live.port, CHAT, chat_body(stream=True, max_tokens=1900)))
            streamed.recv(1, socket.MSG_PEEK)  # it has begun
            whole.sendall(post(live.port, CHAT, chat_body(max_tokens=1900)))
            wait_until(lambda: noise.engine.health().running == 2, "both to run")
            planted.failures = 1
            broken_off = read_answer(streamed)
            assert broken_off.status == 200
            *_, last = events_of(broken_off.body)
            assert last["error"]["code"] == "generation_failed"
            answer = read_answer(whole)
            assert (answer.status, answer.code) == (500, "generation_failed")
            assert b"canary" not in broken_off.body + answer.body
        assert get(live.port, "/health").status == 200
        assert ask(live.port).status == 200
        noise.check_idle()


def test_a_dead_engine_answers_503_and_is_seen_as_dead(faulty: tuple[Noise, Planted]) -> None:
    noise, planted = faulty
    with LiveServer(noise) as live:
        with connect(live.port) as client:
            client.sendall(post(live.port, CHAT, chat_body(max_tokens=1900)))
            wait_until(lambda: noise.engine.health().running == 1, "it to run")
            planted.failures = 10**9
            assert read_answer(client).status in (500, 503)
        wait_until(lambda: not noise.engine.health().ok, "the engine to be dead")
        health = get(live.port, "/health")
        assert health.status == 503
        assert health.json["reason"] == "the engine thread has ended"
        for stream in (False, True):
            answer = ask(live.port, stream=stream)
            assert (answer.status, answer.code) == (503, "engine_dead")
            assert answer.headers["x-should-retry"] == "false"  # it will not come back
        assert b"basemlx_up 0.0" in get(live.port, "/metrics").body
        assert get(live.port, "/v1/models").status == 200


def test_a_stuck_engine_keeps_nobody_waiting_and_is_seen_as_stuck(
    faulty: tuple[Noise, Planted], caplog: pytest.LogCaptureFixture
) -> None:
    noise, planted = faulty
    with LiveServer(noise, ServerSettings(heartbeat_s=0.05)) as live:
        streamed, whole = connect(live.port), connect(live.port)
        with streamed, whole:
            streamed.sendall(post(live.port, CHAT, chat_body(stream=True, max_tokens=1900)))
            streamed.recv(1, socket.MSG_PEEK)
            planted.free.clear()
            whole.sendall(post(live.port, CHAT, chat_body()))
            answer = read_answer(whole)
            assert (answer.status, answer.code) == (503, "engine_unavailable")
            assert "retry-after" in answer.headers
            *_, last = events_of(read_answer(streamed).body)
            assert last["error"]["code"] == "engine_unavailable"
        health = get(live.port, "/health")
        assert health.status == 503
        assert "stuck" in health.json["reason"]
        assert health.json["heartbeat_age_s"] > 0.3
        assert any("the engine is stuck at=" in message and "wait" in message for message in caplog.messages)
        planted.free.set()
        wait_until(lambda: noise.engine.health().ok, "the engine to go on")
        assert ask(live.port).status == 200
        noise.check_idle()


def test_an_unexpected_error_is_a_500_that_tells_nothing_but_where_to_look(
    noise: Noise, caplog: pytest.LogCaptureFixture
) -> None:
    class Service:
        """Fails as no service should."""

        read_chat = staticmethod(chat_request)
        read_completion = read_embeddings = read_tokenize = read_chat

        def chat(self, body: Any, **options: Any) -> Any:
            raise ZeroDivisionError("canary of /home/someone/prompt")

        completion = chat

    with LiveServer(noise, service=Service()) as live:
        answer = ask(live.port, "/v1/chat/completions", "x-request-id: look-here")
    assert (answer.status, answer.code) == (500, "internal_error")
    assert answer.headers["x-should-retry"] == "false"
    assert "look-here" in answer.json["error"]["message"]
    assert b"canary" not in answer.body
    records = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [
        record
        for record in records
        if "id=look-here exception=ZeroDivisionError at=chat:" in record.getMessage()
    ]
    assert not [record for record in records if "canary" in record.getMessage()]


def test_what_fails_as_a_request_is_taken_up_fails_it_alone_and_is_not_quoted(
    faulty: tuple[Noise, Planted], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    noise, _ = faulty
    worker = noise.engine._workers[NOISE]

    def fail(*args: Any) -> None:
        raise RuntimeError("canary")

    with LiveServer(noise) as live:
        monkeypatch.setattr(worker, "submit", fail)
        answer = ask(live.port)
        assert (answer.status, answer.code) == (500, "generation_failed")
        assert b"canary" not in answer.body
        monkeypatch.undo()
        assert ask(live.port).status == 200
    assert "RuntimeError" in caplog.text
    assert not [record for record in caplog.records if "canary" in record.getMessage()]
