"""Server-sent events as bytes: framing, silence, the end, and errors before and after the first token."""

import json
import threading
from dataclasses import replace

import httpx

from basemlx.server.settings import ServerSettings
from tests.serving import (
    API_KEY,
    LiveServer,
    Noise,
    ServerProcess,
    ask,
    chat_body,
    connect,
    events_of,
    exchange,
    occupied,
    post,
    read_answer,
    wait_until,
)

PATH = "/v1/chat/completions"


def test_an_event_is_one_data_line_and_the_last_one_says_done(served: ServerProcess) -> None:
    raw = b""
    with httpx.stream(
        "POST",
        served.url + PATH,
        json=chat_body(stream=True, max_tokens=9),
        headers={"x-api-key": API_KEY},
        timeout=60,
    ) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-cache"
        raw = b"".join(answer.iter_raw())
    assert raw.isascii()
    assert raw.endswith(b"\n\ndata: [DONE]\n\n")
    blocks = raw.removesuffix(b"\n\n").split(b"\n\n")
    for block in blocks[:-1]:
        assert block.startswith(b"data: {")
        assert b"\n" not in block
        assert b"\r" not in block
        json.loads(block[6:])


def test_the_joined_stream_is_the_whole_answer(served: ServerProcess) -> None:
    body = chat_body(n=3, seed=11, max_tokens=24, logprobs=True, top_logprobs=3)
    headers = {"x-api-key": API_KEY}
    whole = httpx.post(served.url + PATH, json=body, headers=headers, timeout=60).json()
    streamed = httpx.post(
        served.url + PATH,
        json=body | {"stream": True, "stream_options": {"include_usage": True}},
        headers=headers,
        timeout=60,
    )
    *chunks, done = events_of(streamed.content)
    assert done == "[DONE]"
    for choice in whole["choices"]:
        parts = [part for chunk in chunks for part in chunk["choices"] if part["index"] == choice["index"]]
        assert "".join(part["delta"].get("content") or "" for part in parts) == choice["message"]["content"]
        logprobs = [entry for part in parts if part["logprobs"] for entry in part["logprobs"]["content"]]
        assert logprobs == choice["logprobs"]["content"]
        reasons = [part["finish_reason"] for part in parts if part["finish_reason"]]
        assert reasons == [choice["finish_reason"]]
        assert parts[-1]["finish_reason"] == choice["finish_reason"]
    assert chunks[-1]["choices"] == []
    usage = chunks[-1]["usage"]
    assert usage["completion_tokens"] == whole["usage"]["completion_tokens"] == 72
    assert usage["prompt_tokens"] == whole["usage"]["prompt_tokens"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


def test_silence_is_filled_with_comments_which_start_the_answer(noise: Noise) -> None:
    with (
        LiveServer(noise, ServerSettings(heartbeat_s=0.05)) as live,
        occupied(noise, 4) as free,
        connect(live.port) as client,
    ):
        client.sendall(post(live.port, PATH, chat_body(stream=True)))
        received = b""
        while received.count(b": keep-alive\n\n") < 2:
            received += client.recv(4096)
        assert received.startswith(b"HTTP/1.1 200 ")
        assert b"data:" not in received
        free()
        while b"[DONE]" not in received:
            received += client.recv(4096)
    noise.check_idle()


def test_what_fails_before_the_first_token_has_its_own_status_streamed_or_not(noise: Noise) -> None:
    with LiveServer(noise) as live, occupied(noise, 4):
        for stream in (False, True):
            late = ask(live.port, stream=stream, timeout=0.05)
            assert (late.status, late.code) == (504, "deadline_exceeded")
        assert ask(live.port, model="none", stream=True).status == 404


def test_what_fails_later_ends_the_stream_with_an_error_and_without_done(noise: Noise) -> None:
    with LiveServer(noise) as live:
        answer = ask(live.port, stream=True, max_tokens=1900, timeout=0.3)
        assert answer.status == 200
        *chunks, last = events_of(answer.body)
        assert chunks
        assert last["error"]["code"] == "deadline_exceeded"
        assert b"[DONE]" not in answer.body


def test_a_request_may_not_set_a_longer_deadline_than_the_servers(served: ServerProcess) -> None:
    refused = exchange(served.port, post(served.port, PATH, chat_body(timeout=601), f"x-api-key: {API_KEY}"))
    assert (refused.status, refused.json["error"]["param"]) == (400, "timeout")


def test_a_full_queue_is_told_at_once_when_to_come_back(noise: Noise) -> None:
    with LiveServer(noise) as live, occupied(noise, 4) as free:
        waiting = [connect(live.port) for _ in range(4)]
        try:
            for client in waiting:
                client.sendall(post(live.port, PATH, chat_body()))
            wait_until(lambda: noise.engine.health().waiting == 4, "a full queue")
            for stream in (False, True):
                refused = ask(live.port, stream=stream)
                assert (refused.status, refused.code) == (429, "queue_full")
                assert int(refused.headers["retry-after"]) >= 1
            free()
            assert [read_answer(client).status for client in waiting] == [200] * 4
        finally:
            for client in waiting:
                client.close()


def test_stopping_refuses_newcomers_and_lets_running_answers_finish(noise: Noise) -> None:
    with LiveServer(noise, ServerSettings(drain_timeout_s=60)) as live, occupied(noise, 4) as free:
        idle, late, running = connect(live.port), connect(live.port), connect(live.port)
        with idle, late, running:
            late.sendall(
                b"GET /health HT"
            )  # in the middle of its head: not quiet for long, but not answered either
            running.sendall(post(live.port, PATH, chat_body(stream=True)))
            wait_until(lambda: noise.engine.health().waiting == 1, "the request to wait")
            live.begin_stop()
            refused = ask(live.port)
            assert (refused.status, refused.code, refused.closes) == (503, "shutting_down", True)
            assert int(refused.headers["retry-after"]) >= 1
            assert idle.recv(1) == b""
            free()
            answer = read_answer(running)
            assert answer.status == 200
            assert events_of(answer.body)[-1] == "[DONE]"
    noise.check_idle()


def test_answers_that_outlast_the_drain_end_with_an_error(noise: Noise) -> None:
    with LiveServer(noise, replace(ServerSettings(), drain_timeout_s=0.1)) as live:
        streamed, whole = connect(live.port), connect(live.port)
        with streamed, whole:
            streamed.sendall(post(live.port, PATH, chat_body(stream=True, max_tokens=1900)))
            streamed.recv(1)
            whole.sendall(post(live.port, PATH, chat_body(max_tokens=1900)))
            wait_until(lambda: noise.engine.health().running == 2, "both to run")
            stopper = threading.Thread(target=live.stop)
            stopper.start()
            rest = b""
            while piece := streamed.recv(65536):
                rest += piece
            assert b'"code":"shutting_down"' in rest
            assert b"[DONE]" not in rest
            answer = read_answer(whole)
            assert (answer.status, answer.code, answer.closes) == (503, "shutting_down", True)
            stopper.join()
    noise.check_idle()
