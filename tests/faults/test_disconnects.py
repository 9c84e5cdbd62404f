"""A client that leaves ends its generation, wherever that stands, streamed or not. Nothing is kept for it."""

import random
import socket
from contextlib import suppress

import pytest

from tests.serving import LiveServer, Noise, chat_body, connect, occupied, post, wait_until

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def leave(client: socket.socket, *, abruptly: bool) -> None:
    """Closes the connection, with a reset instead of an end if `abruptly`."""
    if abruptly:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    client.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("abruptly", [False, True])
def test_while_it_is_decoded(stream: bool, abruptly: bool, live: LiveServer, whole: Noise) -> None:
    client = connect(live.port)
    client.sendall(post(live.port, CHAT, chat_body(stream=stream, max_tokens=1900)))
    if stream:
        client.recv(1)
    wait_until(lambda: whole.engine.health().running == 1, "it to run")
    leave(client, abruptly=abruptly)
    whole.check_idle()
    last = whole.finished[-1]
    assert last.finish_reasons == ("abort",)
    assert last.usage.completion_tokens < 1900


@pytest.mark.parametrize("stream", [False, True])
def test_while_its_prompt_is_read(stream: bool, live: LiveServer, whole: Noise) -> None:
    prompt = [3 + number % 250 for number in range(1990)]
    salt = f"prefill-{stream}"  # not found in the prefix cache
    body = {"model": "noise", "prompt": prompt, "max_tokens": 50, "stream": stream, "cache_salt": salt}
    client = connect(live.port)
    client.sendall(post(live.port, COMPLETIONS, body))
    wait_until(lambda: whole.engine.health().running == 1, "it to run")
    leave(client, abruptly=False)
    whole.check_idle()
    last = whole.finished[-1]
    assert (last.finish_reasons, last.usage.completion_tokens) == (("abort",), 0)


@pytest.mark.parametrize("stream", [False, True])
def test_while_it_waits(stream: bool, live: LiveServer, whole: Noise) -> None:
    with occupied(whole, 4):
        client = connect(live.port)
        client.sendall(post(live.port, CHAT, chat_body(stream=stream)))
        wait_until(lambda: whole.engine.health().waiting == 1, "it to wait")
        leave(client, abruptly=False)
        wait_until(lambda: whole.engine.health().waiting == 0, "it to be given up")
        assert whole.engine.health().running == 4  # the others go on
        assert whole.finished[-1].finish_reasons == ("abort",)


def test_every_prompt_of_a_completion_is_given_up(live: LiveServer, whole: Noise) -> None:
    before = len(whole.finished)
    client = connect(live.port)
    body = {"model": "noise", "prompt": ["a", "b", "c"], "n": 2, "max_tokens": 1900, "ignore_eos": True}
    client.sendall(post(live.port, COMPLETIONS, body))
    wait_until(lambda: whole.engine.health().running == 4, "some to run, one to wait")
    leave(client, abruptly=False)
    whole.check_idle()
    assert [done.finish_reasons for done in whole.finished[before:]] == [("abort", "abort")] * 3


def test_two_hundred_that_leave_at_any_moment(live: LiveServer, whole: Noise) -> None:
    """Moments are counted in bytes sent and received, so that every place comes up whatever the machine's pace."""
    moments = random.Random(7)
    for number in range(200):
        body = chat_body(stream=number % 2 == 0, max_tokens=40, n=1 + number % 3)
        data = post(live.port, CHAT, body)
        client = connect(live.port)
        part = moments.choice((moments.randrange(len(data)), len(data), len(data)))
        client.sendall(data[:part])
        if part == len(data):
            wanted = moments.choice((0, 0, 1, 300, 2000 if body["stream"] else 400))
            client.settimeout(0.1)
            with suppress(TimeoutError):  # some answers are shorter
                while wanted > 0 and (piece := client.recv(wanted)):
                    wanted -= len(piece)
        leave(client, abruptly=moments.random() < 0.5)
    whole.check_idle()
    wait_until(lambda: live.num_connections == 0, "all connections to be gone")
    assert len(live.lifecycle.watches) == 0
