"""A model whose chat template fails, escapes or runs away: the request is refused, the server goes on."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from basemlx.engine.errors import BaseMLXError
from basemlx.engine.openai.service import OpenAIService
from tests.serving import LiveServer, ask, chat_body, exchange, get, noise_engine, post

TEMPLATES = {
    "fails": "{{ raise_exception('canary') }}",
    "divides by zero": "{{ 1 // 0 }}",
    "is no template": "{% if %}",
    "runs away": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "fills memory": "{{ 'x' * 3000000000 }}",
    "escapes": "{{ messages.__class__.__mro__ }}",
}


def folder_with(template: str, whole: Path, folder: Path) -> Path:
    """The model with another chat template, wherever it keeps its own."""
    folder.mkdir()
    for file in whole.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.fixture(scope="module")
def templated(zoo: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with a model for every template that can be loaded."""
    root = tmp_path_factory.mktemp("templates")
    with noise_engine(zoo("qwen3"), warm_up=False) as noise:
        for name, template in TEMPLATES.items():
            if name != "is no template":
                noise.engine.load(
                    name, folder=folder_with(template, zoo("qwen3"), root / name.replace(" ", "-"))
                )
        with LiveServer(noise) as server:
            yield server


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "is no template"])
def test_a_bad_template_fails_the_request_and_nothing_else(name: str, templated: LiveServer) -> None:
    started_s = time.monotonic()
    answer = ask(templated.port, model=name)
    assert answer.status == 400
    assert answer.code is None or isinstance(answer.code, str)
    assert "template" in answer.json["error"]["message"]
    assert time.monotonic() - started_s < 20
    assert get(templated.port, "/health").status == 200
    assert ask(templated.port).status == 200
    completion = {"model": name, "prompt": "x", "max_tokens": 1}
    assert exchange(templated.port, post(templated.port, "/v1/completions", completion)).status == 200
    templated.noise.check_idle()


def test_others_are_answered_while_a_template_runs_away(templated: LiveServer) -> None:
    with ThreadPoolExecutor(2) as clients:
        runaways = [clients.submit(ask, templated.port, model="runs away") for _ in range(2)]
        assert ask(templated.port).status == 200
        assert not all(runaway.done() for runaway in runaways)
        assert [runaway.result().status for runaway in runaways] == [400, 400]


def test_a_template_that_is_none_is_found_at_load_or_at_the_first_request(
    zoo: Callable[..., Path], tmp_path: Path
) -> None:
    folder = folder_with(TEMPLATES["is no template"], zoo("qwen3"), tmp_path / "none")
    with noise_engine(zoo("qwen3"), warm_up=False) as noise:

        def load_and_ask() -> None:
            noise.engine.load("none", folder=folder)
            OpenAIService(noise.engine).chat(chat_body(model="none"))

        with pytest.raises(BaseMLXError, match="template"):
            load_and_ask()
        noise.check_idle()
