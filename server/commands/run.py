"""`basemlx run`: one answer or a conversation, by an engine in this process, streamed as it is made."""

import logging
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basemlx.engine.errors import BaseMLXError
from basemlx.server.commands.terminal import load_progress, printable, waiting

if TYPE_CHECKING:
    from basemlx.engine.engine import Engine
    from basemlx.engine.openai.service import OpenAIService

EXIT_OK, EXIT_FAILURE, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130
HELP = "/reset starts anew · /exit leaves · Ctrl-C stops an answer · Ctrl-D leaves"
DIM, PLAIN = "\x1b[2m", "\x1b[0m"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """None leaves a field out of the request, so that the model's own default holds."""

    model: str
    system: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    think: bool | None = None
    shows_stats: bool = False
    adapter: Path | None = None


def run(prompt: str | None, options: RunOptions) -> int:
    """The exit code. Raises BaseMLXError if the model cannot be loaded."""
    is_conversation = prompt is None and sys.stdin.isatty()
    if prompt is None and not is_conversation:
        prompt = sys.stdin.read()
    if prompt is not None and not prompt.strip():
        print("basemlx: the prompt is empty: give it as an argument or on standard input", file=sys.stderr)
        return EXIT_USAGE
    from basemlx.engine.runtime import prepare

    prepare(stand_alone=True)
    # A terminal is no log: what ends the command is said in one line, and tracebacks of a model's faults are not part.
    logging.getLogger("basemlx").setLevel(logging.ERROR)
    from basemlx.engine.config import EngineConfig
    from basemlx.engine.engine import Engine
    from basemlx.engine.openai.service import OpenAIService
    from basemlx.server.commands.naming import meant

    with Engine(EngineConfig(max_num_sequences=1, max_waiting=0)) as engine:
        with load_progress(options.model) as progress:
            name = engine.load(meant(options.model), adapter=options.adapter, progress=progress).name
        conversation = Conversation(engine, OpenAIService(engine), name, options)
        if prompt is None:
            return conversation.hold()
        return conversation.answer(prompt)


class Conversation:
    """The messages so far. An answer that was stopped stays in them as far as it came."""

    def __init__(self, engine: "Engine", service: "OpenAIService", model: str, options: RunOptions) -> None:
        self._engine = engine
        self._service = service
        self._model = model
        self._options = options
        self._messages: list[dict[str, str]] = []
        self.reset()

    def reset(self) -> None:
        system = self._options.system
        self._messages = [] if system is None else [{"role": "system", "content": system}]

    def hold(self) -> int:
        """Reads and answers until the end of input or /exit."""
        _enable_line_editing()
        print(f"{self._model} · {HELP}", file=sys.stderr)
        while True:
            try:
                text = input(">>> ").strip()
            except EOFError:
                print(file=sys.stderr)
                return EXIT_OK
            except KeyboardInterrupt:
                print(f"\n{HELP}", file=sys.stderr)
                continue
            if text == "/exit":
                return EXIT_OK
            if text == "/reset":
                self.reset()
            elif text.startswith("/"):
                print(HELP, file=sys.stderr)
            elif text:
                self.answer(text)

    def answer(self, prompt: str) -> int:
        """Streams the answer to `prompt` and remembers both. The exit code it would mean."""
        self._messages.append({"role": "user", "content": prompt})
        screen = _Screen()
        status = EXIT_OK
        try:
            self._stream(screen)
        except KeyboardInterrupt:
            status = EXIT_INTERRUPTED
        except BaseMLXError as error:
            screen.end()
            print(f"basemlx: {error.message}", file=sys.stderr)
            status = EXIT_FAILURE
        screen.end()
        if screen.content:
            self._messages.append({"role": "assistant", "content": screen.content})
        else:
            self._messages.pop()
        return status

    def _stream(self, screen: "_Screen") -> None:
        started_s = time.monotonic()
        first_s: float | None = None
        usage: dict[str, Any] = {}
        with (
            self._service.chat(self._body()) as turn,
            waiting(lambda: _reading(*turn.prompt_progress)) as stop_waiting,
        ):
            for chunk in turn:
                usage = chunk.get("usage") or usage
                for choice in chunk["choices"]:
                    delta = choice["delta"]
                    if first_s is None and (delta.get("content") or delta.get("reasoning_content")):
                        first_s = time.monotonic()
                        stop_waiting()
                    screen.show_reasoning(delta.get("reasoning_content") or "")
                    screen.show(delta.get("content") or "")
            timings = turn.timings
        screen.end()
        if self._options.shows_stats:
            self._print_stats(
                usage, started_s, first_s, timings.tokens_per_s if timings is not None else None
            )

    def _body(self) -> dict[str, Any]:
        options = self._options
        body: dict[str, Any] = {
            "model": self._model,
            "messages": self._messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for field_name in ("temperature", "max_tokens", "seed"):
            if getattr(options, field_name) is not None:
                body[field_name] = getattr(options, field_name)
        if options.think is not None:
            body["chat_template_kwargs"] = {"enable_thinking": options.think}
        return body

    def _print_stats(
        self, usage: dict[str, Any], started_s: float, first_s: float | None, tokens_per_s: float | None
    ) -> None:
        stats = self._engine.stats()
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        first = "-" if first_s is None else f"{(first_s - started_s) * 1e3:.0f} ms"
        speed = "-" if tokens_per_s is None else f"{tokens_per_s:.1f} tok/s"
        print(
            f"{usage.get('completion_tokens', 0)} tokens, {speed} · first token {first} · "
            f"prompt {usage.get('prompt_tokens', 0)} tokens, {cached} cached · "
            f"memory: {stats.active_bytes / 1e6:.0f} MB in use, {stats.peak_bytes / 1e6:.0f} MB at most, "
            f"process {_resident_bytes() / 1e6:.0f} MB",
            file=sys.stderr,
        )


class _Screen:
    """Standard output: an answer as it comes; thinking, dimmed, on a terminal only."""

    def __init__(self) -> None:
        self.content = ""
        self._is_terminal = sys.stdout.isatty()
        self._is_dim = False
        self._ends_line = True

    def show_reasoning(self, text: str) -> None:
        if text and self._is_terminal:
            self._write(("" if self._is_dim else DIM) + printable(text))
            self._is_dim = True

    def show(self, text: str) -> None:
        if not text:
            return
        self.content += text
        if self._is_dim:
            self._is_dim = False
            self._write(PLAIN + "\n")
        self._write(printable(text) if self._is_terminal else text)

    def end(self) -> None:
        """Leaves the cursor at the start of a line. May be called again."""
        tail = (PLAIN if self._is_dim else "") + ("" if self._ends_line else "\n")
        self._is_dim = False
        if tail:
            self._write(tail)
        self._ends_line = True

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
        self._ends_line = text.endswith("\n")


def _reading(computed: int, total: int) -> str:
    return f"reading the prompt: {computed:,} of {total:,} tokens" if total else "reading the prompt"


def _enable_line_editing() -> None:
    with suppress(ImportError):
        import readline  # noqa: F401 - its import is what gives input() history and editing


def _resident_bytes() -> int:
    """What the process holds now; where that cannot be read, the most it has held."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    import os

    return pages * os.sysconf("SC_PAGE_SIZE")
