"""`basemlx ps`, `load` and `unload`: what a running server has in memory, and changing that."""

import sys
from typing import Any

from basemlx.engine.models.catalogue import guess
from basemlx.server.commands.client import ServerClient
from basemlx.server.commands.table import print_table, size_text
from basemlx.server.commands.terminal import printable, waiting

HEADINGS = ("NAME", "STATE", "MEMORY", "IN USE", "STAYS")


def show_loaded(host: str, port: int) -> None:
    """Prints a table. Raises NoServer or Refused."""
    models = [model for model in ServerClient(host, port).models() if model.get("state")]
    if not models:
        print(
            "No model is loaded. A request loads the one it names; so does: basemlx load NAME",
            file=sys.stderr,
        )
    print_table(HEADINGS, [_row(model) for model in models])


def load(name: str, host: str, port: int, *, pin: bool, idle_ttl_s: float | None) -> None:
    client = ServerClient(host, port)
    name = _meant(name, client)
    with waiting(f"{name}: loading") as done:
        entry = client.load(name, pin=pin, idle_ttl_s=idle_ttl_s)
        done()
    print(f"{printable(str(entry.get('id', name)))} is loaded, {_memory(entry)} in memory")


def unload(name: str, host: str, port: int) -> None:
    client = ServerClient(host, port)
    name = _meant(name, client)
    was_here = any(
        model.get("state") for model in client.models() if name in (model["id"], *model.get("aliases", ()))
    )
    with waiting(f"{name}: waiting for its running answers") as done:
        entry = client.unload(name)
        done()
    print(
        f"{printable(str(entry.get('id', name)))} {'is not in memory any more' if was_here else 'was not in memory'}"
    )


def _meant(name: str, client: ServerClient) -> str:
    """The server's name for what a person typed; an exact one is never changed."""
    models = client.models()
    known = [str(model["id"]) for model in models]
    aliases = [str(alias) for model in models for alias in model.get("aliases", ())]
    if name in known or name in aliases:
        return name
    meant = guess(name, known)
    if meant is None or meant not in (*known, *aliases):
        return name
    print(f"{name}: taken for {meant}", file=sys.stderr)
    return meant


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    expires = model.get("expires_in_s")
    stays = "pinned" if model.get("pinned") else "until its room is needed"
    if isinstance(expires, int | float):
        stays = f"{_duration(expires)} more, if idle"
    return (
        printable(str(model["id"])),
        printable(str(model["state"])),
        _memory(model),
        str(model.get("users", 0)),
        stays,
    )


def _memory(entry: dict[str, Any]) -> str:
    num_bytes = entry.get("memory_bytes")
    return size_text(num_bytes) if isinstance(num_bytes, int) else "-"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
