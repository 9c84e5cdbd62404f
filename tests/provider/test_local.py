"""The engine in this process: who waits for a model or a thread holds up nobody else, and not beyond a deadline."""

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from basemlx.engine.deadline import Deadline
from basemlx.engine.errors import DeadlineExceeded, InternalError, ModelNotFound, RequestAborted
from basemlx.engine.grammar.compiler import DEADLINE_S, GrammarCompiler
from basemlx.engine.openai.chat import ChatChunks
from basemlx.engine.openai.chat_request import ChatRequest
from basemlx.engine.openai.chunks import Chunk
from basemlx.engine.openai.service import OpenAIService
from basemlx.engine.openai.turn import Turn
from basemlx.engine.types import OutputDelta
from basemlx.provider.backend import Backend
from basemlx.provider.body import timeout_of
from basemlx.provider.http import HttpBackend
from basemlx.provider.local import LocalBackend
from basemlx.provider.work import NUM_THREADS
from tests.serving import NOISE, PATIENCE_S, Noise, chat_body, wait_until

SLOW = "slow"


@pytest.fixture
def loading(noise: Noise, zoo: Callable[..., Path]) -> Iterator[threading.Event]:
    """The model SLOW is being loaded, until the event is set."""
    begun, go_on = threading.Event(), threading.Event()

    def stall(stage: str, fraction: float) -> None:
        begun.set()
        assert go_on.wait(PATIENCE_S)

    def load() -> None:
        noise.engine.load(SLOW, folder=zoo("qwen3"), progress=stall)

    thread = threading.Thread(target=load)
    thread.start()
    assert begun.wait(PATIENCE_S)
    try:
        yield go_on
    finally:
        go_on.set()
        thread.join(PATIENCE_S)
        noise.check_idle()
        assert noise.engine.unload(SLOW, timeout_s=PATIENCE_S)


async def test_who_waits_for_a_model_holds_up_nobody_else(
    local: LocalBackend, noise: Noise, loading: threading.Event
) -> None:
    waiting = [asyncio.create_task(local.achat(chat_body(model=SLOW))) for _ in range(3 * NUM_THREADS)]
    waiting += [asyncio.create_task(local.atokenize({"model": SLOW, "prompt": "x"})) for _ in range(3)]
    await asyncio.sleep(0)
    answer = await asyncio.wait_for(local.achat(chat_body()), PATIENCE_S)
    assert answer["usage"]["completion_tokens"] == 4
    assert not any(task.done() for task in waiting)
    for task in waiting[1:-1]:
        task.cancel()
    loading.set()
    first, *cancelled, last = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(first, dict)
    assert first["model"] == SLOW
    assert isinstance(last, dict)
    assert last["count"] > 0
    assert all(isinstance(error, asyncio.CancelledError) for error in cancelled)


async def test_a_deadline_holds_while_the_model_is_being_loaded(
    local: LocalBackend,
    http: HttpBackend,
    noise: Noise,
    loading: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("basemlx.provider.http.GRACE_S", 0.0)
    body = chat_body(model=SLOW, timeout=0.05)
    for backend in (local, http):
        with pytest.raises(DeadlineExceeded):
            await backend.achat(body)
        with pytest.raises(DeadlineExceeded):
            await backend.achat_stream(body)
        with pytest.raises(DeadlineExceeded):
            backend.chat(body)
        with pytest.raises(DeadlineExceeded):
            backend.tokenize({"model": SLOW, "prompt": "x", "timeout": 0.05})


async def test_a_deadline_holds_while_all_threads_are_busy(noise: Noise) -> None:
    busy, go_on = threading.Barrier(NUM_THREADS + 1), threading.Event()

    def work() -> None:
        busy.wait(PATIENCE_S)
        go_on.wait(PATIENCE_S)

    with LocalBackend(engine=noise.engine) as backend:
        working = [asyncio.create_task(backend._work.run(work)) for _ in range(NUM_THREADS)]
        await asyncio.to_thread(busy.wait, PATIENCE_S)
        try:
            with pytest.raises(DeadlineExceeded, match=r"0\.05 s passed"):
                await backend.achat(chat_body(timeout=0.05))
        finally:
            go_on.set()
            await asyncio.gather(*working)
        assert (await backend.achat(chat_body()))["choices"]
    noise.check_idle()


async def test_a_request_that_is_given_up_while_it_is_taken_up_gives_everything_back(
    local: LocalBackend, noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    taken: list[Turn] = []
    take_up = OpenAIService.chat

    def slowly(service: OpenAIService, *args: Any, **options: Any) -> Turn:
        taken.append(take_up(service, *args, **options))
        begun.set()
        assert go_on.wait(PATIENCE_S)
        return taken[0]

    monkeypatch.setattr(OpenAIService, "chat", slowly)
    task = asyncio.create_task(local.achat(chat_body(max_tokens=1900)))
    assert await asyncio.to_thread(begun.wait, PATIENCE_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not noise.is_idle
    go_on.set()
    await asyncio.to_thread(noise.check_idle)
    with pytest.raises(RequestAborted):
        taken[0].response()


@pytest.mark.parametrize("name", ["chat", "achat"])
async def test_what_the_model_was_waited_for_is_taken_off_the_time_to_generate(
    name: str, local: LocalBackend, loading: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_s: list[float | None] = []
    take_up = OpenAIService.chat

    def noting(service: OpenAIService, asked: ChatRequest, **options: Any) -> Turn:
        given_s.append(asked.timeout_s)
        return take_up(service, asked, **options)

    monkeypatch.setattr(OpenAIService, "chat", noting)
    body = chat_body(model=SLOW, timeout=PATIENCE_S)
    asked = local.achat(body) if name == "achat" else asyncio.to_thread(local.chat, body)
    task = asyncio.ensure_future(asked)
    await asyncio.sleep(0.1)  # the wait that has to be missing from what is given afterwards
    loading.set()
    assert (await task)["choices"]
    assert given_s[0] is not None
    assert 0 < given_s[0] < PATIENCE_S - 0.05


# what nobody raised on purpose


@pytest.mark.parametrize("name", ["chat", "achat", "chat_stream", "achat_stream"])
async def test_a_fault_of_the_engine_is_an_error_of_the_tree_in_both_transports(
    name: str, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise ZeroDivisionError("canary")

    async def ask() -> None:
        asked = getattr(backend, name)(chat_body())
        await asked if name.startswith("a") else None

    monkeypatch.setattr("basemlx.engine.openai.service.plan_turn", fail)
    with pytest.raises(InternalError) as raised:
        await ask()
    assert (raised.value.status, raised.value.code) == (500, "internal_error")
    assert "canary" not in raised.value.message
    monkeypatch.undo()
    assert backend.chat(chat_body())["choices"]


async def test_a_fault_in_a_stream_ends_it_with_an_error_of_the_tree_in_both_transports(
    backend: Backend, noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    push = ChatChunks.push

    def fail_soon(maker: ChatChunks, prompt_index: int, delta: OutputDelta) -> list[Chunk]:
        if delta.finish_reason is None:
            return push(maker, prompt_index, delta)
        raise ZeroDivisionError("canary")

    monkeypatch.setattr(ChatChunks, "push", fail_soon)
    with pytest.raises(InternalError):
        list(backend.chat_stream(chat_body()))
    with pytest.raises(InternalError):
        async for _ in await backend.achat_stream(chat_body()):
            pass
    with pytest.raises(InternalError):
        await backend.achat(chat_body())
    await asyncio.to_thread(noise.check_idle)


# grammars

# llguidance builds an automaton with a state a remainder, in one go, for minutes.
ENDLESS = {"guided_grammar": 'start: %json {"type": "integer", "multipleOf": 123456789}'}
CHAT = chat_body(**ENDLESS)
COMPLETION = {"model": NOISE, "prompt": "?", **ENDLESS}


@pytest.fixture
def compiler(local: LocalBackend, noise: Noise) -> Iterator[GrammarCompiler]:
    """The one of `noise`; whatever was compiled is given up long before its own deadline."""
    assert local.chat(chat_body(guided_choice=["yes"]))["choices"]
    made = local._started()._conducts.of(noise.engine.loaded(NOISE)).compiler
    yield made
    wait_until(lambda: not made._jobs, "the compilation to be forgotten", 2)
    wait_until(lambda: len(made._idle) == len(made._workers), "all workers to be idle", 2)
    assert local.chat(chat_body(guided_choice=["no"]))["choices"]
    noise.check_idle()


@pytest.mark.parametrize("name", ["achat", "achat_stream", "acompletion", "acompletion_stream"])
async def test_a_caller_that_is_cancelled_while_its_grammar_is_compiled_ends_that(
    name: str, local: LocalBackend, compiler: GrammarCompiler
) -> None:
    ask = getattr(local, name)
    task = asyncio.create_task(ask(COMPLETION if "completion" in name else CHAT))
    await asyncio.to_thread(
        wait_until, lambda: len(compiler._idle) < len(compiler._workers), "a worker to be at it"
    )
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("body", [CHAT, COMPLETION], ids=["chat", "completion"])
@pytest.mark.usefixtures("compiler")
async def test_a_deadline_holds_while_a_grammar_is_compiled(
    body: dict[str, Any], local: LocalBackend, http: HttpBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("basemlx.provider.http.GRACE_S", 0.0)
    short = {**body, "timeout": 0.3}
    started_s = time.monotonic()
    for backend in (local, http):
        ask, aask = (
            (backend.completion_stream, backend.acompletion)
            if body is COMPLETION
            else (backend.chat, backend.achat_stream)
        )
        with pytest.raises(DeadlineExceeded, match=r"0\.3 s passed"):
            ask(short)
        with pytest.raises(DeadlineExceeded, match=r"0\.3 s passed"):
            await aask(short)
    assert time.monotonic() - started_s < DEADLINE_S


def test_what_was_waited_for_is_taken_off_the_time() -> None:
    deadline, late = Deadline(100), Deadline(1e-9)
    assert 0 < deadline.remaining_s() < 100
    with pytest.raises(DeadlineExceeded):
        late.remaining_s()
    given_up: list[object] = []
    never: Future[int] = Future()
    with pytest.raises(DeadlineExceeded):
        Deadline(0.01).wait(never, given_up.append)
    assert given_up == [never]


@pytest.mark.parametrize("timeout", [None, True, "5", 0, -1, float("nan"), float("inf"), 10**400, {}])
def test_what_is_no_time_is_left_to_whoever_reads_the_body(timeout: object) -> None:
    assert timeout_of({"timeout": timeout}) is None


async def test_a_folder_is_a_model_here(noise: Noise, zoo: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "of-mine"
    shutil.copytree(zoo("qwen3"), folder)
    body = chat_body(model=str(folder), seed=1)
    with LocalBackend(engine=noise.engine) as backend:
        answers = await asyncio.gather(*(backend.achat(body) for _ in range(3)))
        assert {answer["model"] for answer in answers} == {"of-mine"}
        assert backend.chat(body)["choices"] == answers[0]["choices"]
        assert noise.engine.unload("of-mine")
        missing = tmp_path / "missing"
        with pytest.raises(ModelNotFound):
            backend.chat(chat_body(model=str(missing)))
        shutil.copytree(folder, missing)
        assert backend.chat(chat_body(model=str(missing)))["model"] == "missing"
        assert noise.engine.unload("missing")


async def test_a_folder_is_no_model_over_http(http: HttpBackend, zoo: Callable[..., Path]) -> None:
    with pytest.raises(ModelNotFound):
        await http.achat(chat_body(model=str(zoo("qwen3"))))
