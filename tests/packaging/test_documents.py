"""Figures in the documents are those of the code."""

import re
from pathlib import Path

import pytest

from basemlx.engine import types
from basemlx.engine.chat import renderers, sandbox, template
from basemlx.engine.config import EngineConfig
from basemlx.engine.models import config, headers
from basemlx.engine.openai import completion_request, json_body, messages
from basemlx.server import settings

ROOT = Path(__file__).parents[2]
SERVER, ENGINE = settings.ServerSettings(), EngineConfig()


def mib(size_bytes: int) -> str:
    return f"{size_bytes // 2**20} MiB"


DEFAULTS = {
    "address": f"{SERVER.host}:{SERVER.port}",
    "API key": f"none on loopback, needed elsewhere; {settings.MIN_KEY_CHARACTERS} characters or more",
    "request body": f"{mib(SERVER.max_body_bytes)}; all bodies held at once {mib(SERVER.max_held_body_bytes)}",
    "headers of a request": f"{SERVER.max_header_bytes // 1024} KiB",
    "connections": f"{SERVER.max_connections}; the longest silent makes room",
    "head of a request complete within": f"{SERVER.header_timeout_s:g} s",
    "its body complete within": f"{SERVER.body_timeout_s:g} s",
    "unread answer kept for": f"{SERVER.write_timeout_s:g} s",
    "idle connection kept for": f"{SERVER.keep_alive_s:g} s",
    "answers generated together": f"{ENGINE.max_num_sequences}",
    "answers waiting beyond those": f"{ENGINE.max_waiting}, then 429 with `Retry-After`",
    "deadline of a request, waiting included": f"{ENGINE.request_timeout_s:g} s",
    "running answers after SIGTERM": f"{SERVER.drain_timeout_s:g} s, then an error frame",
    "JSON depth": f"{json_body.MAX_DEPTH}",
    "values in a JSON body": f"{json_body.MAX_VALUES:,}",
    "messages": f"{messages.MAX_MESSAGES:,}, of {messages.MAX_PARTS:,} parts each",
    "prompts in one completion": f"{completion_request.MAX_PROMPTS}",
    "`n`": f"{types.MAX_CHOICES}",
    "`top_logprobs`": f"{types.MAX_TOP_LOGPROBS}",
    "`stop`": f"{types.MAX_STOP_STRINGS} strings of {types.MAX_STOP_CHARACTERS} characters",
    "`logit_bias`": f"{types.MAX_LOGIT_BIAS_ENTRIES:,} tokens",
    "rendering a chat template": f"{renderers.TIME_LIMIT_S:g} s, {sandbox.MEMORY_LIMIT_BYTES // 2**30} GiB",
    "chat template": mib(template.MAX_TEMPLATE_BYTES),
    "JSON files of a model": mib(config.MAX_JSON_BYTES),
    "safetensors header": mib(headers.MAX_HEADER_BYTES),
}


@pytest.fixture(scope="module")
def documented() -> dict[str, str]:
    rows = re.findall(
        r"^\| (.+?) \| (.+?) \|", (ROOT / "SECURITY.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    return dict(rows)


@pytest.mark.parametrize("what", DEFAULTS)
def test_a_default_in_security_md_is_the_one_in_force(what: str, documented: dict[str, str]) -> None:
    assert documented[what] == DEFAULTS[what]


def test_the_options_that_security_md_names_exist() -> None:
    from typer.testing import CliRunner

    from basemlx.server.cli import app

    named = set(re.findall(r"`(--[a-z-]+)`", (ROOT / "SECURITY.md").read_text(encoding="utf-8")))
    shown = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).output
    assert {option for option in named if option not in shown} == set()
    assert len(named) >= 15


def test_every_make_target_of_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        named = set(re.findall(r"^(?:\$ )?make ([a-z-]+)", text, re.MULTILINE)) | set(
            re.findall(r"`make ([a-z-]+)", text)
        )
        assert named <= targets, document


DOCUMENTS = [path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")) if path.suffixes == [".md"]]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_blocks_of_code_open_and_close_in_turn(path: Path) -> None:
    is_open = False
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("```"):
            label = line.strip()[3:]
            assert re.fullmatch(r"[a-z]*", label), line
            assert not (is_open and label), line
            is_open = not is_open
    assert not is_open
