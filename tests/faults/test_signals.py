"""SIGTERM in the middle of streams, to a process as a supervisor would send it."""

import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.serving import (
    ServerProcess,
    ask,
    chat_body,
    connect,
    events_of,
    get,
    post,
    read_answer,
    wait_until,
)

MODEL = "qwen3"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_streams_finish_or_are_told_and_the_process_ends_well(number: int, zoo: Callable[..., Path]) -> None:
    options = ("--drain-timeout", "0.5", "--max-num-sequences", "5")
    with ServerProcess("--model", str(zoo("qwen3")), *options) as process:
        assert ask(process.port, model=MODEL).status == 200  # whatever is slow only once
        lengths = {"short": 20, "long": 1900}
        clients = {name: connect(process.port) for name in lengths}
        try:
            for name, client in clients.items():
                body = chat_body(
                    model=MODEL, stream=True, max_tokens=lengths[name], n=4 if name == "long" else 1,
                    logprobs=name == "long", top_logprobs=20 if name == "long" else None,
                )  # fmt: skip
                client.sendall(post(process.port, "/v1/chat/completions", body))
            for client in clients.values():
                client.recv(1, socket.MSG_PEEK)  # it has begun
            process.signal(number)
            wait_until(lambda: "draining" in process.log, "it to drain")
            health = get(process.port, "/health")
            assert (health.status, health.json["reason"], health.closes) == (503, "shutting down", True)
            ends = {name: events_of(read_answer(client).body)[-1] for name, client in clients.items()}
        finally:
            for client in clients.values():
                client.close()
        assert process.wait() == 0
        for end in ends.values():
            assert end == "[DONE]" or end["error"]["code"] == "shutting_down"
        assert "Traceback" not in process.log
        assert process.log.splitlines()[-1].endswith("stopped")
