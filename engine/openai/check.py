"""Checks a finished answer where its grammar could not enforce all of its schema, and says what came of it.

The outcome goes into the response's `basemlx` object, never silently: whether the answer is valid, what was wrong with
it, and which keywords were not enforced. A check is work of milliseconds, bounded by a deadline, and blocks.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from basemlx.engine.errors import BaseMLXError, RequestAborted
from basemlx.engine.grammar.compiler import GrammarCompiler
from basemlx.engine.grammar.expand import Gap

MAX_VIOLATIONS = 20

Observer = Callable[[bool], None]


@dataclass(frozen=True, slots=True)
class AnswerCheck:
    """`document`: the schema of an answer without calls, None if its grammar enforces it. `tools`: schemas of arguments
    by function. `gaps`: what the grammar does not enforce. `cancelled`: nobody waits for the outcome any more."""

    compiler: GrammarCompiler
    document: Any
    tools: Mapping[str, Any]
    gaps: Sequence[Gap]
    cancelled: threading.Event | None = field(default=None, repr=False)
    observe: Observer | None = field(default=None, repr=False)

    def outcome(self, index: int, content: str, calls: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """The entry of choice `index`; `calls` are (function, arguments)."""
        violations: list[dict[str, str]] = []
        if calls:
            for number, (name, arguments) in enumerate(calls):
                if name in self.tools:
                    violations += self._violations(self.tools[name], arguments, f"tool_calls[{number}]")
        elif self.document is not None:
            violations += self._violations(self.document, content, "content")
        if self.observe is not None:
            self.observe(not violations)
        return {
            "index": index,
            "valid": not violations,
            "violations": violations[:MAX_VIOLATIONS],
            "not_enforced": [{"keyword": gap.keyword, "pointer": gap.pointer} for gap in self.gaps],
        }

    def _violations(self, schema: Any, text: str, where: str) -> list[dict[str, str]]:
        try:
            compiled = self.compiler.compile_json_schema(schema, cancelled=self.cancelled)
            found = compiled.check(text, self.cancelled)
        except RequestAborted:
            raise
        except BaseMLXError as error:
            return [{"where": where, "pointer": "", "message": f"not checked: {error.message}"}]
        return [
            {"where": where, "pointer": violation.instance_pointer, "message": violation.message}
            for violation in found
        ]
