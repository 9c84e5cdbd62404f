"""The functions that a model may call, as the parts of a turn need them. Knows no wire format and no request."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Tool:
    """`parameters` is a JSON schema, None where the function takes none. `strict`: arguments follow it in full, or the
    request is refused. `pointer` names the schema in errors."""

    name: str
    parameters: Mapping[str, Any] | None = None
    strict: bool = False
    pointer: str = ""

    @property
    def schema(self) -> Mapping[str, Any]:
        """The schema of the arguments, which are always an object, whatever else it would allow."""
        if self.parameters is None:
            return {"type": "object", "properties": {}, "additionalProperties": False}
        kinds = self.parameters.get("type")
        if kinds is not None and not (isinstance(kinds, list | tuple) and "object" in kinds):
            return self.parameters
        return {**self.parameters, "type": "object"}

    @property
    def takes_object(self) -> bool:
        """Whether the schema says nothing else of its root; `type` only, the rest is the grammar's to find out."""
        return self.schema.get("type") == "object"


@dataclass(frozen=True, slots=True)
class Call:
    """A call as the API shows it, arguments as an object."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""
