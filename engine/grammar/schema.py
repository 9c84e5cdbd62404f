"""From a JSON schema to a plan: the grammar that enforces it, and what that grammar leaves to be checked.

    plan = plan_schema(schema)
    plan.lark          the grammar, in llguidance's dialect of Lark; None if no JSON value satisfies the schema
    plan.remaining     keywords not enforced (in full), each with JSON Pointer and reason; empty: enforced in full
    plan.backend       "llguidance", or "refused" where strict mode must refuse
    plan.xgrammar      whether xgrammar's own schema compiler would enforce the schema in full too

The grammar never allows less than is stated for it and, where nothing remains, nothing that the schema forbids. It says
the schema's own `additionalProperties`, not another default. Pure Python but for the lexer that answers questions about
regular languages; needs no model and no vocabulary. It is bounded in work by `SchemaLimits`, not in time: `worker` does
that.
"""

from dataclasses import dataclass
from typing import Any, Literal

from basemlx.engine.errors import UnsupportedSchema
from basemlx.engine.grammar.document import Document
from basemlx.engine.grammar.expand import Expander, Gap, TooManyCases
from basemlx.engine.grammar.json.builder import Builder
from basemlx.engine.grammar.limits import DEFAULT_LIMITS, SchemaLimits, read_schema, too_large
from basemlx.engine.grammar.recogniser import TooCostly
from basemlx.engine.grammar.wellformed import check_well_formed
from basemlx.engine.grammar.xgrammar_gaps import xgrammar_gaps


@dataclass(frozen=True, slots=True)
class SchemaPlan:
    """How a schema is enforced; see the module."""

    lark: str | None
    remaining: tuple[Gap, ...]
    xgrammar: bool

    @property
    def is_satisfiable(self) -> bool:
        return self.lark is not None

    @property
    def backend(self) -> Literal["llguidance", "refused"]:
        return "refused" if self.remaining else "llguidance"

    def refusal(self) -> UnsupportedSchema:
        """Why strict mode refuses the schema; only where something remains."""
        gap = self.remaining[0]
        return UnsupportedSchema(
            f"The schema cannot be enforced in full: {gap.keyword!r} at {gap.pointer or 'the root'}: {gap.reason}. "
            "Leave it out, or ask without strict.",
            keyword=gap.keyword,
            pointer=gap.pointer,
        )

    def report(self) -> dict[str, Any]:
        """As JSON, for `basemlx schema check`."""
        return {
            "backend": self.backend,
            "satisfiable": self.is_satisfiable,
            "xgrammar": self.xgrammar,
            "remaining": [
                {"keyword": gap.keyword, "pointer": gap.pointer, "reason": gap.reason}
                for gap in self.remaining
            ],
        }


def plan_schema(
    schema: object, limits: SchemaLimits = DEFAULT_LIMITS, prefix: str = "", *, loosely: bool = False
) -> SchemaPlan:
    """`schema` as parsed JSON or as its text; `prefix`, where the rules are to stand in a larger grammar, begins every
    name (the rule to refer to is `<prefix>r0`). `loosely` leaves patterns and formats to be checked afterwards, for
    schemas whose grammar was too large with them. Raises UnsupportedSchema if it is malformed or over a limit."""
    checked = read_schema(schema, limits)
    check_well_formed(checked)
    try:
        document = Document(checked)
        expander = Expander(document, limits, loosely)
        rules = Builder(expander, limits).build(((document.root, True),))
        lark = None if rules is None else rules.lark(prefix)
    except RecursionError:
        raise too_large("is nested too deep") from None
    except (TooManyCases, TooCostly):
        raise too_large("has too many alternatives in combination", "anyOf") from None
    if lark is not None and len(lark) > limits.max_grammar_bytes:
        raise too_large("becomes too large a grammar")
    return SchemaPlan(lark, tuple(expander.gaps), xgrammar=not xgrammar_gaps(checked))
