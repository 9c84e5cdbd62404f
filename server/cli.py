"""The command line. Options and help are here, what a command does is in server/commands/, imported when it is called:
`basemlx --help` has to be quick, and a refused setting must not first load a model.

Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 130 interrupted.
"""

import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from basemlx import __version__
from basemlx.engine.errors import BaseMLXError
from basemlx.server.settings import DEFAULT_HOST, DEFAULT_PORT, MIB, ServerSettings, SettingsError

STARTED_S = time.monotonic()
EXIT_FAILURE, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="basemlx",
    help="Runs language models on MLX: a server that any OpenAI client can use, and a chat in the terminal.",
    epilog="Try: basemlx run 'Write a haiku about latency.'   or: basemlx serve",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


_LIMITS = "Limits"
_ACCESS = "Who may call"
_ENGINE = "Engine"

Seconds = Annotated[float, typer.Option(min=0.001)]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"basemlx {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


@app.command()
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on. Beyond this machine it needs an API key.")
    ] = (DEFAULT_HOST),
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = DEFAULT_PORT,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Model to load: tiny, org/name from the Hugging Face cache, or a folder. Repeatable."
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the keys clients may use, one a line (or BASEMLX_API_KEY with one key).",
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    insecure_no_auth: Annotated[
        bool,
        typer.Option(
            "--insecure-no-auth", help="Serve other machines without a key.", rich_help_panel=_ACCESS
        ),
    ] = False,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Name clients may call this server by, as NAME, NAME:PORT or NAME:*, beyond loopback ones. "
            "Repeatable.",
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    allowed_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Web page origin that may call, as https://name. Repeatable.", rich_help_panel=_ACCESS
        ),
    ] = None,
    max_num_sequences: Annotated[
        int, typer.Option(min=1, help="Answers generated together.", rich_help_panel=_ENGINE)
    ] = 16,
    max_waiting: Annotated[
        int,
        typer.Option(
            min=0, help="Answers that may wait beyond those; more get a 429.", rich_help_panel=_ENGINE
        ),
    ] = 64,
    max_context_tokens: Annotated[
        int | None,
        typer.Option(min=16, help="Upper bound over the model's own context.", rich_help_panel=_ENGINE),
    ] = None,
    kv_budget_mib: Annotated[
        int | None,
        typer.Option(
            min=1, help="Memory for running answers. Default: from the machine.", rich_help_panel=_ENGINE
        ),
    ] = None,
    prefix_cache_mib: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Memory for computed prefixes; 0 for none. Default: from the machine.",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    prefill_chunk_tokens: Annotated[
        int, typer.Option(min=16, help="Most prompt tokens in one forward.", rich_help_panel=_ENGINE)
    ] = 512,
    request_timeout: Annotated[
        float,
        typer.Option(
            min=0.001, help="Deadline of a request in seconds, waiting included.", rich_help_panel=_ENGINE
        ),
    ] = 600.0,
    max_body_mib: Annotated[
        int, typer.Option(min=1, help="Largest request body.", rich_help_panel=_LIMITS)
    ] = 32,
    max_connections: Annotated[
        int, typer.Option(min=1, help="Connections at once.", rich_help_panel=_LIMITS)
    ] = 512,
    header_timeout: Annotated[
        float,
        typer.Option(
            min=0.001, help="Seconds until a request's head must be complete.", rich_help_panel=_LIMITS
        ),
    ] = 30.0,
    body_timeout: Annotated[
        float,
        typer.Option(min=0.001, help="Seconds until its body must be complete.", rich_help_panel=_LIMITS),
    ] = 30.0,
    write_timeout: Annotated[
        float,
        typer.Option(
            min=0.001, help="Seconds a client may leave its answer unread.", rich_help_panel=_LIMITS
        ),
    ] = 30.0,
    keep_alive: Annotated[
        float, typer.Option(min=0.001, help="Seconds an idle connection is kept.", rich_help_panel=_LIMITS)
    ] = 30.0,
    heartbeat: Annotated[
        float,
        typer.Option(
            min=0.001,
            help="Seconds of silence after which a stream gets a comment line.",
            rich_help_panel=_LIMITS,
        ),
    ] = 10.0,
    drain_timeout: Annotated[
        float,
        typer.Option(
            min=0, help="Seconds running answers may go on after SIGTERM or Ctrl-C.", rich_help_panel=_LIMITS
        ),
    ] = 30.0,
    log_level: Annotated[
        LogLevel, typer.Option(help="debug may log text of requests, the others never do.")
    ] = LogLevel.INFO,
) -> None:
    """Serve models over HTTP, for any OpenAI client.

    Listens on http://127.0.0.1:11435/v1 unless told otherwise. Prints one line on stdout when it is ready; the log goes
    to stderr. SIGTERM or Ctrl-C lets running answers finish, a second one stops at once.
    """
    from basemlx.engine.config import EngineConfig
    from basemlx.server.settings import check_environment, read_api_keys

    check_environment()
    settings = ServerSettings(
        host=host,
        port=port,
        api_keys=read_api_keys(api_key_file),
        insecure_no_auth=insecure_no_auth,
        allowed_hosts=tuple(allowed_host or ()),
        allowed_origins=tuple(allowed_origin or ()),
        max_body_bytes=max_body_mib * MIB,
        max_held_body_bytes=8 * max_body_mib * MIB,
        max_connections=max_connections,
        header_timeout_s=header_timeout,
        body_timeout_s=body_timeout,
        write_timeout_s=write_timeout,
        keep_alive_s=keep_alive,
        heartbeat_s=heartbeat,
        drain_timeout_s=drain_timeout,
    )
    config = EngineConfig(
        max_num_sequences=max_num_sequences,
        max_waiting=max_waiting,
        max_context_tokens=max_context_tokens,
        kv_budget_bytes=None if kv_budget_mib is None else kv_budget_mib * MIB,
        prefix_cache_bytes=None if prefix_cache_mib is None else prefix_cache_mib * MIB,
        prefill_chunk_tokens=prefill_chunk_tokens,
        request_timeout_s=request_timeout,
    )
    from basemlx.server.commands.serve import serve as run_server

    run_server(settings, config, models=model or ["tiny"], log_level=log_level.value, started_s=STARTED_S)


@app.command()
def run(
    prompt: Annotated[
        str | None,
        typer.Argument(help="What to ask. Without it: standard input, or a conversation on a terminal."),
    ] = None,
    model: Annotated[
        str, typer.Option(help="tiny, org/name from the Hugging Face cache, or a folder.")
    ] = "tiny",
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, max=2.0, help="0 always takes the likeliest token.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    think: Annotated[
        bool | None, typer.Option("--think/--no-think", help="Whether the model thinks first, where it can.")
    ] = None,
    stats: Annotated[
        bool, typer.Option("--stats", help="Show speed, time to first token and memory.")
    ] = False,
) -> None:
    """Answer a prompt in the terminal, or hold a conversation.

    In a conversation, /reset starts anew, /exit leaves, and Ctrl-C stops an answer, not the program.
    """
    from basemlx.server.commands.run import RunOptions
    from basemlx.server.commands.run import run as run_prompt
    from basemlx.server.settings import check_environment

    check_environment()
    options = RunOptions(
        model=model,
        system=system,
        temperature=temperature,
        max_tokens=max_tokens,
        seed=seed,
        think=think,
        shows_stats=stats,
    )
    raise typer.Exit(run_prompt(prompt, options))


@app.command("list")
def list_models(
    host: Annotated[
        str, typer.Option(help="Where a running server is asked what it has loaded.")
    ] = DEFAULT_HOST,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Its port.")] = DEFAULT_PORT,
) -> None:
    """List the models on this machine, and whether a running server has them loaded."""
    from basemlx.server.commands.list import list_models as print_models

    print_models(host, port)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for a bug report.")] = False,
) -> None:
    """Check this installation and say what could be better. Exit code 1 if something does not work."""
    from basemlx.server.commands.doctor import doctor as print_report

    raise typer.Exit(print_report(as_json=as_json))


def main() -> None:
    """The `basemlx` command."""
    try:
        app()
    except SettingsError as error:
        _fail(str(error), EXIT_USAGE)
    except BaseMLXError as error:
        _fail(error.message, EXIT_FAILURE)
    except ImportError as error:
        _fail(str(error), EXIT_FAILURE)
    except KeyboardInterrupt:
        _fail("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read the output has gone
        raise SystemExit(EXIT_FAILURE) from None


def _fail(message: str, status: int) -> None:
    print(f"basemlx: {message}", file=sys.stderr)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
