"""Clients that put load on an OpenAI-compatible server on this machine, and the servers they are put on.

Every client sends one request after another with a prompt of its own, greedily, for a fixed number of tokens (the end
tokens are banned with logit_bias, which both servers honour); tokens are counted from `usage`.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

SUBJECTS = (
    "a lamp",
    "two foxes",
    "the harbour",
    "a clock",
    "an old map",
    "rain",
    "a small robot",
    "the market",
)


@dataclass(frozen=True)
class Server:
    """A server in a process of its own. `model` is the name it answers to."""

    url: str
    model: str
    pid: int
    ready_s: float

    def rss_mb(self) -> float:
        processes = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
        return float(sum(process.memory_info().rss for process in processes) / 1e6)


@contextlib.contextmanager
def serving(kind: str, model: str, blas: str) -> Iterator[Server]:
    """Starts `ours` or `theirs` on a free port, waits until it answers, and stops it by its process id."""
    port = _free_port()
    if kind == "ours":
        command = [sys.executable, "-m", "basemlx.server.cli", "serve", "--model", model, "--port", str(port)]
        command += ["--log-level", "warning"]
        name = "tiny" if model == "tiny" else Path(model).name
    else:
        command = [sys.executable, "-m", "mlx_lm", "server", "--model", model, "--port", str(port)]
        command += ["--log-level", "ERROR"]
        name = model
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as errors:  # a pipe that nobody reads would fill up and stop it
        started_s = time.perf_counter()
        process = subprocess.Popen(
            command,
            env=environment(blas),
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
        try:
            _await(url, process)
            yield Server(url, name, process.pid, time.perf_counter() - started_s)
        except (httpx.HTTPError, RuntimeError) as error:
            code = process.poll()
            state = "is alive" if code is None else f"ended with code {code}"
            errors.seek(0)
            said = errors.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{kind} ({blas}) {state}: {error!r}\n{said}") from error
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def environment(blas: str) -> dict[str, str]:
    """This process's, with ours told which BLAS to take."""
    values = dict(os.environ, HF_HUB_OFFLINE="1")
    if blas == "bundled":
        values["BASEMLX_OPENBLAS"] = "off"
    else:
        values.pop("BASEMLX_OPENBLAS", None)
    return values


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await(url: str, process: subprocess.Popen[bytes], timeout_s: float = 120.0) -> None:
    deadline = time.perf_counter() + timeout_s
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            raise RuntimeError("the server did not start")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", timeout=2.0).status_code == 200:
                return
        time.sleep(0.02)
    raise RuntimeError("the server did not answer in time")


def body(server: Server, number: int, tokens: int, ban: list[int], *, stream: bool = False) -> dict[str, Any]:
    subject = SUBJECTS[number % len(SUBJECTS)]
    return {
        "model": server.model,
        "messages": [
            {"role": "user", "content": f"Write a 200-word story about {subject}, number {number}."}
        ],
        "max_tokens": tokens,
        "temperature": 0.0,
        "logit_bias": {str(token): -100 for token in ban},
        "stream": stream,
        **({"stream_options": {"include_usage": True}} if stream else {}),
    }


async def throughput(
    server: Server, clients: int, tokens: int, ban: list[int], first: int
) -> dict[str, float]:
    """Aggregate tokens per second of `clients` requests at once, each with a prompt never sent before."""
    limits = httpx.Limits(max_connections=clients + 4)
    async with httpx.AsyncClient(base_url=server.url, timeout=900.0, limits=limits) as client:

        async def ask(number: int) -> int:
            reply = await client.post("/v1/chat/completions", json=body(server, number, tokens, ban))
            reply.raise_for_status()
            return int(reply.json()["usage"]["completion_tokens"])

        await ask(first)  # warm
        started_s = time.perf_counter()
        counts = await asyncio.gather(*(ask(first + 1 + index) for index in range(clients)))
        elapsed_s = time.perf_counter() - started_s
    return {"tok_s": sum(counts) / elapsed_s, "tokens": float(sum(counts)), "elapsed_s": elapsed_s}


async def stream_rate(server: Server, tokens: int, ban: list[int], runs: int) -> dict[str, Any]:
    """Decode rate of one stream over HTTP: tokens after the first over the time after the first."""
    rates = []
    async with httpx.AsyncClient(base_url=server.url, timeout=900.0) as client:
        for run in range(runs + 1):
            first_s, count = 0.0, 0
            request = body(server, 0, tokens, ban, stream=True)
            async with client.stream("POST", "/v1/chat/completions", json=request) as reply:
                reply.raise_for_status()
                async for line in reply.aiter_lines():
                    if not line.startswith("data: {"):
                        continue
                    chunk = json.loads(line[6:])
                    if chunk.get("usage"):
                        count = int(chunk["usage"]["completion_tokens"])
                    elif not first_s and chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                        first_s = time.perf_counter()
            if run:
                rates.append((count - 1) / (time.perf_counter() - first_s))
    return {"tok_s": statistics.median(rates), "all": rates}
