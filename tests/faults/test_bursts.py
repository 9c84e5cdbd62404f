"""Many clients at once, and one who asks for too much: others are answered meanwhile."""

import asyncio
import json
import threading
import time

import httpx

from tests.serving import LOOPBACK, LiveServer, Noise, ask, chat_body, check_envelope, events_of, get


async def test_two_hundred_clients_at_once_are_served_or_told_to_come_back(
    live: LiveServer, whole: Noise
) -> None:
    url = f"http://{LOOPBACK}:{live.port}"
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:

        async def one(number: int) -> int:
            body = chat_body(stream=number % 2 == 0, max_tokens=3, seed=number)
            answer = await client.post("/v1/chat/completions", json=body)
            if answer.status_code == 200 and body["stream"]:
                assert events_of(answer.content)[-1] == "[DONE]"
            elif answer.status_code == 200:
                assert answer.json()["usage"]["completion_tokens"] == 3
            else:
                check_envelope(answer.status_code, answer.json())
                assert int(answer.headers["retry-after"]) >= 1
            return answer.status_code

        async def health() -> float:
            started_s = time.monotonic()
            assert (await client.get("/health")).status_code == 200
            return time.monotonic() - started_s

        asked = asyncio.gather(*(one(number) for number in range(200)))
        waits_s = await asyncio.gather(*(health() for _ in range(5)))
        statuses = await asked
    assert set(statuses) <= {200, 429}
    assert statuses.count(200) >= 8  # what the engine takes at once
    assert max(waits_s) < 10


def test_ten_megabytes_of_prompt_are_refused_while_health_answers(live: LiveServer, whole: Noise) -> None:
    text = "All work and no play makes a long prompt. " * 250_000
    assert len(text) > 10_000_000
    waits_s: list[float] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            started_s = time.monotonic()
            get(live.port, "/health")
            waits_s.append(time.monotonic() - started_s)

    watcher = threading.Thread(target=watch)
    watcher.start()
    started_s = time.monotonic()
    answer = ask(live.port, messages=[{"role": "user", "content": text}])
    took_s = time.monotonic() - started_s
    done.set()
    watcher.join()
    assert (answer.status, answer.code) == (400, "context_length_exceeded")
    assert took_s < 5
    assert sorted(waits_s)[len(waits_s) // 2] < 0.1
    assert max(waits_s) < 1
    assert len(json.dumps(answer.json)) < 1000  # it is not quoted


def test_a_wide_body_does_not_hold_up_others(live: LiveServer, whole: Noise) -> None:
    """31 MiB of empty lists would take seconds of the interpreter's time to read."""
    started_s = time.monotonic()
    answer = ask(live.port, foo=[[]] * 8_000_000)
    assert answer.status == 400
    assert "values" in answer.json["error"]["message"]
    assert time.monotonic() - started_s < 20
