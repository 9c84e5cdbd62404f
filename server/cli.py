"""The command line. Options and help are here, what a command does is in server/commands/, imported when it is called:
`basemlx --help` has to be quick, and a refused setting must not first load a model.

Defaults are those of ServerSettings and EngineConfig, so that they are said once.
Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 130 interrupted.
"""

import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from basemlx import __version__
from basemlx.engine.config import EngineConfig
from basemlx.engine.errors import BaseMLXError
from basemlx.server.settings import (
    HELD_BODIES,
    MIB,
    ServerSettings,
    SettingsError,
    check_environment,
    read_api_keys,
)

STARTED_S = time.monotonic()
EXIT_FAILURE, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
SERVER, ENGINE = ServerSettings(), EngineConfig()

app = typer.Typer(
    name="basemlx",
    help="Runs language models on MLX: a server that any OpenAI client can use, and a chat in the terminal.",
    epilog="Try: basemlx run 'Write a haiku about latency.'   or: basemlx serve",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

schema_app = typer.Typer(help="Look at JSON schemas before they are sent.", no_args_is_help=True)
app.add_typer(schema_app, name="schema")


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _text(metavar: str, text: str) -> Any:
    return typer.Option(metavar=metavar, help=text)


def _count(text: str, *, low: int = 1, high: int | None = None) -> Any:
    return typer.Option(metavar="N", min=low, max=high, help=text)


def _seconds(text: str, *, low: float = 0.001) -> Any:
    return typer.Option(metavar="SECONDS", min=low, help=text)


MODEL_HELP = "tiny (built in), a short name, org/name of a model on this machine, or a folder."
GIB = 1024 * MIB
ServerHost = Annotated[str, _text("ADDRESS", "Where the running server is.")]
ServerPort = Annotated[int, _count("Its port.", high=65535)]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"basemlx {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def serve(
    host: Annotated[str, _text("ADDRESS", "Where to listen. Beyond this machine it needs an API key.")] = (
        SERVER.host
    ),
    port: Annotated[int, _count("Port to listen on; 0 takes a free one.", low=0, high=65535)] = SERVER.port,
    model: Annotated[
        list[str] | None,
        _text("NAME", f"Model to load: {MODEL_HELP} May be repeated; tiny if none is named."),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        _text(
            "FILE", "Keys that clients may use, one a line (or one key in the environment: BASEMLX_API_KEY)."
        ),
    ] = None,
    insecure_no_auth: Annotated[
        bool, typer.Option("--insecure-no-auth", help="Serve other machines without a key.")
    ] = False,
    allowed_host: Annotated[
        list[str] | None,
        _text(
            "NAME",
            "Name by which clients may call this server, beside its address and localhost: NAME, NAME:PORT or NAME:* "
            "for any port. May be repeated.",
        ),
    ] = None,
    allowed_origin: Annotated[
        list[str] | None, _text("ORIGIN", "Web pages that may call, as https://name. May be repeated.")
    ] = None,
    max_num_sequences: Annotated[int, _count("Answers generated together.")] = ENGINE.max_num_sequences,
    max_waiting: Annotated[
        int, _count("Answers that may wait for those; whoever comes then gets a 429.", low=0)
    ] = ENGINE.max_waiting,
    max_context_tokens: Annotated[
        int | None, _count("Longest prompt and answer together, if the model could more.", low=16)
    ] = None,
    kv_budget_mib: Annotated[
        int | None, _count("Memory for running answers, in MiB. Without it: what the machine can spare.")
    ] = None,
    prefix_cache_mib: Annotated[
        int | None,
        _count(
            "Memory for prompts kept for reuse, in MiB; 0 for none. Without it: what the machine can spare.",
            low=0,
        ),
    ] = None,
    prefill_chunk_tokens: Annotated[
        int, _count("Most prompt tokens in one step.", low=16)
    ] = ENGINE.prefill_chunk_tokens,
    request_timeout: Annotated[
        float, _seconds("Longest a request may take, waiting included.")
    ] = ENGINE.request_timeout_s,
    max_memory: Annotated[
        float | None,
        typer.Option(
            metavar="GIB",
            min=0.001,
            help="What all models may take together. Without it: a share that leaves the machine usable.",
        ),
    ] = None,
    only_loaded: Annotated[
        bool, typer.Option("--only-loaded", help="Requests never load a model: basemlx load does.")
    ] = not ENGINE.load_on_demand,
    idle_ttl: Annotated[
        float, _seconds("Idle time after which a model that a request loaded leaves; 0 for never.", low=0)
    ] = ENGINE.idle_ttl_s or 0.0,
    pin: Annotated[
        bool, typer.Option("--pin", help="The models named here never leave to make room for others.")
    ] = False,
    adapter: Annotated[
        list[str] | None,
        _text("FOLDER", "LoRA adapter (mlx-lm's) for the model; with several models, MODEL=FOLDER."),
    ] = None,
    tool_format: Annotated[
        list[str] | None,
        _text(
            "FORMAT",
            "How the model writes tool calls, if its chat template does not show it: a name, or with several models "
            "MODEL=NAME. Any unknown name lists those there are.",
        ),
    ] = None,
    max_body_mib: Annotated[int, _count("Largest request body, in MiB.")] = SERVER.max_body_bytes // MIB,
    max_connections: Annotated[int, _count("Connections at once.")] = SERVER.max_connections,
    header_timeout: Annotated[
        float, _seconds("Until a request's head is complete.")
    ] = SERVER.header_timeout_s,
    body_timeout: Annotated[float, _seconds("Until its body is complete.")] = SERVER.body_timeout_s,
    write_timeout: Annotated[
        float, _seconds("How long a client may leave its answer unread.")
    ] = SERVER.write_timeout_s,
    keep_alive: Annotated[float, _seconds("How long an idle connection is kept.")] = SERVER.keep_alive_s,
    heartbeat: Annotated[
        float, _seconds("Silence after which a stream gets a comment line.")
    ] = SERVER.heartbeat_s,
    drain_timeout: Annotated[
        float, _seconds("How long running answers may go on after SIGTERM or Ctrl-C.", low=0)
    ] = SERVER.drain_timeout_s,
    log_level: Annotated[
        LogLevel,
        typer.Option(
            metavar="LEVEL", help="debug, info, warning or error. Only debug may log text of requests."
        ),
    ] = LogLevel.INFO,
) -> None:
    """Serve models over HTTP, for any OpenAI client.

    Clients take http://127.0.0.1:11435/v1 as their base URL, unless told otherwise below. Prints one line on stdout
    when it is ready; the log goes to stderr. SIGTERM or Ctrl-C lets running answers finish, a second one stops at once.
    """
    check_environment()
    settings = ServerSettings(
        host=host,
        port=port,
        api_keys=read_api_keys(api_key_file),
        insecure_no_auth=insecure_no_auth,
        allowed_hosts=tuple(allowed_host or ()),
        allowed_origins=tuple(allowed_origin or ()),
        max_body_bytes=max_body_mib * MIB,
        max_held_body_bytes=HELD_BODIES * max_body_mib * MIB,
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
        max_memory_bytes=None if max_memory is None else int(max_memory * GIB),
        load_on_demand=not only_loaded,
        idle_ttl_s=idle_ttl or None,
    )
    from basemlx.server.commands.serve import serve as run_server

    run_server(
        settings,
        config,
        models=model or ["tiny"],
        adapters=adapter or (),
        tool_formats=tool_format or (),
        pin=pin,
        log_level=log_level.value,
        started_s=STARTED_S,
    )


@app.command()
def run(
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT",
            help="What to ask. Without it: standard input, or a conversation on a terminal.",
        ),
    ] = None,
    model: Annotated[str, _text("NAME", MODEL_HELP)] = "tiny",
    system: Annotated[str | None, _text("TEXT", "System message.")] = None,
    temperature: Annotated[
        float | None,
        typer.Option(metavar="T", min=0.0, max=2.0, help="0 always takes the likeliest token."),
    ] = None,
    max_tokens: Annotated[int | None, _count("Longest answer, in tokens.")] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="The same seed gives the same answer.")
    ] = None,
    think: Annotated[
        bool | None, typer.Option("--think/--no-think", help="Whether the model thinks first, where it can.")
    ] = None,
    adapter: Annotated[Path | None, _text("FOLDER", "LoRA adapter (mlx-lm's) to put on the model.")] = None,
    stats: Annotated[
        bool, typer.Option("--stats", help="Show speed, time to first token and memory.")
    ] = False,
) -> None:
    """Answer a prompt in the terminal, or hold a conversation.

    In a conversation, /reset starts anew, /exit leaves, and Ctrl-C stops an answer, not the program. On a pipe, nothing
    but the answer goes to standard output.
    """
    from basemlx.server.commands.run import RunOptions
    from basemlx.server.commands.run import run as run_prompt

    check_environment()
    options = RunOptions(
        model=model,
        system=system,
        temperature=temperature,
        max_tokens=max_tokens,
        seed=seed,
        think=think,
        shows_stats=stats,
        adapter=adapter,
    )
    raise typer.Exit(run_prompt(prompt, options))


@app.command("list")
def list_models(
    host: ServerHost = SERVER.host,
    port: ServerPort = SERVER.port,
    available: Annotated[
        bool, typer.Option("--available", help="List the short names that basemlx pull knows instead.")
    ] = False,
) -> None:
    """List the models on this machine and which a running server has loaded."""
    from basemlx.server.commands.list import list_models as print_models

    print_models(host, port, available=available)


@app.command()
def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A short name, or org/name.")],
    revision: Annotated[
        str | None, _text("REVISION", "Branch, tag or commit; main if none is named.")
    ] = None,
) -> None:
    """Download a model into the Hugging Face cache. Goes on where an earlier try stopped."""
    from basemlx.server.commands.pull import pull as pull_model

    raise typer.Exit(pull_model(name, revision=revision))


@app.command()
def rm(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A model that basemlx pull brought.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    host: ServerHost = SERVER.host,
    port: ServerPort = SERVER.port,
) -> None:
    """Remove what basemlx pull brought of a model, and nothing else."""
    from basemlx.server.commands.pull import rm as remove_model

    raise typer.Exit(remove_model(name, host, port, yes=yes))


@app.command()
def ps(host: ServerHost = SERVER.host, port: ServerPort = SERVER.port) -> None:
    """Show which models a running server has in memory."""
    from basemlx.server.commands.residence import show_loaded

    show_loaded(host, port)


@app.command()
def load(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A model on the server's machine.")],
    pin: Annotated[bool, typer.Option("--pin", help="It never leaves to make room for others.")] = False,
    idle_ttl: Annotated[
        float, _seconds("How long it may be idle before it leaves; 0 for ever.", low=0)
    ] = 0.0,
    host: ServerHost = SERVER.host,
    port: ServerPort = SERVER.port,
) -> None:
    """Have a running server load a model."""
    from basemlx.server.commands.residence import load as load_model

    load_model(name, host, port, pin=pin, idle_ttl_s=idle_ttl or None)


@app.command()
def unload(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A loaded model.")],
    host: ServerHost = SERVER.host,
    port: ServerPort = SERVER.port,
) -> None:
    """Have a running server take a model out of memory, once its running answers are done."""
    from basemlx.server.commands.residence import unload as unload_model

    unload_model(name, host, port)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for a bug report.")] = False,
) -> None:
    """Check this installation and say what could be better. Exit code 1 if something does not work."""
    from basemlx.server.commands.doctor import doctor as print_report

    raise typer.Exit(print_report(as_json=as_json))


@schema_app.command("check")
def check_schema(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The schema as JSON; - for standard input.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for a program.")] = False,
) -> None:
    """Say whether a JSON schema can be enforced in full, as strict demands, and what stands in the way.

    Exit code 0 if it can, 1 if it cannot, 2 if there is no such file. What is listed is named by keyword and JSON
    Pointer, as a request with that schema would be refused.
    """
    from basemlx.server.commands.schema import check

    raise typer.Exit(check(file, as_json=as_json))


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
    except OSError as error:  # a full disk, a folder that may not be read
        where = f"{error.filename}: " if error.filename is not None else ""
        _fail(f"{where}{error.strerror or type(error).__name__}", EXIT_FAILURE)


def _fail(message: str, status: int) -> None:
    print(f"basemlx: {message}", file=sys.stderr)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
