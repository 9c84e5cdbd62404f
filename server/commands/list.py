"""`basemlx list`: models on this machine, and which of them a running server has loaded."""

import http.client
import json
import os
import urllib.error
import urllib.request
from pathlib import Path

from basemlx.engine.models.names import installed
from basemlx.server.settings import API_KEY_VARIABLE

ASK_TIMEOUT_S = 0.5
MAX_ANSWER_BYTES = 1 << 20
HEADINGS = ("NAME", "SIZE", "LOADED")


def list_models(host: str, port: int) -> None:
    """Prints a table. LOADED is `-` where no server answers."""
    loaded = _loaded_by_server(host, port)
    rows = [(model.name, _size(model.folder)) for model in installed()]
    names = {name for name, _ in rows}
    rows += [(name, "-") for name in sorted(loaded or ()) if name not in names]
    table = [HEADINGS] + [
        (name, size, "-" if loaded is None else "yes" if name in loaded else "no") for name, size in rows
    ]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEADINGS))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _loaded_by_server(host: str, port: int) -> frozenset[str] | None:
    """Names that the server at that address has loaded; None if none answers as basemlx does."""
    address = f"[{host}]" if ":" in host else host
    request = urllib.request.Request(f"http://{address}:{port}/v1/models")
    if os.environ.get(API_KEY_VARIABLE):
        request.add_header("x-api-key", os.environ[API_KEY_VARIABLE])
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({})
    )  # a proxy is not asked about this machine
    try:
        with opener.open(request, timeout=ASK_TIMEOUT_S) as answer:
            models = json.loads(answer.read(MAX_ANSWER_BYTES))["data"]
        return frozenset(str(model["id"]) for model in models if model.get("loaded"))
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, AttributeError):
        return None


def _size(folder: Path) -> str:
    size_bytes = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"
