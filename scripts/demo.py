"""`make demo`: starts a server with the built-in model on a free port and shows, with OpenAI's client, what it does.

Each part checks what it shows; the first thing that is not as it should be ends the demonstration with exit code 1.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
from openai import OpenAI

from basemlx.server.commands.terminal import printable

READY_TIMEOUT_S = 60
STOP_TIMEOUT_S = 15
METRICS = (
    "basemlx_up",
    "basemlx_running",
    "basemlx_completion_tokens_total",
    "basemlx_ttft_seconds_count",
    "basemlx_tokens_per_second_sum",
)


class NotAsPromised(Exception):
    """Something that the demonstration shows did not happen."""


def promise(held: bool, what: str) -> None:
    if not held:
        raise NotAsPromised(what)
    print(f"  ✓ {what}")


def title(text: str) -> None:
    print(f"\n{text}")


class Answer:
    """A streamed chat answer: its text, and when its pieces came, in seconds since `asked_s`."""

    def __init__(self, client: OpenAI, prompt: str, *, echo: bool = False, **options: Any) -> None:
        self.asked_s = time.monotonic()
        self.pieces: list[str] = []
        self.arrivals_s: list[float] = []
        self.finish_reason: str | None = None
        self.completion_tokens = 0
        if echo:
            print("  ", end="")
        for chunk in client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": prompt}],
            stream=True,
            stream_options={"include_usage": True},
            **options,
        ):
            if chunk.usage is not None:
                self.completion_tokens = chunk.usage.completion_tokens
            for choice in chunk.choices:
                self.finish_reason = choice.finish_reason or self.finish_reason
                if choice.delta.content:
                    self.pieces.append(choice.delta.content)
                    self.arrivals_s.append(time.monotonic() - self.asked_s)
                    if echo:
                        print(printable(choice.delta.content).replace("\n", "\n  "), end="", flush=True)
        if echo:
            print()

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def show_stream(client: OpenAI) -> list[Answer]:
    title("A streamed answer, as it is made (POST /v1/chat/completions)")
    answer = Answer(client, "Explain MLX in two sentences.", echo=True, temperature=0, max_tokens=80)
    promise(
        bool(answer.text.strip()),
        f"it says something: {answer.completion_tokens} tokens, finish reason {answer.finish_reason}",
    )
    first_s, last_s = answer.arrivals_s[0], answer.arrivals_s[-1]
    promise(
        len(answer.pieces) >= 5 and first_s < 0.5 * last_s,
        f"it came in {len(answer.pieces)} pieces, the first after {first_s:.2f} s, the last after {last_s:.2f} s",
    )
    return [answer]


def show_seed(client: OpenAI) -> list[Answer]:
    title("The same seed twice, at temperature 1")
    prompt = "Write a haiku about latency."
    answers = []
    for attempt in ("first", "second"):
        print(f"  {attempt}:")
        answers.append(Answer(client, prompt, echo=True, temperature=1, seed=42, max_tokens=40))
    promise(answers[0].text == answers[1].text != "", "both answers are the same")
    return answers


def show_four_at_once(client: OpenAI) -> list[Answer]:
    title("Four requests at once")
    alone = Answer(client, "Write a 200-word story.", seed=0, max_tokens=80)
    start_s = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(
                lambda seed: Answer(client, "Write a 200-word story.", seed=seed, max_tokens=80), range(4)
            )
        )
    together_s = time.monotonic() - start_s
    first_s = [answer.asked_s + answer.arrivals_s[0] - start_s for answer in answers]
    last_s = [answer.asked_s + answer.arrivals_s[-1] - start_s for answer in answers]
    for number, answer in enumerate(answers):
        print(
            f"  {number + 1}: {answer.completion_tokens} tokens, from {first_s[number]:.2f} s to {last_s[number]:.2f} s"
        )
    promise(
        max(first_s) < min(last_s),
        f"all four were being answered at {max(first_s):.2f} s; together they took {together_s:.2f} s, "
        f"one alone {alone.arrivals_s[-1]:.2f} s",
    )
    promise(
        alone.text == answers[0].text, "the one with the seed of the one alone says the same among the others"
    )
    return [alone, *answers]


def show_models(client: OpenAI) -> None:
    title("GET /v1/models")
    models = [model.model_dump() for model in client.models.list()]
    for model in models:
        print("  " + ", ".join(f"{key} {value}" for key, value in model.items()))
    promise(any(model["id"] == "tiny" and model.get("loaded") for model in models), "tiny is loaded")


def show_metrics(http: httpx.Client, url: str, answers: list[Answer]) -> None:
    title("GET /metrics")
    lines = [
        line
        for line in http.get(f"{url}/metrics").text.splitlines()
        if line.split("{")[0].split()[0] in METRICS
    ]
    print("\n".join(f"  {line}" for line in lines))
    figures = {line.split("{")[0].split()[0]: float(line.split()[-1]) for line in lines}
    promise(figures.get("basemlx_up") == 1 and figures.get("basemlx_running") == 0, "it is well and at rest")
    tokens = sum(answer.completion_tokens for answer in answers)
    promise(
        figures.get("basemlx_completion_tokens_total") == tokens,
        f"it counted the {tokens} tokens that the answers reported",
    )


def show_stop(server: subprocess.Popen[str]) -> None:
    title("SIGTERM")
    start_s = time.monotonic()
    server.send_signal(signal.SIGTERM)
    status = server.wait(STOP_TIMEOUT_S)
    promise(status == 0, f"it stopped after {time.monotonic() - start_s:.2f} s with exit code {status}")


@contextmanager
def running_server(log: IO[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`basemlx serve` on a free port, and its address once it is ready. Ended in any case."""
    command = [str(Path(sys.executable).with_name("basemlx")), "serve", "--port", "0", "--model", "tiny"]
    print("$ " + " ".join(["basemlx", *command[1:]]))
    environment = {name: value for name, value in os.environ.items() if name != "BASEMLX_API_KEY"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment) as server:
        watchdog = threading.Timer(READY_TIMEOUT_S, server.kill)
        watchdog.start()
        try:
            assert server.stdout is not None
            line = server.stdout.readline().strip()
            watchdog.cancel()
            if not line.startswith("basemlx ready on "):
                raise NotAsPromised(f"the server is ready within {READY_TIMEOUT_S} s")
            print(line)
            yield server, line.removeprefix("basemlx ready on ").split()[0]
        finally:
            watchdog.cancel()
            if server.poll() is None:
                server.kill()


def main() -> int:
    start_s = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        try:
            # Proxies of the environment are for other machines; retries would hide a failure.
            with running_server(log) as (server, url), httpx.Client(trust_env=False, timeout=30) as http:
                client = OpenAI(
                    base_url=f"{url}/v1", api_key="not needed here", http_client=http, max_retries=0
                )
                answers = show_stream(client) + show_seed(client) + show_four_at_once(client)
                show_models(client)
                show_metrics(http, url, answers)
                show_stop(server)
        except Exception as error:
            log.seek(0)
            print("".join(log.readlines()[-20:]), file=sys.stderr)
            reason = error if isinstance(error, NotAsPromised) else f"{type(error).__name__}: {error}"
            print(f"the demonstration failed: not so: {reason}", file=sys.stderr)
            return 1
    print(
        f"\nDone in {time.monotonic() - start_s:.1f} s. Yours to try: .venv/bin/basemlx run, .venv/bin/basemlx serve"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
