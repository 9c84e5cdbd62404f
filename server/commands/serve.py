"""`basemlx serve`: bind, load, serve, drain. The socket comes first, so that a port in use costs no model load."""

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from basemlx.engine.config import EngineConfig
from basemlx.engine.errors import InvalidRequest
from basemlx.engine.types import ModelInfo
from basemlx.server.logs import configure, server_logger
from basemlx.server.serve import Server, bind, exit_at_once, url_of
from basemlx.server.settings import ServerSettings, SettingsError

CLOSE_TIMEOUT_S = 10.0


def serve(
    settings: ServerSettings,
    config: EngineConfig,
    *,
    models: Sequence[str],
    adapters: Sequence[str] = (),
    tool_formats: Sequence[str] = (),
    pin: bool = False,
    log_level: str,
    started_s: float,
) -> None:
    """Returns when drained. An adapter is FOLDER, for the only model, or MODEL=FOLDER; tool formats likewise. Raises
    SettingsError, and BaseMLXError if a model cannot be loaded."""
    configure(log_level)
    adapter_of = _adapters(models, adapters)
    format_of = _tool_formats(models, tool_formats)
    with bind(settings) as listener:
        _warn(settings)
        from basemlx.engine.runtime import prepare

        prepare(stand_alone=True)
        from basemlx.engine.engine import Engine
        from basemlx.engine.openai.service import OpenAIService
        from basemlx.server.app import create_app
        from basemlx.server.commands.naming import meant
        from basemlx.server.commands.terminal import load_progress
        from basemlx.server.lifecycle import Lifecycle
        from basemlx.server.metrics import Metrics

        metrics, lifecycle = Metrics(), Lifecycle()
        engine = Engine(config, observer=metrics.observe_finished)
        names: dict[str, str] = {}
        for model in dict.fromkeys(models):
            with load_progress(model) as progress:
                loaded = engine.load(
                    meant(model), adapter=adapter_of.get(model), progress=progress, pinned=pin
                )
            names[model] = loaded.name
        url = url_of(settings, listener)

        def ready() -> None:
            took_s = time.monotonic() - started_s
            kind = "model" if len(names) == 1 else "models"
            print(f"basemlx ready on {url} ({kind} {', '.join(names.values())}, {took_s:.1f} s)", flush=True)

        service = OpenAIService(
            engine,
            on_checked=metrics.observe_checked,
            tool_formats=_by_name(format_of, names, engine.models()),
        )
        app = create_app(
            service,
            settings,
            engine=engine,
            admin=engine,
            metrics=metrics,
            lifecycle=lifecycle,
            port=listener.getsockname()[1],
        )
        server_logger.info("%s", _summary(settings, config, url))
        server = Server(app, settings, lifecycle, on_ready=ready)
        server.run(sockets=[listener])
        _close(engine, server)


def _for_model(models: Sequence[str], option: str, text: str, what: str) -> tuple[str, str]:
    """The model and the value of `MODEL=value`; where one model is served, it need not be named. Raises
    SettingsError."""
    model, _, value = text.rpartition("=")
    if not model and len(models) != 1:
        raise SettingsError(f"{option} {text}: which model is it for? Give MODEL={what}.", option=option)
    return model or models[0], value


def _adapters(models: Sequence[str], adapters: Sequence[str]) -> dict[str, Path]:
    """Model, as it was named, to the folder of its adapter. Raises SettingsError."""
    found: dict[str, Path] = {}
    for text in adapters:
        model, folder = _for_model(models, "--adapter", text, "FOLDER")
        if model not in models:
            raise SettingsError(f"--adapter {text}: {model} is not among the models.", option="--adapter")
        found[model] = Path(folder).expanduser()
    return found


def _tool_formats(models: Sequence[str], given: Sequence[str]) -> dict[str, str]:
    """Model, as it was named, to the name of a wire format. Models that are loaded later may be named, too. Raises
    SettingsError."""
    from basemlx.engine.chat.formats import format_named

    found: dict[str, str] = {}
    for text in given:
        model, name = _for_model(models, "--tool-format", text, "NAME")
        try:
            found[model] = format_named(name).name
        except InvalidRequest as error:
            raise SettingsError(f"--tool-format {text}: {error.message}", option="--tool-format") from None
    return found


def _by_name(
    format_of: Mapping[str, str], names: Mapping[str, str], models: Sequence[ModelInfo]
) -> dict[str, str]:
    """By the names that the models have once they are loaded. Raises SettingsError for one that is not here."""
    here = {alias: info.name for info in models for alias in (info.name, *info.aliases)} | dict(names)
    missing = next((model for model in format_of if model not in here), None)
    if missing is not None:
        raise SettingsError(
            f"--tool-format {missing}=…: there is no such model on this machine.", option="--tool-format"
        )
    return {here[model]: name for model, name in format_of.items()}


def _close(engine: "object", server: Server) -> None:
    """Ends the engine's thread; if that is stuck, or a second signal asked for it, ends the process without it."""
    if server.was_forced is not None:
        server_logger.warning("stopped at once")
        sys.stdout.flush()
        exit_at_once(128 + server.was_forced)
    closing = threading.Thread(target=engine.close, daemon=True)  # type: ignore[attr-defined]
    closing.start()
    closing.join(CLOSE_TIMEOUT_S)
    if closing.is_alive():
        server_logger.error("the engine did not stop in %d s", CLOSE_TIMEOUT_S)
        exit_at_once(0)
    server_logger.info("stopped")


def _warn(settings: ServerSettings) -> None:
    if settings.is_loopback:
        return
    if not settings.needs_key:
        server_logger.warning("--insecure-no-auth: anyone who reaches %s can use this server", settings.host)
    if not settings.allowed_hosts:
        server_logger.warning("clients must call this server by its address; allow names with --allowed-host")


def _summary(settings: ServerSettings, config: EngineConfig, url: str) -> str:
    """The limits in force, as SECURITY.md lists them."""
    return (
        f"listening url={url} auth={'key' if settings.needs_key else 'off'} "
        f"allowed_hosts={','.join(('loopback', *settings.allowed_hosts))} "
        f"allowed_origins={','.join(settings.allowed_origins) or 'none'} body_bytes={settings.max_body_bytes} "
        f"header_bytes={settings.max_header_bytes} connections={settings.max_connections} "
        f"sequences={config.max_num_sequences} waiting={config.max_waiting} deadline_s={config.request_timeout_s:g} "
        f"drain_s={settings.drain_timeout_s:g}"
    )
