"""What a check found, and how all of it reads as text and as JSON. Knows nothing of what is checked.

Both forms are meant for bug reports: `shareable` keeps the name of the user's home folder out of paths. That no secret
gets in is each check's own duty: a value of a variable is shown only if it is known to be harmless.
"""

import os
import platform
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from basemlx import __version__

Verdict = Literal["ok", "note", "FAIL"]
"""ok; works, and could be better; does not work."""

_WIDTH = 12


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: a line that says it, lines that explain or advise, and the figures behind it for JSON."""

    name: str
    verdict: Verdict
    summary: str
    details: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    checks: tuple[Check, ...]

    @property
    def works(self) -> bool:
        return all(check.verdict != "FAIL" for check in self.checks)

    def text(self) -> str:
        lines = [", ".join(f"{name} {value}" for name, value in _about().items()), ""]
        for check in self.checks:
            lines.append(f"{check.verdict:4}  {check.name:{_WIDTH}}  {check.summary}")
            lines += [" " * (_WIDTH + 8) + line for line in check.details]
        return "\n".join([*lines, "", self._conclusion()])

    def _conclusion(self) -> str:
        failed = [check.name for check in self.checks if check.verdict == "FAIL"]
        noted = [check.name for check in self.checks if check.verdict == "note"]
        if failed:
            return f"Does not work: {', '.join(failed)}."
        return f"Works. Could be better: {', '.join(noted)}." if noted else "Works."

    def data(self) -> dict[str, Any]:
        return {"works": self.works, **_about(), "checks": [asdict(check) for check in self.checks]}


def _about() -> dict[str, str]:
    return {
        "basemlx": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def shareable(text: str | Path) -> str:
    """A path, or a message with paths, where the home folder reads `~`."""
    home = str(Path.home())
    if home == os.sep:
        return str(text)
    return re.sub(rf"(?<![\w./-]){re.escape(home)}(?![\w.-])", "~", str(text))


def gib(size_bytes: float) -> str:
    return f"{size_bytes / 2**30:.1f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.0f} MiB"
