"""What is around basemlx: environment variables, models on this machine, who has its port.

Values of variables are shown only for names listed here; of the others, at most that they are set: a misspelt
BASEMLX_API_KEY holds a key too.
"""

import difflib
import http.client
import json
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from basemlx.engine.environment import API_KEY_VARIABLE, KNOWN_NAMES, Environment
from basemlx.engine.models.discovery import Discovery, hub_cache_folder, usable
from basemlx.server.commands.terminal import printable
from basemlx.server.diagnosis.report import Check, shareable
from basemlx.server.settings import ServerSettings, SettingsError, read_api_keys

SHOWN_VARIABLES = (
    *sorted(KNOWN_NAMES - {API_KEY_VARIABLE}),
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "OMP_NUM_THREADS",
    "OPENBLAS_CORETYPE",
    "OPENBLAS_NUM_THREADS",
)
NAMED_VARIABLES = (API_KEY_VARIABLE, "HF_TOKEN", "HF_ENDPOINT")
MAX_MODELS_SHOWN = 20
ASK_TIMEOUT_S = 1.0
MAX_ANSWER_BYTES = 64 * 1024


def environment(environ: Mapping[str, str] | None = None) -> Check:
    """A misspelt BASEMLX_ variable or an unusable key is what `basemlx serve` refuses to start with."""
    values = os.environ if environ is None else environ
    shown = {name: shareable(values[name]) for name in SHOWN_VARIABLES if values.get(name)}
    shown |= {name: "(set, not shown)" for name in NAMED_VARIABLES if values.get(name)}
    unknown = list(Environment.read(values).unknown_names)
    facts = {"known": shown, "unknown": unknown}
    details = tuple(f"{name}={value}" for name, value in shown.items())
    if unknown:
        advice = tuple(
            f"{name} is not known{_meant(name)}; serve and run refuse to start with it." for name in unknown
        )
        return Check("Environment", "FAIL", "a variable is misspelt", advice + details, facts)
    try:
        ServerSettings(api_keys=read_api_keys(None, values))
    except SettingsError as error:
        return Check("Environment", "FAIL", f"{API_KEY_VARIABLE}: {error}", details, facts)
    summary = "every BASEMLX_ variable is known" if shown else "nothing is set"
    return Check("Environment", "ok", summary, details, facts)


def _meant(name: str) -> str:
    close = difflib.get_close_matches(name, sorted(KNOWN_NAMES), n=1, cutoff=0.75)
    return f" (did you mean {close[0]}?)" if close else ""


def models() -> Check:
    """What is ready for use, wherever it lies; what lies here and is not is counted."""
    found = Discovery().scan()
    ready, broken = usable(found), [model.name for model in found if model.problem is not None]
    cache = hub_cache_folder()
    facts = {
        "cache": shareable(cache),
        "cache_exists": cache.is_dir(),
        "models": {model.name: model.size_bytes for model in ready},
        "broken": broken,
    }
    details = [
        f"{model.name} ({model.size_bytes / 1e6:,.1f} MB, {model.source})"
        for model in ready[:MAX_MODELS_SHOWN]
    ]
    if len(ready) > MAX_MODELS_SHOWN:
        details.append(f"and {len(ready) - MAX_MODELS_SHOWN} more: basemlx list")
    if broken:
        details.append(f"{len(broken)} more cannot be loaded as they lie here: basemlx list says why")
    where = "" if cache.is_dir() else "no "
    count = "1 model" if len(ready) == 1 else f"{len(ready)} models"
    summary = f"{count}, the built-in one included; {where}Hugging Face cache at {shareable(cache)}"
    return Check("Models", "ok", summary, tuple(details), facts)


def port(host: str, number: int) -> Check:
    """Whether `basemlx serve` would get its port, and who has it if not."""
    facts: dict[str, Any] = {"host": host, "port": number, "free": False, "server": None}
    try:
        socket.create_connection((host, number), timeout=ASK_TIMEOUT_S).close()
    except OSError:
        if _can_bind(host, number):
            return Check("Port", "ok", f"{number} is free", facts=facts | {"free": True})
        summary = f"{number} is taken by a program that does not answer"
    else:
        server = identify(host, number)
        facts["server"] = server
        if server.startswith("basemlx"):
            return Check("Port", "ok", f"{number} is served by {server}", facts=facts)
        summary = f"{number} is taken by {server}"
    return Check("Port", "note", summary, ("basemlx serve --port 0 takes a free one.",), facts)


def _can_bind(host: str, number: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, number))
        except OSError:
            return False
    return True


def identify(host: str, number: int) -> str:
    """What kind of server listens there, by what it says of itself. No key is sent: who listens is not known yet."""
    server = ""
    answered = False
    for path in ("/health", "/", "/v1/models"):
        answer = _get(f"http://{host}:{number}{path}")
        if answer is None:
            continue
        answered = True
        server = server or printable(answer[0])[:60]
        body = answer[1]
        content = _json_object(body)
        if path == "/health" and "heartbeat_age_s" in content:
            about = _json_object((_get(f"http://{host}:{number}/") or ("", b""))[1])
            return f"basemlx {printable(str(about.get('version', '')))[:20]}".strip()
        if body.startswith(b"Ollama is running"):
            return "Ollama"
        owners = _owners(content)
        if "vllm" in owners:
            return "vLLM"
        if "organization_owner" in owners:
            return "LM Studio"
        if server.lower().startswith("llama.cpp"):
            return "llama.cpp"
    if not answered:
        return "a program that does not speak HTTP"
    return f"an HTTP server ({server})" if server else "an HTTP server"


def _owners(content: dict[str, Any]) -> set[str]:
    """`owned_by` of the entries of a /v1/models answer."""
    models = content.get("data")
    if not isinstance(models, list):
        return set()
    return {str(model.get("owned_by")) for model in models if isinstance(model, dict)}


def _get(url: str) -> tuple[str, bytes] | None:
    """The Server header and the start of the body, whatever the status; None if that was no HTTP."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=ASK_TIMEOUT_S) as answer:
            return answer.headers.get("server", ""), answer.read(MAX_ANSWER_BYTES)
    except urllib.error.HTTPError as error:
        with error:
            try:
                return error.headers.get("server", ""), error.read(MAX_ANSWER_BYTES)
            except (OSError, http.client.HTTPException):
                return error.headers.get("server", ""), b""
    except (OSError, http.client.HTTPException, ValueError):
        return None


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
