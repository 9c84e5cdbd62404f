"""The schemas of a turn's functions, looked at before any wire format reads them: bounded, well-formed, of an object.

After this a format may rely on the shape of every keyword. Whether a schema can be enforced is not asked here.
"""

from collections.abc import Iterable

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
        try:
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
        except UnsupportedSchema as error:
            raise UnsupportedSchema(
                f"{error.message} (in {tool.pointer or 'the schema'})",
                keyword=error.keyword,
                pointer=tool.pointer + (error.pointer or ""),
            ) from None
