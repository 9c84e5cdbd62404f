"""LiteLLM's Router over two servers, one of which has its queue full: its refusals are seen, heeded and retried."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

litellm = pytest.importorskip("litellm", reason="the extra litellm is not installed")

import basemlx  # noqa: E402
from basemlx.provider.local import LocalBackend  # noqa: E402
from tests.provider.quiet import QUIET  # noqa: E402
from tests.serving import LiveServer, Noise, chat_body, get, noise_engine, occupied  # noqa: E402

pytestmark = QUIET
basemlx.register()

GROUP = "small"


@dataclass(frozen=True)
class Full:
    """A server that refuses everything, for its queue is full."""

    noise: Noise
    server: LiveServer

    @property
    def num_refusals(self) -> int:
        metrics = get(self.server.port, "/metrics").body.decode()
        return sum(int(float(n)) for n in re.findall(r'_requests_total\{.*status="429".*\} (\S+)', metrics))


@pytest.fixture
def full(zoo: Callable[..., Path]) -> Iterator[Full]:
    with (
        noise_engine(zoo("qwen3")) as noise,
        LiveServer(noise) as server,
        LocalBackend(engine=noise.engine) as backend,
        occupied(noise, 4),
        backend.chat_stream(chat_body(n=4, max_tokens=1900)),
    ):
        yield Full(noise, server)


def deployment(server: LiveServer, name: str) -> dict[str, Any]:
    where = {"model": "basemlx/noise", "api_base": f"http://127.0.0.1:{server.port}/v1"}
    return {"model_name": GROUP, "litellm_params": where, "model_info": {"id": name}}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_server_is_left_for_another_as_long_as_it_asks_for(
    stream: bool, full: Full, live: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full.noise.engine._desk, "_retry_after_s", lambda: 50)
    router = litellm.Router(
        model_list=[deployment(full.server, "full"), deployment(live, "free")],
        num_retries=2,
        cooldown_time=0.001,  # where no server asks for more
    )

    async def ask() -> None:
        answer = await router.acompletion(**chat_body(model=GROUP), stream=stream)
        assert answer._hidden_params["model_id"] == "free"
        if stream:
            assert [chunk async for chunk in answer][-1].choices[0].finish_reason == "length"

    for _ in range(50):  # it draws lots
        await ask()
        if full.num_refusals:
            break
    for _ in range(8):
        await ask()
    assert full.num_refusals == 1


async def test_a_policy_of_retries_is_followed_by_the_class_of_the_error(full: Full) -> None:
    from litellm.types.router import RetryPolicy

    router = litellm.Router(
        model_list=[deployment(full.server, "full")],
        num_retries=3,
        retry_policy=RetryPolicy(RateLimitErrorRetries=1, BadRequestErrorRetries=0),
    )
    with pytest.raises(litellm.RateLimitError, match="Try again later"):
        await router.acompletion(**chat_body(model=GROUP))
    assert full.num_refusals == 2
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        await router.acompletion(**chat_body(model=GROUP, temperature=9))
