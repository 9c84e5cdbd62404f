"""Tables and sizes for people."""

from collections.abc import Sequence


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell."""
    table = [tuple(headings), *(tuple(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(headings))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def size_text(num_bytes: int) -> str:
    if num_bytes <= 0:
        return "-"
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def tokens_text(count: int) -> str:
    """As makers state contexts: 40960 is 40k."""
    if count <= 0:
        return "-"
    return f"{count // 1024}k" if count >= 1024 else str(count)
