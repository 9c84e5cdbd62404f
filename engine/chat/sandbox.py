"""Renders chat templates, which are programs of strangers, in a process that has nothing to lose.

This file is run as a script by `renderers`, with the folders of jinja2 and markupsafe as arguments; it imports nothing
of basemlx. The sandbox keeps a template from reaching Python. The process keeps it from taking time and memory: it may
be killed at any moment, and timers of the kernel kill it: one of its own computing time, so that a busy machine makes
no template slower, and one of the clock should nobody else do so.

    request:  length, template source (UTF-8); length, JSON {"variables": {…}, "limit_characters": n, "limit_s": s,
              "wait_s": s}
    reply:    one byte, the outcome; length, the prompt or what went wrong (UTF-8)

Lengths are four bytes, big-endian. A first reply, READY with no text, says that imports are done.
"""

import json
import signal
import sys
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, BinaryIO

if __name__ == "__main__":
    sys.path[:] = [*sys.path, *sys.argv[1:]]

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.runtime import Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.parser import Parser

READY, RENDERED, REFUSED, FAILED, TOO_LARGE = b"!", b"r", b"x", b"e", b"l"
MEMORY_LIMIT_BYTES = 1 << 30
MAX_ERROR_CHARACTERS = 300


class TemplateRefusal(TemplateError):
    """The template itself says no, through `raise_exception`."""


class GenerationBlocks(Extension):
    """`{% generation %}` marks the model's own words for training; here its body is simply rendered."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: "Parser") -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class PlainNamespace(Namespace):
    """Jinja's namespace, without names that mean something to Python."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError("names in a namespace must not begin with an underscore")
        super().__setitem__(name, value)


def raise_exception(message: object) -> None:
    raise TemplateRefusal(str(message))


def strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as transformers' templates know it: no HTML escapes."""
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
        default=_listed,
    )


def _listed(value: Any) -> list[Any]:
    """What filters like `map` give."""
    if isinstance(value, Iterator):
        return list(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


class Sandbox(ImmutableSandboxedEnvironment):
    """Lets templates append to lists and pop from them, as Kimi's do: a render's data are its own and gone after it."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return (attr in ("append", "pop") and type(obj) is list) or super().is_safe_attribute(
            obj, attr, value
        )


def make_environment() -> Sandbox:
    """The environment that published templates are written for: transformers' settings, filters and functions."""
    environment = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlocks, loopcontrols], cache_size=0
    )
    environment.filters["tojson"] = tojson
    environment.filters["from_json"] = json.loads
    environment.globals.pop("lipsum")
    environment.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": strftime_now,
        "namespace": PlainNamespace,
        "dict": make_dict,
    }
    return environment


_environment = make_environment()


@lru_cache(maxsize=32)
def compiled(source: str) -> "Template":
    return _environment.from_string(source)


def render(source: str, variables: dict[str, Any], limit_characters: int) -> tuple[bytes, str]:
    """The outcome and its text. Never raises what a template can cause, short of taking the process down."""
    try:
        pieces: list[str] = []
        left = limit_characters
        for piece in compiled(source).generate(variables):
            left -= len(piece)
            if left < 0:
                return TOO_LARGE, f"the prompt grew beyond {limit_characters} characters"
            pieces.append(piece)
        return RENDERED, "".join(pieces)
    except TemplateRefusal as error:
        return REFUSED, _bounded(str(error))
    except MemoryError:
        return FAILED, "out of memory"
    except RecursionError:
        return FAILED, "nested too deeply"
    except Exception as error:
        return FAILED, _bounded(f"{type(error).__name__}: {error}")


def _bounded(message: str) -> str:
    words = " ".join(message[: 4 * MAX_ERROR_CHARACTERS].split())
    return words if len(words) <= MAX_ERROR_CHARACTERS else words[:MAX_ERROR_CHARACTERS] + "…"


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answers requests one by one until the other side is gone."""

    def reply(outcome: bytes, text: str) -> None:
        content = text.encode("utf-8", "surrogatepass")
        replies.write(outcome + len(content).to_bytes(4, "big") + content)
        replies.flush()

    reply(READY, "")
    frames = _frames(requests)
    for source in frames:
        request = json.loads(next(frames).decode("utf-8", "surrogatepass"))
        signal.setitimer(signal.ITIMER_PROF, request["limit_s"])
        signal.setitimer(signal.ITIMER_REAL, request["wait_s"])
        outcome, text = render(source.decode(), request["variables"], request["limit_characters"])
        reply(outcome, text)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _frames(stream: BinaryIO) -> Iterator[bytes]:
    while len(length := stream.read(4)) == 4:
        yield stream.read(int.from_bytes(length, "big"))


def _limit_memory() -> None:
    import resource

    try:
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, most))
    except (ValueError, OSError):  # macOS does not have it; the time limit is left
        pass


if __name__ == "__main__":
    _limit_memory()
    serve(sys.stdin.buffer, sys.stdout.buffer)
