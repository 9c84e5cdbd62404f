"""A client that leaves while its grammar is compiled leaves nothing running."""

from typing import Any

import psutil
import pytest

from basemlx.engine.openai.service import OpenAIService
from tests.serving import NOISE, LiveServer, Noise, ask, chat_body, connect, post, wait_until

# llguidance builds an automaton with a state a remainder, in one go, for minutes.
ENDLESS = 'start: %json {"type": "integer", "multipleOf": 123456789}'


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", chat_body(guided_grammar=ENDLESS)),
        ("/v1/completions", {"model": NOISE, "prompt": "?", "guided_grammar": ENDLESS}),
    ],
)
def test_a_client_that_leaves_while_its_grammar_is_compiled_leaves_no_worker_at_it(
    noise: Noise, path: str, body: dict[str, Any]
) -> None:
    service = OpenAIService(noise.engine)
    with LiveServer(noise, service=service) as server:
        assert ask(server.port, guided_choice=["yes"]).status == 200
        compiler = service._conducts.of(noise.engine.loaded(NOISE)).compiler
        worker = psutil.Process(compiler._workers[0].pid)
        with connect(server.port) as connection:
            connection.sendall(post(server.port, path, body))
            wait_until(lambda: len(compiler._idle) < len(compiler._workers), "a worker to be at it")
        worker.wait(timeout=3)  # its deadline would be later
        wait_until(lambda: not compiler._jobs, "the compilation to be forgotten", 2)
        wait_until(lambda: len(compiler._idle) == len(compiler._workers), "all workers to be idle", 2)
        assert ask(server.port, guided_choice=["no"]).status == 200
