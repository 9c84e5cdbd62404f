"""What each JSON Schema keyword says about instances of each type, when it must hold and when it must not.

Draft 2020-12, with the forms of draft-07 that still occur (`definitions`, `dependencies`, `items` as a list,
`additionalItems`, draft-04's boolean `exclusiveMinimum`). A keyword that stands in no table here is an annotation, or
one that JSON Schema does not know: both say nothing.
"""

from basemlx.engine.grammar.cases import JsonType
from basemlx.engine.grammar.expand import Handler
from basemlx.engine.grammar.keywords import arrays, combining, objects, scalars
from basemlx.engine.grammar.keywords.combining import Combinator
from basemlx.engine.grammar.keywords.unevaluated import unevaluated


def handlers_of(kind: JsonType) -> dict[str, Handler]:
    """Keywords that assert something about instances of one type."""
    return {
        "null": scalars.NULL,
        "boolean": scalars.BOOLEAN,
        "number": scalars.NUMBER,
        "string": scalars.STRING,
        "array": arrays.ARRAY,
        "object": objects.OBJECT,
    }[kind]


def combinators() -> dict[str, Combinator]:
    """Keywords that apply subschemas to the same instance."""
    return combining.COMBINATORS


__all__ = ["combinators", "handlers_of", "unevaluated"]
