"""Streams that are left, in every way and at random, over both transports; several event loops and threads at once; and
processes that fork.
"""

import asyncio
import gc
import random
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from basemlx.engine.errors import BaseMLXError, DeadlineExceeded, QueueFull, RequestAborted
from basemlx.provider.backend import Backend
from basemlx.provider.errors import ServerError, ServerUnreachable
from basemlx.provider.http import HttpBackend
from basemlx.provider.local import LocalBackend
from basemlx.provider.sse import EventParser
from tests.serving import LiveServer, Noise, chat_body, wait_until
from tests.transports import answering

LONG = {"max_tokens": 1900}


def check_given_up(noise: Noise) -> None:
    """The last request was ended by its caller: a row is free as well when it has made all its tokens."""
    noise.check_idle()
    done = noise.finished.pop()
    assert done.finish_reasons == ("abort",)
    assert done.usage.completion_tokens < LONG["max_tokens"] // 2


# leaving


def test_leaving_a_stream_in_any_way_frees_its_row(backend: Backend, noise: Noise) -> None:
    with backend.chat_stream(chat_body(**LONG)) as stream:
        next(stream)
    check_given_up(noise)
    stream = backend.chat_stream(chat_body(**LONG))
    next(stream)
    stream.abort()
    stream.abort()
    check_given_up(noise)
    stream = backend.chat_stream(chat_body(**LONG))
    del stream
    gc.collect()
    check_given_up(noise)


def test_what_an_aborted_stream_still_says_is_that_it_was_given_up(backend: Backend) -> None:
    stream = backend.chat_stream(chat_body(**LONG))
    next(stream)
    stream.abort()
    with pytest.raises(RequestAborted, match="given up"):
        list(stream)


async def test_cancelling_frees_the_row_whatever_is_waited_for(backend: Backend, noise: Noise) -> None:
    async def read() -> None:
        async for _ in await backend.achat_stream(chat_body(**LONG)):
            pass

    for waiting in (read(), backend.achat(chat_body(**LONG)), backend.acompletion(completion_body())):
        task = asyncio.ensure_future(waiting)
        while noise.is_idle and not task.done():
            await asyncio.sleep(0.002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(check_given_up, noise)


def completion_body() -> dict[str, Any]:
    return {"model": "noise", "prompt": "The quick", "ignore_eos": True, **LONG}


NUM_AT_A_TIME = 6


async def cancel_at_random(backends: tuple[Backend, ...], count: int, seed: int) -> None:
    """`count` requests, so many at a time, each left at a random moment in a random way."""
    chance = random.Random(seed)
    limit = asyncio.Semaphore(NUM_AT_A_TIME)

    async def one(backend: Backend, kind: int, delay_s: float, num_chunks: int) -> None:
        async with limit:
            try:
                if kind == 0:
                    await asyncio.wait_for(backend.achat(chat_body(**LONG)), delay_s)
                elif kind == 1:
                    async with await backend.achat_stream(chat_body(**LONG)) as stream:
                        for _ in range(num_chunks):
                            await anext(stream)
                elif kind == 2:
                    stream = await backend.achat_stream(chat_body(**LONG))
                    for _ in range(num_chunks):
                        await anext(stream)
                    del stream
                else:
                    await asyncio.to_thread(lambda: next(backend.chat_stream(chat_body(**LONG))))
            except (TimeoutError, QueueFull):
                pass

    await asyncio.gather(
        *(
            one(chance.choice(backends), chance.randrange(4), chance.random() * 0.05, chance.randrange(6))
            for _ in range(count)
        )
    )


@contextmanager
def nothing_kept(live: LiveServer) -> Iterator[None]:
    """Threads, open files and connections, here and at the server, are those of before. Threads of pools, whose number
    is bounded, do not count."""

    def threads() -> set[threading.Thread]:
        pools = ("asyncio_", "basemlx-local", "basemlx-work")
        return {thread for thread in threading.enumerate() if not thread.name.startswith(pools)}

    connections = live.server.server_state.connections
    process = psutil.Process()
    threads_before, files_before, connections_before = threads(), process.num_fds(), set(connections)
    yield
    wait_until(lambda: connections <= connections_before, "the server's connections to be closed")
    wait_until(lambda: threads() <= threads_before, "threads to end")
    wait_until(lambda: process.num_fds() <= files_before, "open files to be closed")


async def cancels_leave_nothing(
    count: int, seed: int, local: LocalBackend, live: LiveServer, noise: Noise
) -> None:
    base = f"http://127.0.0.1:{live.port}/v1"
    with HttpBackend(base) as first:
        await cancel_at_random((local, first), 12, seed=0)  # what is made once is there
    with warnings.catch_warnings(action="ignore"):
        gc.collect()  # what tests of LiteLLM have left behind: event loops of its own
    with nothing_kept(live):
        with HttpBackend(base) as http:
            noise.finished.clear()
            await cancel_at_random((local, http), count, seed)
            await asyncio.to_thread(noise.check_idle)
            assert noise.finished  # some are given up, or refused, before the engine has them
            assert {done.finish_reasons for done in noise.finished} == {("abort",)}
            assert (await http.amodels())["data"]
            pooled = http._connections.client()._transport._pool.connections  # type: ignore[attr-defined]
            assert 1 <= len(pooled) <= NUM_AT_A_TIME
            assert all(connection.is_idle() for connection in pooled)
        gc.collect()


async def test_sixty_random_cancels_leave_the_engine_idle_and_whole_and_nothing_open(
    local: LocalBackend, live: LiveServer, noise: Noise
) -> None:
    await cancels_leave_nothing(60, 1, local, live, noise)


@pytest.mark.slow
async def test_a_thousand_random_cancels_leave_the_engine_idle_and_whole_and_nothing_open(
    local: LocalBackend, live: LiveServer, noise: Noise
) -> None:
    await cancels_leave_nothing(1000, 2, local, live, noise)


# many callers


def text_of(backend: Backend, seed: int) -> str:
    text: str = backend.chat(chat_body(seed=seed, max_tokens=6))["choices"][0]["message"]["content"]
    return text


def test_many_threads_and_two_event_loops_get_their_own_answers(
    both: tuple[Backend, Backend], noise: Noise
) -> None:
    ask_from_everywhere(both, num_loops=2, num_threads=3, num_turns=6)
    noise.check_idle()


@pytest.mark.slow
def test_many_threads_and_event_loops_for_long_beside_ones_that_leave(
    both: tuple[Backend, Backend], noise: Noise
) -> None:
    with ThreadPoolExecutor(1) as pool:
        leaving = pool.submit(lambda: asyncio.run(cancel_at_random(both, 200, seed=3)))
        ask_from_everywhere(both, num_loops=4, num_threads=6, num_turns=24)
        leaving.result(240)
    noise.check_idle()


def ask_from_everywhere(
    both: tuple[Backend, Backend], *, num_loops: int, num_threads: int, num_turns: int
) -> None:
    """Seeded questions over both transports, each of which has to get the answer that it got alone."""
    expected = {seed: text_of(both[0], seed) for seed in range(6)}

    async def answered(backend: Backend, seed: int, turn: int) -> str:
        body = chat_body(seed=seed, max_tokens=6)
        if turn % 3:
            response = await backend.achat(body)
            text: str = response["choices"][0]["message"]["content"]
            return text
        chunks = [chunk async for chunk in await backend.achat_stream(body)]
        return "".join(choice["delta"].get("content") or "" for c in chunks for choice in c["choices"])

    async def ask(seed: int, turn: int) -> None:
        while True:
            try:
                assert await answered(both[turn % 2], seed, turn) == expected[seed]
                return
            except QueueFull:
                await asyncio.sleep(0.01)

    async def loop() -> None:
        for turn in range(num_turns):
            await asyncio.gather(*(ask(seed, turn) for seed in (turn % 6, (turn + 3) % 6)))

    def thread(number: int) -> None:
        for turn in range(num_turns // 2):
            while True:
                try:
                    assert text_of(both[(number + turn) % 2], turn % 6) == expected[turn % 6]
                    break
                except QueueFull:
                    time.sleep(0.01)

    with ThreadPoolExecutor(num_loops + num_threads) as pool:
        jobs = [pool.submit(lambda: asyncio.run(loop())) for _ in range(num_loops)]
        jobs += [pool.submit(thread, number) for number in range(num_threads)]
        for job in jobs:
            job.result(240)


def test_loops_that_come_and_go_share_the_connections(http: HttpBackend) -> None:
    answers = [asyncio.run(http.achat(chat_body(seed=1)))["choices"] for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]


# deadlines, refusals of the transport


def test_a_server_that_never_answers_meets_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("basemlx.provider.http.GRACE_S", 0.05)
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        HttpBackend(f"http://127.0.0.1:{mute.getsockname()[1]}/v1") as backend,
    ):
        with pytest.raises(DeadlineExceeded, match=r"0\.05 s passed"):
            backend.chat(chat_body(timeout=0.05))
        with pytest.raises(DeadlineExceeded):
            backend.chat_stream(chat_body(timeout=0.05))


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n<html>no</html>", ServerError, "502: <html>no</html>"),
        (b"HTTP/1.1 200 OK\r\n\r\nnot json", ServerError, "not JSON"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"error": {"message": "boom"}}', BaseMLXError, "boom"),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", ServerError, "no choices"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"choices": []}', ServerError, "no choices"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"choices": null}', ServerError, "no choices"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", ServerUnreachable, "failed"),
        (b"nonsense\r\n\r\n", ServerUnreachable, "failed"),
    ],
)
def test_what_is_no_answer_of_a_model_is_an_error_that_says_so(
    answer: bytes, kind: type[BaseMLXError], message: str
) -> None:
    with answering(answer) as base, HttpBackend(base) as backend, pytest.raises(kind, match=message):
        backend.chat(chat_body())


@pytest.mark.parametrize(
    ("events", "kind", "message"),
    [
        (b'data: {"choices": []}\n\n', ServerUnreachable, "broke off"),
        (b"data: {]\n\n", ServerError, "not JSON"),
        (
            b'data: {"error": {"message": "Full.", "type": "rate_limit_error", "code": "queue_full"}}\n\n',
            QueueFull,
            "Full",
        ),
    ],
)
def test_a_stream_that_ends_badly_says_so(events: bytes, kind: type[BaseMLXError], message: str) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: hello\n\n"
    with answering(head + events) as base, HttpBackend(base) as backend, pytest.raises(kind, match=message):
        list(backend.chat_stream(chat_body()))


def test_a_closed_backend_refuses(api_base: str) -> None:
    backend = HttpBackend(api_base)
    backend.models()
    backend.close()
    backend.close()
    with pytest.raises(ServerUnreachable, match="closed"):
        backend.models()


# events


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_events_come_whole_however_the_bytes_are_cut(end: bytes) -> None:
    text = end.join(
        [b": note", b"data: one", b"", b"event: x", b"data:two", b"data: three", b"", b"id: 1", b"", b""]
    )
    for size in range(1, len(text)):
        parser = EventParser()
        found = [event for at in range(0, len(text), size) for event in parser.push(text[at : at + size])]
        assert found == [b"one", b"two\nthree"], size


# processes that fork


FORK = """
import os, sys
from basemlx.engine import runtime
runtime.prepare(stand_alone=True)
from basemlx.engine.errors import EngineUnavailable
from basemlx.provider.connect import connect
body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}

def fork():
    pid = os.fork()
    if pid == 0:
        try:
            print("child", connect().chat(body)["usage"]["completion_tokens"])
        except EngineUnavailable as error:
            print("refused:", error.message)
        sys.stdout.flush()
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0

fork()
connect().chat(body)
fork()
print("parent", connect().chat(body)["usage"]["completion_tokens"])
"""


def test_a_child_forked_before_the_engine_has_its_own_and_one_forked_after_is_told_that_it_cannot() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", FORK], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    before, after, parent = done.stdout.splitlines()
    assert before == "child 2"
    assert after.startswith("refused: This process was forked")
    assert parent == "parent 2"
