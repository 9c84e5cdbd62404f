"""The schemas of a turn, looked at before a model is loaded for them or a wire format reads them: bounded, well-formed,
those of functions of an object.

After this a format may rely on the shape of every keyword. Whether a schema can be enforced is not asked here.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from basemlx.engine.chat.tools import Tool
from basemlx.engine.errors import UnsupportedSchema
from basemlx.engine.grammar.limits import read_schema, schema_text, too_large
from basemlx.engine.grammar.wellformed import check_well_formed

MAX_BYTES = 1024 * 1024
"""Of all schemas of a turn together."""


def check_tools(tools: Iterable[Tool]) -> None:
    """Raises UnsupportedSchema, whose pointer begins with the tool's own."""
    num_bytes = 0
    for tool in tools:
        with _placed(tool.pointer):
            schema = read_schema(tool.schema)
            num_bytes += len(schema_text(schema))
            if num_bytes > MAX_BYTES:
                raise too_large(
                    f"and those of the tools before it are together larger than {MAX_BYTES} bytes"
                )
            check_well_formed(schema)
            if not tool.takes_object:
                raise UnsupportedSchema(
                    "The arguments of a function are an object, so its 'type' must be 'object'.",
                    keyword="type",
                    pointer="/type",
                )


def check_document(schema: object, pointer: str) -> None:
    """The same of the schema that a whole answer is to follow, whatever it describes."""
    with _placed(pointer):
        check_well_formed(read_schema(schema))


@contextmanager
def _placed(pointer: str) -> Iterator[None]:
    """Says of an error in a schema where that schema stands."""
    try:
        yield
    except UnsupportedSchema as error:
        raise UnsupportedSchema(
            f"{error.message} (in {pointer or 'the schema'})",
            keyword=error.keyword,
            pointer=pointer + (error.pointer or ""),
        ) from None
