"""What strangers send: limits, deadlines, one compilation for many, nothing left running."""

import asyncio
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from basemlx.engine.errors import RequestAborted, UnsupportedSchema
from basemlx.engine.grammar import GrammarCompiler
from basemlx.engine.grammar.cache import ByteCache
from basemlx.engine.grammar.structure import Json
from tests.grammar.conftest import TOKENIZER

# llguidance builds an automaton with a state a remainder, in one go, for minutes.
ENDLESS = 'start: %json {"type": "integer", "multipleOf": 123456789}'


@pytest.fixture
def hasty() -> GrammarCompiler:
    from basemlx.engine.grammar.vocabulary import Vocabulary

    return GrammarCompiler(Vocabulary.from_tokenizer_file(TOKENIZER), deadline_s=2.5)


def test_a_compilation_that_takes_too_long_is_killed_and_the_next_one_works(hasty: GrammarCompiler) -> None:
    with hasty:
        hasty.compile_json_schema({"type": "null"})
        worker = hasty._workers[0]
        pid = worker.pid
        assert pid is not None
        with pytest.raises(UnsupportedSchema, match="too long"):
            hasty.compile_grammar(ENDLESS)
        assert not psutil.pid_exists(pid)
        started = time.monotonic()
        with pytest.raises(UnsupportedSchema, match="too long"):
            hasty.compile_grammar(ENDLESS)  # remembered, not tried again
        assert time.monotonic() - started < 0.5
        assert hasty.compile_json_schema({"type": "boolean"}).accepts("true")


def test_close_leaves_no_process() -> None:
    compiler = GrammarCompiler.from_tokenizer_file(TOKENIZER)
    compiler.compile_json_schema({"type": "null"})
    pid = compiler._workers[0].pid
    assert pid is not None
    compiler.close()
    assert not psutil.pid_exists(pid)


async def test_a_cancelled_request_leaves_nothing_running() -> None:
    with GrammarCompiler.from_tokenizer_file(TOKENIZER) as compiler:
        compiler.compile_json_schema({"type": "null"})
        pid = compiler._workers[0].pid
        assert pid is not None
        task = asyncio.create_task(compiler.compile_grammar_async(ENDLESS))
        await asyncio.sleep(0)
        while not compiler._jobs:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(_wait_gone, pid)
        while compiler._jobs:
            await asyncio.sleep(0.01)
        assert compiler.compile_json_schema({"type": "boolean"}).accepts("true")


def _wait_gone(pid: int) -> None:
    try:
        psutil.Process(pid).wait(timeout=3)
    except psutil.NoSuchProcess:
        return


def test_a_compilation_is_killed_once_the_last_of_those_who_block_for_it_gives_up() -> None:
    with GrammarCompiler.from_tokenizer_file(TOKENIZER) as compiler:
        compiler.compile_json_schema({"type": "null"})
        pid = compiler._workers[0].pid
        assert pid is not None
        events = [threading.Event(), threading.Event()]
        with ThreadPoolExecutor(2) as threads:
            waiting = [threads.submit(compiler.compile_grammar, ENDLESS, event) for event in events]
            while (
                not any(job.waiting == 2 for job in list(compiler._jobs.values())) or len(compiler._idle) == 2
            ):
                time.sleep(0.005)
            events[0].set()
            with pytest.raises(RequestAborted):
                waiting[0].result(timeout=2)
            assert psutil.pid_exists(pid), "somebody else waits for it"
            assert not waiting[1].done()
            events[1].set()
            with pytest.raises(RequestAborted):
                waiting[1].result(timeout=2)
            _wait_gone(pid)
            assert not psutil.pid_exists(pid)
        assert compiler.compile_json_schema({"type": "boolean"}).accepts("true")


def test_a_check_that_nobody_waits_for_ends(compiler: GrammarCompiler) -> None:
    compiled = compiler.compile_json_schema({"type": "array", "uniqueItems": True})
    given_up = threading.Event()
    given_up.set()
    with pytest.raises(RequestAborted):
        compiled.check("[1, 1]", given_up)
    assert compiled.check("[1, 1]")


def test_concurrent_requests_for_one_schema_compile_it_once(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []
    real = compiler._in_worker

    def counted(task: dict[str, object], abandoned: threading.Event) -> dict[str, object]:
        compiled.append(task)
        time.sleep(0.1)
        return real(task, abandoned)

    monkeypatch.setattr(compiler, "_in_worker", counted)
    schema = {"const": "compiled once"}
    results: list[object] = []
    threads = [
        threading.Thread(target=lambda: results.append(compiler.compile_json_schema(schema)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(compiled) == 1
    assert len(set(map(id, results))) == 1


def _nested(depth: int, width: int) -> dict[str, object]:
    if depth == 0:
        return {"type": "string"}
    return {
        "oneOf": [
            {"type": "object", "properties": {f"p{at}": _nested(depth - 1, width)}} for at in range(width)
        ]
    }


@pytest.mark.parametrize(
    "schema",
    [
        _nested(9, 3),
        {"properties": {f"p{at}": {"type": "string"} for at in range(2000)}},
        {"enum": [str(at) for at in range(20_000)]},
        '{"items":' * 100_000 + "{}" + "}" * 100_000,
        {"type": "integer", "multipleOf": 123_456_789},
        {"allOf": [{"anyOf": [{"required": [f"a{i}{j}"]} for j in range(6)]} for i in range(10)]},
        {"pattern": "(" * 2000 + "a" + ")" * 2000},
        {"pattern": "((a{1,1000}){1,1000}){1,1000}b{100001}"},
    ],
    ids=["nested oneOf", "properties", "enum", "depth", "multipleOf", "product", "groups", "repetition"],
)
def test_known_killers_are_errors(compiler: GrammarCompiler, schema: object) -> None:
    started = time.monotonic()
    with pytest.raises(UnsupportedSchema) as caught:
        compiler.compile_json_schema(schema, strict=True)
    assert time.monotonic() - started < 6
    assert len(caught.value.message) < 1000


def test_the_cache_forgets_the_oldest_first_and_stays_within_its_bytes() -> None:
    cache: ByteCache[str] = ByteCache(100)
    cache.put("a", "A", 40)
    cache.put("b", "B", 40)
    assert cache.get("a") == "A"
    cache.put("c", "C", 40)
    assert cache.get("b") is None
    assert (cache.get("a"), cache.get("c"), cache.size_bytes) == ("A", "C", 80)
    cache.put("d", "D", 101)
    assert cache.get("d") is None


def test_the_worker_does_not_import_mlx() -> None:
    import subprocess
    import sys

    path = [folder for folder in sys.path if folder]
    code = (
        f"import sys; sys.path[:] = {path!r}; import basemlx.engine.grammar.worker, basemlx.engine.grammar.tasks; "
        "print([name for name in ('mlx', 'torch', 'tokenizers', 'transformers') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_tokenizer_file_that_is_none_is_an_error(tmp_path: Path) -> None:
    from basemlx.engine.errors import ModelCorrupt

    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelCorrupt):
        GrammarCompiler.from_tokenizer_file(tmp_path / "tokenizer.json")


PATTERNS = [f"^[ab]*{letter}[ab]{{{count}}}$" for letter, count in (("a", 40), ("b", 41), ("a", 43))]
TOO_LARGE = {"type": "string", "allOf": [{"pattern": pattern} for pattern in PATTERNS]}
"""Each is small; the automaton of all three together is not."""


def test_patterns_that_are_too_large_together_are_refused_under_strict_and_checked_otherwise(
    compiler: GrammarCompiler,
) -> None:
    with pytest.raises(UnsupportedSchema) as raised:
        compiler.compile_json_schema(TOO_LARGE, strict=True)
    assert (raised.value.keyword, raised.value.pointer) == ("pattern", "/allOf/0/pattern")
    checked = compiler.compile_json_schema(TOO_LARGE)
    assert [gap.pointer for gap in checked.plan.remaining] == [f"/allOf/{at}/pattern" for at in range(3)]
    valid = "bbb" + "a" + "bb" + "a" + "b" * 40
    assert all(re.search(pattern, valid) for pattern in PATTERNS)
    assert checked.accepts(json.dumps(valid))
    assert not checked.accepts(json.dumps(valid + "a"))
    assert not checked.accepts("3")


def test_so_they_are_within_a_turn(compiler: GrammarCompiler) -> None:
    with pytest.raises(UnsupportedSchema) as raised:
        compiler.compile_structure(Json(TOO_LARGE, strict=True, pointer="/tools/0"))
    assert (raised.value.keyword, raised.value.pointer) == ("pattern", "/tools/0/allOf/0/pattern")
    compiled = compiler.compile_structure(Json(TOO_LARGE, pointer="/tools/0"))
    ((pointer, gaps),) = compiled.remaining
    assert pointer == "/tools/0"
    assert {gap.keyword for gap in gaps} == {"pattern"}
    assert compiled.accepts('"any text"')
    assert not compiled.accepts("3")
