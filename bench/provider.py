"""What the ways to an engine cost: its own stream, the provider in this process and over HTTP, and LiteLLM on top.

    .venv/bin/python bench/provider.py [--tokens 256] [--rounds 7]

All ways answer the same greedy request of `tiny`, in turns within one run, so that what else the machine does hits
all of them. "engine" reads GenerationStream, so it has neither text parsing nor chunks; "turn" is the OpenAI layer that
the server wraps as well. Times are the best of the rounds, CPU the median. Targets: the provider at most 5 % a token
over the engine's stream; HTTP's first token at most 20 ms after the local one. Exits with 1 if they are missed.
"""

import argparse
import contextlib
import io
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

from basemlx.engine import runtime

runtime.prepare(stand_alone=True)

from basemlx.engine.engine import Engine  # noqa: E402
from basemlx.engine.openai.service import OpenAIService  # noqa: E402
from basemlx.engine.types import GenerationRequest, SamplingParams  # noqa: E402
from basemlx.provider.http import HttpBackend  # noqa: E402
from basemlx.provider.local import LocalBackend  # noqa: E402
from basemlx.server.app import create_app  # noqa: E402
from basemlx.server.lifecycle import Lifecycle  # noqa: E402
from basemlx.server.serve import Server, bind  # noqa: E402
from basemlx.server.settings import ServerSettings  # noqa: E402

MAX_OVERHEAD = 0.05
MAX_HTTP_TTFT_MS = 20.0
MESSAGES = [{"role": "user", "content": "Tell me a long story about a small model."}]

Measured = tuple[float, float, float]  # seconds to the first item; seconds, and of CPU, a token after it


def timed(open_stream: Callable[[], Iterable[Any]], num_tokens: int) -> Measured:
    started_s = time.perf_counter()
    first_s = first_cpu_s = 0.0
    count = 0
    for _ in open_stream():
        count += 1
        if count == 1:
            first_s, first_cpu_s = time.perf_counter() - started_s, time.process_time()
    if not 0.9 * num_tokens <= count <= num_tokens + 8:  # bytes held back join; role and end add
        raise SystemExit(
            f"{count} items came for {num_tokens} tokens: times a token would be of something else"
        )
    token_s = (time.perf_counter() - started_s - first_s) / (num_tokens - 1)
    return first_s, token_s, (time.process_time() - first_cpu_s) / (num_tokens - 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    body = {
        "model": "tiny",
        "messages": MESSAGES,
        "max_tokens": options.tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    with Engine() as engine, serving(engine) as api_base, HttpBackend(api_base) as http:
        engine.load("tiny")
        local = LocalBackend(engine=engine)
        service = OpenAIService(engine)
        prompt = tuple(service.tokenize(body)["tokens"])
        counter = iter(range(10**9))

        def engine_stream() -> Iterable[Any]:
            sampling = SamplingParams(max_tokens=options.tokens, temperature=0, ignore_eos=True)
            return engine.submit(GenerationRequest(f"bench-{next(counter)}", "tiny", prompt, sampling))

        ways: dict[str, Callable[[], Iterable[Any]]] = {
            "engine": engine_stream,
            "turn": lambda: service.chat(body | {"stream": True}),
            "provider, local": lambda: local.chat_stream(body),
            "provider, HTTP": lambda: http.chat_stream(body),
        }
        ways |= litellm_ways(local, body, api_base)
        measured: dict[str, list[Measured]] = {name: [] for name in ways}
        for _ in range(options.rounds + 1):
            for name, way in ways.items():
                measured[name].append(timed(way, options.tokens))
    return report({name: figures[1:] for name, figures in measured.items()})


def litellm_ways(
    local: LocalBackend, body: dict[str, Any], api_base: str
) -> dict[str, Callable[[], Iterable[Any]]]:
    """LiteLLM is an extra, and its own wrapper costs what it costs: what is handed to it is measured by itself too."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            import litellm

            import basemlx.provider.litellm
    except ImportError:
        return {}
    from basemlx.provider.connect import use_engine
    from basemlx.provider.litellm.chunks import LiteLLMStream

    basemlx.provider.litellm.register()
    use_engine(local)
    call = body | {"model": "basemlx/tiny", "stream": True}
    return {
        "provider for LiteLLM": lambda: LiteLLMStream(
            local.chat_stream(body | {"stream_options": {"include_usage": True}}), "tiny"
        ),
        "litellm.completion": lambda: litellm.completion(**call),
        "litellm.completion, HTTP": lambda: litellm.completion(**call, api_base=api_base),
    }


@contextlib.contextmanager
def serving(engine: Engine) -> Any:
    """The server over the engine, on a free port."""
    settings, lifecycle, ready = ServerSettings(port=0), Lifecycle(), threading.Event()
    with bind(settings) as listener:
        port = listener.getsockname()[1]
        app = create_app(OpenAIService(engine), settings, engine=engine, lifecycle=lifecycle, port=port)
        server = Server(app, settings, lifecycle, on_ready=ready.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        ready.wait()
        try:
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.stop()
            thread.join()


def report(measured: dict[str, list[Measured]]) -> int:
    first_ms = {name: min(one[0] for one in all_) * 1e3 for name, all_ in measured.items()}
    token_us = {name: min(one[1] for one in all_) * 1e6 for name, all_ in measured.items()}
    cpu_us = {name: statistics.median(one[2] for one in all_) * 1e6 for name, all_ in measured.items()}
    print(f"{'way':<26}{'first ms':>10}{'µs a token':>12}{'CPU µs':>10}{'of engine':>11}{'of turn':>10}")
    for name in measured:
        ratios = token_us[name] / token_us["engine"], token_us[name] / token_us["turn"]
        print(
            f"{name:<26}{first_ms[name]:>10.2f}{token_us[name]:>12.1f}{cpu_us[name]:>10.1f}{ratios[0]:>10.2f}x{ratios[1]:>9.2f}x"
        )
    overhead = token_us["provider, local"] / token_us["engine"] - 1
    later_ms = first_ms["provider, HTTP"] - first_ms["provider, local"]
    checks = {
        f"provider over the engine's stream {overhead:+.1%} a token (at most {MAX_OVERHEAD:.0%})": overhead
        <= MAX_OVERHEAD,
        f"first token over HTTP {later_ms:+.1f} ms (at most {MAX_HTTP_TTFT_MS:g})": later_ms
        <= MAX_HTTP_TTFT_MS,
    }
    for text, is_met in checks.items():
        print("ok  " if is_met else "MISS", text)
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
