"""Mixed requests against a running server, and its memory meanwhile: whatever a client may do, in a fixed order.

    python bench/soak.py [--requests 200] [--url URL]      # starts a server of its own without --url

Lengths, stops, choices, seeds, log-probabilities, penalties, streams that are read, streams that are left, and
refusals. At the end the server has to be idle, and its figures are printed.
"""

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Callable
from typing import Any

import httpx

AT_ONCE = 6
REST_S = 2.5
"""Longer than the engine waits before it gives freed memory back."""


def mixed_body(rng: random.Random) -> dict[str, Any]:
    """One of all that is asked for."""
    words = " ".join(
        rng.choice(("river", "stone", "lamp", "seven", "quiet", "market"))
        for _ in range(rng.randrange(2, 300))
    )
    body: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "user", "content": f"Tell me about {words}."}],
        "max_tokens": rng.randrange(1, 80),
        "temperature": rng.choice((0.0, 0.7, 1.0)),
    }
    extras: list[dict[str, Any]] = [
        {},
        {"n": rng.randrange(2, 5)},
        {"stop": [rng.choice(("the", ".", " a"))]},
        {"seed": rng.randrange(5)},
        {"logprobs": True, "top_logprobs": 5},
        {"frequency_penalty": 0.5, "presence_penalty": 0.5},
        {"top_p": 0.9, "top_k": 40, "min_p": 0.02},
        {"logit_bias": {"50": 2}},
        {"temperature": 9},  # refused
    ]
    return body | rng.choice(extras)


async def _run(url: str, rss_mb: Callable[[], float], requests: int) -> dict[str, Any]:
    rng = random.Random(1)
    curve: list[float] = []
    outcomes: dict[str, int] = {}
    async with httpx.AsyncClient(base_url=url, timeout=300.0) as client:

        async def ask(body: dict[str, Any], kind: str, leave_after: int) -> None:
            if kind == "whole":
                reply = await client.post("/v1/chat/completions", json=body)
                outcome = str(reply.status_code)
            else:
                outcome = "read"
                async with client.stream(
                    "POST", "/v1/chat/completions", json=body | {"stream": True}
                ) as reply:
                    lines = 0
                    async for _line in reply.aiter_lines():
                        lines += 1
                        if kind == "left" and lines >= leave_after:
                            outcome = "left"
                            break
            outcomes[outcome] = outcomes.get(outcome, 0) + 1

        async def rest() -> float:
            """Memory once nothing has run for a while: what a server keeps that was used."""
            for _ in range(200):
                health = (await client.get("/health")).json()
                if not health.get("running") and not health.get("waiting"):
                    await asyncio.sleep(REST_S)
                    return rss_mb()
                await asyncio.sleep(0.05)
            raise RuntimeError(f"the server is not idle: {health}")

        at_rest: list[float] = []
        for part in (requests // 2, requests - requests // 2):
            for start in range(0, part, AT_ONCE):
                batch = [
                    ask(mixed_body(rng), rng.choice(("whole", "whole", "read", "left")), rng.randrange(1, 12))
                    for _ in range(min(AT_ONCE, part - start))
                ]
                await asyncio.gather(*batch)
                curve.append(rss_mb())
            at_rest.append(await rest())
    return {
        "requests": requests,
        "outcomes": outcomes,
        "rss_mb": at_rest[1],
        "half_rss_mb": at_rest[0],
        "busy_rss_mb": max(curve),
        "curve_mb": [round(value, 1) for value in curve],
    }


def soak(url: str, rss_mb: Callable[[], float], requests: int = 200) -> dict[str, Any]:
    """Runs the requests. Memory in MB: at rest after each half, at most while busy, and a curve of it. Raises if the
    server does not come to rest."""
    return asyncio.run(_run(url, rss_mb, requests))


def main() -> int:
    from load import serving

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=200)
    options = parser.parse_args()
    with serving("ours", "tiny", "openblas") as server:
        found = soak(server.url, server.rss_mb, options.requests)
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
