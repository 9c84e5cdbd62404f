"""Jinja for templates that strangers wrote: no way out, and bounded time, memory and output.

A model's chat template is a program. It runs in Jinja's immutable sandbox (no attributes that lead out, no mutation,
no loader), and what the sandbox leaves open is closed here: operators, filters and methods that make large objects
check sizes first, and a watchdog ends a rendering that takes too long. Well-behaved templates pay a few microseconds.

The watchdog raises TemplateTooSlow inside the rendering thread, between two bytecodes. That reaches everything but a
single long call into C, and the size checks keep those short.
"""

import ctypes
import datetime
import heapq
import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_OBJECT_SIZE = 32 * 2**20
"""Characters of a string or items of a list that a template may build."""

MAX_INT_BITS = 4096
_WIDE_FORMAT = re.compile(r"%[^a-zA-Z%]*\d{5}|\*")


class TemplateTooLarge(Exception):
    """The template tried to build something larger than it may."""


class TemplateTooSlow(Exception):
    """The template ran longer than it may."""


class TemplateRaised(Exception):
    """The template itself refused its input, with `raise_exception`."""


def make_environment() -> jinja2.Environment:
    """The environment that chat templates expect: trimmed blocks, loop controls, `tojson`, `raise_exception`,
    `strftime_now`, and the `{% generation %}` tag."""
    return _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])


def _checked(value: Any) -> Any:
    if isinstance(value, str | list | tuple | bytes) and len(value) > MAX_OBJECT_SIZE:
        raise TemplateTooLarge("the template builds an object that is too large")
    return value


def _joined(parts: Iterable[str]) -> str:
    parts = list(parts)
    if sum(map(len, parts)) > MAX_OBJECT_SIZE:
        raise TemplateTooLarge("the template builds a text that is too large")
    return "".join(parts)


class _Generator(CodeGenerator):
    """Sends `~` through the environment, as the sandbox does with the operators it intercepts."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.joined((")
        for argument in node.nodes:
            self.visit(argument, frame)
            self.write(", ")
        self.write("))")


class _Environment(ImmutableSandboxedEnvironment):
    code_generator_class = _Generator
    intercepted_binops: ClassVar[frozenset[str]] = frozenset({"*", "+", "**", "%"})  # type: ignore[misc]
    concat = staticmethod(_joined)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters["tojson"] = _to_json
        for name in (
            "center",
            "indent",
            "wordwrap",
            "replace",
            "batch",
            "slice",
            "format",
            "join",
            "truncate",
        ):
            self.filters[name] = _guarded(self.filters[name])
        self.globals = {
            "range": self.globals["range"],
            "dict": dict,
            "namespace": self.globals["namespace"],
            "cycler": self.globals["cycler"],
            "joiner": self.globals["joiner"],
            "raise_exception": _raise_exception,
            "strftime_now": lambda form: datetime.datetime.now().strftime(form),
        }

    def joined(self, values: tuple[Any, ...]) -> str:
        return _joined(map(str, values))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _check_operands(operator, left, right)
        return _checked(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str | bytes | list):
            _check_arguments(owner, args)
        return _checked(super().call(__context, __obj, *args, **kwargs))


def _check_operands(operator: str, left: Any, right: Any) -> None:
    integers = isinstance(left, int) and isinstance(right, int)
    if operator == "*":
        for sequence, times in ((left, right), (right, left)):
            repeats = isinstance(sequence, str | list | tuple) and isinstance(times, int)
            if repeats and len(sequence) * times > MAX_OBJECT_SIZE:
                raise TemplateTooLarge("the template repeats something too often")
        if integers and left.bit_length() + right.bit_length() > MAX_INT_BITS:
            raise TemplateTooLarge("the template computes a number that is too large")
    elif operator == "**":
        if integers and left.bit_length() * right > MAX_INT_BITS:
            raise TemplateTooLarge("the template computes a number that is too large")
    elif operator == "%" and isinstance(left, str) and _WIDE_FORMAT.search(left):
        raise TemplateTooLarge("the template formats with a width that is too large")


def _check_arguments(owner: Any, args: tuple[Any, ...]) -> None:
    """Methods like `ljust(n)` and filters like `center(n)` grow with their numbers; `replace` and `join` multiply."""
    if any(isinstance(argument, int) and abs(argument) > MAX_OBJECT_SIZE for argument in args):
        raise TemplateTooLarge("the template asks for a width that is too large")
    texts = [argument for argument in args if isinstance(argument, str)]
    items = args[0] if args and isinstance(args[0], list | tuple) else ()
    if hasattr(owner, "__len__") and (len(owner) + 1) * max(map(len, texts), default=0) > MAX_OBJECT_SIZE:
        raise TemplateTooLarge("the template replaces or joins too much")
    if isinstance(owner, str) and len(owner) * len(items) > MAX_OBJECT_SIZE:
        raise TemplateTooLarge("the template joins too much")


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter behind the size checks. Jinja hands some filters a context first; their marks are kept."""

    def guarded(*args: Any, **kwargs: Any) -> Any:
        plain = [a for a in (*args, *kwargs.values()) if isinstance(a, str | int | list | tuple)]
        if plain:
            _check_arguments(plain[0], tuple(plain[1:]))
        return _checked(function(*args, **kwargs))

    guarded.__dict__.update(function.__dict__)
    return guarded


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as chat templates mean it: unescaped, keys in their own order."""
    if indent is not None and not 0 <= indent <= 16:
        raise TemplateTooLarge("the template indents JSON too far")
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: Any) -> None:
    raise TemplateRaised(str(message))


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks assistant text for training; here it is its content."""

    tags: ClassVar[set[str]] = {"generation"}  # type: ignore[misc]

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Watchdog:
    """One thread that ends renderings whose time is up. Started when first needed."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._due: list[tuple[float, int, _Rendering]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    @contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """Raises TemplateTooSlow in the calling thread if the block takes longer."""
        rendering = _Rendering(threading.get_ident())
        with self._condition:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._run, name="basemlx-template-watchdog", daemon=True
                )
                self._thread.start()
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), rendering))
            if self._due[0][2] is rendering:
                self._condition.notify()
        try:
            yield
        finally:
            rendering.finish()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._due:
                    self._condition.wait()
                wait_s = self._due[0][0] - time.monotonic()
                if wait_s > 0:
                    self._condition.wait(wait_s)
                    continue
                _, _, rendering = heapq.heappop(self._due)
            rendering.interrupt()


class _Rendering:
    """A rendering in progress; interrupting and finishing it exclude each other."""

    def __init__(self, thread_id: int) -> None:
        self._thread_id = ctypes.c_ulong(thread_id)
        self._lock = threading.Lock()
        self._finished = False
        self._interrupted = False

    def interrupt(self) -> None:
        with self._lock:
            if not self._finished:
                self._interrupted = True
                _set_async_exception(self._thread_id, ctypes.py_object(TemplateTooSlow))

    def finish(self) -> None:
        """After this no exception arrives any more, also none that was on its way."""
        try:
            with self._lock:
                self._finished = True
                if self._interrupted:
                    _set_async_exception(self._thread_id, None)
        except TemplateTooSlow:  # it arrived just here
            self._finished = True
            raise


_set_async_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
watchdog = _Watchdog()
