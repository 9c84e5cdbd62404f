"""`basemlx list`: models on this machine, which of them a running server has loaded, and what could be pulled."""

from basemlx.engine.models.catalogue import catalogue
from basemlx.engine.models.discovery import Discovery, FoundModel
from basemlx.server.commands.client import NoServer, Refused, ServerClient
from basemlx.server.commands.table import print_table, size_text, tokens_text
from basemlx.server.commands.terminal import printable

ASK_TIMEOUT_S = 0.5
HEADINGS = ("NAME", "SIZE", "QUANT", "CONTEXT", "CAN", "SOURCE", "LOADED")


def list_models(host: str, port: int, *, available: bool = False) -> None:
    """Prints a table. LOADED is `-` where no server answers. `available`: the catalogue of short names instead."""
    found = Discovery().scan()
    if available:
        _print_catalogue(found)
        return
    loaded = _loaded_by_server(host, port)
    rows = [_row(model, loaded) for model in found if model.problem is None]
    names = {model.name for model in found}
    rows += [
        (name, "-", "-", "-", "-", "server", "yes") for name in sorted(loaded or ()) if name not in names
    ]
    print_table(HEADINGS, rows)
    broken = [model for model in found if model.problem is not None]
    if broken:
        print("\nCannot be loaded as they lie here:")
        for model in broken:
            print(f"  {model.name} ({model.source}): {printable(model.problem or '')}")


def _row(model: FoundModel, loaded: frozenset[str] | None) -> tuple[str, ...]:
    short = f" ({', '.join(model.aliases)})" if model.aliases else ""
    return (
        model.name + short,
        size_text(model.size_bytes),
        model.quantization or "-",
        tokens_text(model.context_tokens),
        ",".join(what for what in model.capabilities if what != "completion") or "completion",
        model.source,
        "-" if loaded is None else "yes" if model.name in loaded else "no",
    )


def _print_catalogue(found: tuple[FoundModel, ...]) -> None:
    here = {model.name for model in found if model.problem is None}
    print_table(
        ("NAME", "REPOSITORY", "SIZE", "CONTEXT", "CAN", "HERE"),
        [
            (
                entry.name,
                entry.repository,
                f"~{entry.size_bytes / 1e9:.1f} GB",
                tokens_text(entry.context_tokens),
                ",".join(entry.capabilities),
                "yes" if entry.repository in here else "no",
            )
            for entry in catalogue()
        ],
    )
    print("\nSizes are about; pull asks the hub for the real ones. Get one with: basemlx pull NAME")


def _loaded_by_server(host: str, port: int) -> frozenset[str] | None:
    """Names that the server at that address has loaded; None if none answers as basemlx does."""
    try:
        models = ServerClient(host, port).models(timeout_s=ASK_TIMEOUT_S)
    except (NoServer, Refused):
        return None
    return frozenset(printable(str(model["id"])) for model in models if model.get("loaded"))
