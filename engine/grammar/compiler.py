"""Compiles schemas, regular expressions, choices and grammars for one vocabulary; what the rest of the engine uses.

    compiler = GrammarCompiler.from_tokenizer_file("tokenizer.json")
    constraint = compiler.compile_json_schema(schema, strict=True)    # UnsupportedSchema if not enforceable in full
    constraint.accepts('{"a": 1}')                                    # walks the served path
    matcher = constraint.matcher()                                    # for one choice of a request

What a request brings is looked at first in a worker process, under a deadline; only what went well there is compiled
here, and of xgrammar's, which are not tried there, only small ones. Requests for the same thing at the same time share
one compilation, and one that everyone has given up is killed: whoever blocks for it gives it up by the event that it
brought (`cancelled`), and RequestAborted is raised. Results are kept in a cache bounded by bytes, refusals too. Loads
no model; knows nothing of requests.
"""

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from basemlx.engine.errors import QueueFull, RequestAborted, UnsupportedSchema
from basemlx.engine.grammar.backend import CompiledGrammar, Matcher
from basemlx.engine.grammar.cache import ByteCache
from basemlx.engine.grammar.expand import Gap
from basemlx.engine.grammar.languages import words
from basemlx.engine.grammar.limits import DEFAULT_LIMITS, SchemaLimits, read_schema, schema_text, too_large
from basemlx.engine.grammar.llguidance_backend import LLGuidanceBackend
from basemlx.engine.grammar.schema import SchemaPlan
from basemlx.engine.grammar.structure import Node, json_nodes
from basemlx.engine.grammar.structure_json import node_json
from basemlx.engine.grammar.tasks import plan_in, raised, remaining_in
from basemlx.engine.grammar.terminals import plain_terminal
from basemlx.engine.grammar.validator import Violation
from basemlx.engine.grammar.vocabulary import Vocabulary
from basemlx.engine.grammar.worker import CompileWorker, Task, TaskAbandoned
from basemlx.engine.grammar.xgrammar_backend import XGrammarBackend

DEADLINE_S = 5.0
CACHE_BYTES = 64 * 1024 * 1024
MAX_WORKERS = 2
POLL_S = 0.05
"""How often whoever waits for a compilation looks whether it is still wanted."""
MAX_GRAMMAR_CHARS = 64 * 1024
MAX_CHOICES = 2_000
MAX_STRUCTURE_CHARS = 4 * 1024 * 1024
"""Of a turn's schemas together, and of its structure: definitions stand in each parameter that refers to them."""
MAX_XGRAMMAR_CHARS = 2 * 1024
"""Of a turn's schemas together. xgrammar compiles in this process, where nothing can stop it, so it gets only what it
is done with at once (`xgrammar_backend`); larger ones are llguidance's, tried in the worker before."""


@dataclass(frozen=True)
class Compiled:
    """A constraint for one vocabulary (`engine.core.constraint.Constraint`); make a matcher for each choice.

    `plan` is None for what is not a schema. `grammar` is None where nothing satisfies the schema. `remaining`: of a
    turn's structure, pointers of the values whose schema the grammar does not enforce in full, each with its gaps.
    """

    grammar: CompiledGrammar | None
    plan: SchemaPlan | None
    schema: str | None
    _compiler: "GrammarCompiler" = field(repr=False)
    remaining: tuple[tuple[str, tuple[Gap, ...]], ...] = ()

    def matcher(self) -> Matcher:
        """Raises UnsupportedSchema if there is nothing to generate: no value satisfies the schema."""
        if self.grammar is None:
            raise UnsupportedSchema("No JSON value satisfies the schema.", pointer="")
        return self.grammar.matcher()

    @property
    def needs_check(self) -> bool:
        """Whether a finished document has to be validated, because the grammar does not enforce all of the schema."""
        return self.plan is not None and bool(self.plan.remaining)

    def accepts(self, text: str) -> bool:
        """Whether `text` could be the answer: spelled with tokens the grammar allows, complete, and valid where the
        grammar leaves something to be checked."""
        if self.grammar is None:
            return False
        try:
            data = text.encode()
        except UnicodeEncodeError:
            return False
        if not self.grammar.matcher().accepts_bytes(data):
            return False
        return not self.needs_check or not self.check(text)

    def check(self, text: str, cancelled: threading.Event | None = None) -> list[Violation]:
        """Validates a finished document, whatever of its schema the grammar enforces: what is wrong with it, if
        anything. Raises UnsupportedSchema if that takes too long."""
        if self.schema is None:
            return []
        return self._compiler._check(self.schema, text, cancelled)


class _Job:
    """One compilation and everyone who waits for it."""

    def __init__(self) -> None:
        self.result: Future[Compiled] = Future()
        self.abandoned = threading.Event()
        self.waiting = 0


class GrammarCompiler:
    """Safe to use from any thread. `close` ends its processes; so does the end of this process."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        limits: SchemaLimits = DEFAULT_LIMITS,
        deadline_s: float = DEADLINE_S,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.vocabulary = vocabulary
        self.backend = LLGuidanceBackend(vocabulary)
        self._limits = limits
        self._deadline_s = deadline_s
        self._cache: ByteCache[Compiled | UnsupportedSchema] = ByteCache(cache_bytes)
        self._workers = [CompileWorker() for _ in range(MAX_WORKERS)]
        self._idle = list(reversed(self._workers))
        self._worker_freed = threading.Condition()
        self._jobs: dict[Hashable, _Job] = {}
        self._jobs_lock = threading.Lock()
        self._threads = ThreadPoolExecutor(16, thread_name_prefix="grammar")

    @classmethod
    def from_tokenizer_file(cls, path: Path | str, vocab_size: int | None = None) -> "GrammarCompiler":
        """For a tokenizer.json; `vocab_size` is the width of the model's logits. Raises ModelCorrupt."""
        return cls(Vocabulary.from_tokenizer_file(path, vocab_size))

    def warm_up(self) -> None:
        """Starts a worker, so that the first schema does not wait for it. Returns at once."""
        self._workers[0].start()

    def close(self) -> None:
        for worker in self._workers:
            worker.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> "GrammarCompiler":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self, schema: object) -> SchemaPlan:
        """How a schema would be enforced. Raises UnsupportedSchema if it is malformed or too large."""
        compiled = self._schema(schema)()
        assert compiled.plan is not None
        return compiled.plan

    def compile_json_schema(
        self, schema: object, strict: bool = False, cancelled: threading.Event | None = None
    ) -> Compiled:
        """`schema` as parsed JSON or its text. Raises UnsupportedSchema: malformed, too large or too slow; and under
        `strict`, where the grammar would not enforce it in full."""
        return _allowed(self._schema(schema)(cancelled), strict)

    async def compile_json_schema_async(self, schema: object, strict: bool = False) -> Compiled:
        """The same; cancelling it leaves nothing running that nobody else waits for."""
        return _allowed(await self._async(self._schema(schema)), strict)

    def compile_json_object(self, cancelled: threading.Event | None = None) -> Compiled:
        """Any JSON object, with bounded white space."""
        return self.compile_json_schema({"type": "object"}, cancelled=cancelled)

    def compile_regex(self, regex: str, cancelled: threading.Event | None = None) -> Compiled:
        """Texts that `regex` (ECMAScript) matches from end to end. Raises UnsupportedSchema."""
        return self._run(("regex", regex), {"kind": "regex", "regex": regex})(cancelled)

    def compile_choice(self, choices: Sequence[str], cancelled: threading.Event | None = None) -> Compiled:
        """One of the given texts. Raises UnsupportedSchema."""
        if not choices or len(choices) > MAX_CHOICES or not all(isinstance(text, str) for text in choices):
            raise UnsupportedSchema(f"A choice is between 1 and {MAX_CHOICES} texts.", keyword="choice")
        if sum(map(len, choices)) > MAX_GRAMMAR_CHARS:
            raise UnsupportedSchema("The choices are too long.", keyword="choice")
        lark = f"start: T\nT: {plain_terminal(words(*choices))}\n"
        return self._run(("grammar", lark), {"kind": "grammar", "grammar": lark})(cancelled)

    def compile_grammar(self, text: str, cancelled: threading.Event | None = None) -> Compiled:
        """A context-free grammar, in llguidance's Lark or in GBNF (`root ::= …`). Raises UnsupportedSchema."""
        return self._grammar(text)(cancelled)

    async def compile_grammar_async(self, text: str) -> Compiled:
        """The same; cancelling it leaves nothing running that nobody else waits for."""
        return await self._async(self._grammar(text))

    def _grammar(self, text: str) -> "_Waiter":
        if len(text) > MAX_GRAMMAR_CHARS:
            raise UnsupportedSchema(
                f"The grammar has more than {MAX_GRAMMAR_CHARS} characters.", keyword="grammar"
            )
        return self._run(("grammar", text), {"kind": "grammar", "grammar": text})

    def compile_structure(self, node: Node, cancelled: threading.Event | None = None) -> Compiled:
        """A turn's structure, on xgrammar where its schema compiler enforces every value in it, else on llguidance.
        Raises UnsupportedSchema, whose pointer says where in the request."""
        size = 0
        for value in json_nodes(node):
            size += len(schema_text(read_schema(value.schema, self._limits), self._limits))
            if size > MAX_STRUCTURE_CHARS:
                raise too_large("is too large together with the others")
        written = node_json(node)
        text = json.dumps(written, ensure_ascii=False)
        if len(text) > MAX_STRUCTURE_CHARS:
            raise too_large("is too large together with the others")
        takes_xgrammar = size <= MAX_XGRAMMAR_CHARS and self._xgrammar is not None
        task: Task = {
            "kind": "structure",
            "node": written,
            "controls": dict(self.vocabulary.controls),
            "prefer": "xgrammar" if takes_xgrammar else "llguidance",
        }
        key = ("structure", text)
        return self._waiter(key, lambda abandoned: self._compile_structure(task, size, abandoned))(cancelled)

    def _compile_structure(self, task: Task, size: int, abandoned: threading.Event) -> tuple[Compiled, int]:
        answer = raised(self._in_worker(task, abandoned))
        grammar: CompiledGrammar
        if answer["engine"] == "xgrammar":
            assert self._xgrammar is not None
            grammar = self._xgrammar.compile_structural_tag(answer["text"])
        else:
            try:
                grammar = self.backend.compile_lark(answer["text"])
            except UnsupportedSchema:
                if "loosely" in task:
                    raise
                return self._compile_structure(task | {"loosely": True}, size, abandoned)
        compiled = Compiled(grammar, None, None, self, remaining_in(answer))
        return compiled, size + 1024 + grammar.size_bytes

    @cached_property
    def _xgrammar(self) -> XGrammarBackend | None:
        """Made when first needed; None where xgrammar is not installed."""
        try:
            return XGrammarBackend(self.vocabulary)
        except ImportError:
            return None

    def _schema(self, schema: object) -> "_Waiter":
        text = schema_text(read_schema(schema, self._limits), self._limits)
        return self._run(("schema", text), {"kind": "schema", "schema": text}, schema=text)

    def _run(self, key: tuple[str, str], task: Task, schema: str | None = None) -> "_Waiter":
        return self._waiter(key, lambda abandoned: self._compile(task, schema, abandoned))

    def _waiter(
        self, key: tuple[str, str], compile_it: "Callable[[threading.Event], tuple[Compiled, int]]"
    ) -> "_Waiter":
        """`compile_it` gives what is compiled and how many bytes it holds. Refusals are remembered too."""
        name = (key[0], hashlib.sha256(key[1].encode("utf-8", "surrogatepass")).digest())

        def remembered(abandoned: threading.Event) -> Compiled:
            try:
                compiled, size = compile_it(abandoned)
            except UnsupportedSchema as error:
                self._cache.put(name, error, 1024)
                raise
            self._cache.put(name, compiled, size)
            return compiled

        return _Waiter(self, name, remembered)

    def _compile(self, task: Task, schema: str | None, abandoned: threading.Event) -> tuple[Compiled, int]:
        answer = raised(self._in_worker(task, abandoned))
        plan = plan_in(answer) if schema is not None else None
        lark = answer["lark"]
        try:
            grammar = None if lark is None else self.backend.compile_lark(lark)
        except UnsupportedSchema:
            if schema is None or "loosely" in task:
                raise
            return self._compile(task | {"loosely": True}, schema, abandoned)
        size = len(schema or "") + 1024 + (grammar.size_bytes if grammar is not None else 0)
        return Compiled(grammar, plan, schema, self), size

    def _in_worker(self, task: Task, abandoned: threading.Event) -> dict[str, Any]:
        deadline = time.monotonic() + self._deadline_s
        with self._worker_freed:
            while not self._idle:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise QueueFull("Too many schemas are being compiled.", retry_after_s=5)
                self._worker_freed.wait(min(left, POLL_S))
                if abandoned.is_set():
                    raise TaskAbandoned
            worker = self._idle.pop()
        try:
            return worker.run(task, deadline, abandoned)
        finally:
            with self._worker_freed:
                self._idle.append(worker)
                self._worker_freed.notify()

    def _check(self, schema: str, text: str, cancelled: threading.Event | None) -> list[Violation]:
        task = {"kind": "document", "schema": schema, "text": text}
        try:
            answer = raised(self._in_worker(task, cancelled or threading.Event()))
        except TaskAbandoned:
            raise RequestAborted("The check was given up.") from None
        return [Violation(*violation) for violation in answer["violations"]]

    async def _async(self, waiter: "_Waiter") -> Compiled:
        known = waiter.known()
        if known is not None:
            return known
        job = waiter.join()
        try:
            result = await asyncio.shield(asyncio.wrap_future(job.result))
        except TaskAbandoned:
            raise RequestAborted("The compilation was given up.") from None
        finally:
            waiter.leave(job)
        return result


class _Waiter:
    """Gets one compiled thing: from the cache, from a compilation that is under way, or from a new one."""

    def __init__(
        self, compiler: GrammarCompiler, name: Hashable, compile_it: Callable[[threading.Event], Compiled]
    ) -> None:
        self._compiler = compiler
        self._name = name
        self._compile_it = compile_it

    def __call__(self, cancelled: threading.Event | None = None) -> Compiled:
        known = self.known()
        if known is not None:
            return known
        job = self.join()
        try:
            result = _result(job.result, cancelled)
        except TaskAbandoned:
            raise RequestAborted("The compilation was given up.") from None
        finally:
            self.leave(job)
        return result

    def known(self) -> Compiled | None:
        known = self._compiler._cache.get(self._name)
        if isinstance(known, UnsupportedSchema):
            raise UnsupportedSchema(known.message, keyword=known.keyword, pointer=known.pointer)
        return known

    def join(self) -> _Job:
        compiler = self._compiler
        with compiler._jobs_lock:
            job = compiler._jobs.get(self._name)
            if job is None or job.abandoned.is_set():
                job = compiler._jobs[self._name] = _Job()
                compiler._threads.submit(self._work, job)
            job.waiting += 1
            return job

    def leave(self, job: _Job) -> None:
        with self._compiler._jobs_lock:
            job.waiting -= 1
            if job.waiting == 0 and not job.result.done():
                job.abandoned.set()

    def _work(self, job: _Job) -> None:
        try:
            result = self._compile_it(job.abandoned)
        except Exception as error:
            self._finish(job, error)
        else:
            self._finish(job, result)

    def _finish(self, job: _Job, outcome: Compiled | BaseException) -> None:
        with self._compiler._jobs_lock:
            if self._compiler._jobs.get(self._name) is job:
                del self._compiler._jobs[self._name]
        if isinstance(outcome, BaseException):
            job.result.set_exception(outcome)
        else:
            job.result.set_result(outcome)


def _result(future: "Future[Compiled]", cancelled: threading.Event | None) -> Compiled:
    """Raises TaskAbandoned, too, once `cancelled` is set."""
    while cancelled is not None:
        if cancelled.is_set():
            raise TaskAbandoned
        if wait([future], timeout=POLL_S).done:
            break
    return future.result()


def _allowed(compiled: Compiled, strict: bool) -> Compiled:
    if strict and compiled.plan is not None and compiled.plan.remaining:
        raise compiled.plan.refusal()
    return compiled
