"""A schema document: where its subschemas are, what its identifiers name, and where references lead.

References stay inside the document (by pointer, anchor, or an $id in it); besides these only the meta-schemas of JSON
Schema itself are known. Nothing is ever fetched. $dynamicRef is resolved statically: a subschema is looked at together
with the resources entered on the way to it. Knows where subschemas are, not what they assert.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from basemlx.engine.errors import UnsupportedSchema
from basemlx.engine.grammar.limits import Schema, escaped

ROOT_URI = "basemlx:schema"
SYNTHETIC = "\0"
"""In a pointer: what follows is of our making, what precedes is the user's."""

# Keywords whose value is a subschema, a list of them, or an object of them; draft-07's forms included.
ONE = (
    "additionalItems", "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not",
    "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
MANY = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
NAMED = ("$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties")


@dataclass(frozen=True, eq=False)
class Resource:
    """What an $id names: a schema with its own anchors."""

    uri: str
    root: Schema
    pointer: str
    anchors: dict[str, tuple[Schema, str]] = field(default_factory=dict)
    dynamic_anchors: dict[str, tuple[Schema, str]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Place:
    """A subschema where it stands. `scope`: the resources entered on the way, each once, outermost first; empty where
    the document has no $dynamicRef. Places are interned: the same one is the same object."""

    schema: Schema
    pointer: str
    resource: Resource
    scope: tuple[Resource, ...]


class Document:
    """Raises UnsupportedSchema for references that lead out of the document or nowhere."""

    def __init__(self, schema: Schema) -> None:
        self._resources: dict[str, Resource] = {}
        self._resource_of: dict[int, Resource] = {}
        self._places: dict[tuple[str, tuple[str, ...]], Place] = {}
        self._keep: list[object] = []
        self._is_dynamic = False
        self.has_unevaluated = False
        root = Resource(ROOT_URI, schema, "")
        self._resources[ROOT_URI] = root
        self._index(schema, "", root)
        self.root = self._place(schema, "", self._resource_at(schema, root), ())

    @property
    def is_dynamic(self) -> bool:
        return self._is_dynamic

    def child(self, place: Place, *path: str | int) -> Place:
        """The subschema at `path` below `place`."""
        schema: Any = place.schema
        pointer = place.pointer
        for token in path:
            schema = schema[token]
            pointer += "/" + escaped(token)
        return self._enter(schema, pointer, place)

    def synthetic(self, place: Place, suffix: str, schema: Schema) -> Place:
        """A schema of our own making that stands for something at `place`; the same suffix must mean the same."""
        self._keep.append(schema)
        return self._place(schema, f"{place.pointer}{SYNTHETIC}{suffix}", place.resource, place.scope)

    def resolve(self, place: Place, keyword: str) -> Place:
        """Where the `$ref` or `$dynamicRef` at `place` leads."""
        assert isinstance(place.schema, dict)
        reference = place.schema[keyword]
        pointer = f"{place.pointer}/{keyword}"
        if not isinstance(reference, str):
            raise UnsupportedSchema(f"{keyword!r} is a string.", keyword=keyword, pointer=pointer)
        uri, fragment = urldefrag(urljoin(place.resource.uri, reference) if reference else place.resource.uri)
        if reference.startswith("#"):
            uri, fragment = place.resource.uri, reference[1:]
        resource = self._resources.get(uri) or self._known(uri)
        if resource is None:
            raise UnsupportedSchema(
                f"The schema refers to {reference[:200]!r}, which is not in it. References are local only.",
                keyword=keyword,
                pointer=pointer,
            )
        if fragment and not fragment.startswith("/"):
            name = unquote(fragment)
            if keyword == "$dynamicRef" and name in resource.dynamic_anchors:
                for outer in (*place.scope, place.resource):
                    if name in outer.dynamic_anchors:
                        resource = outer
                        break
            found = resource.anchors.get(name) or resource.dynamic_anchors.get(name)
        else:
            found = _follow(resource, unquote(fragment))
        if found is None or not isinstance(found[0], dict | bool):
            raise UnsupportedSchema(
                f"The schema refers to {reference[:200]!r}, which leads nowhere.",
                keyword=keyword,
                pointer=pointer,
            )
        schema, target = found
        if id(schema) not in self._resource_of and isinstance(schema, dict):
            self._index(schema, target, resource)  # under a keyword that is not known
        return self._enter(schema, target, place, resource)

    def _enter(self, schema: Schema, pointer: str, origin: Place, resource: Resource | None = None) -> Place:
        """`schema`, come to from `origin`; by a reference if `resource` is given, else from its parent."""
        resource = self._resource_at(schema, resource or origin.resource)
        scope = origin.scope
        if self._is_dynamic and resource is not origin.resource and origin.resource not in scope:
            scope = (*scope, origin.resource)
        if self._is_dynamic and resource not in scope:
            scope = (*scope, resource)
        return self._place(schema, pointer, resource, scope)

    def _place(self, schema: Schema, pointer: str, resource: Resource, scope: tuple[Resource, ...]) -> Place:
        key = (pointer, tuple(outer.uri for outer in scope))
        place = self._places.get(key)
        if place is None:
            if self._is_dynamic and resource not in scope:
                scope = (*scope, resource)
            place = self._places[key] = Place(schema, pointer, resource, scope)
        return place

    def _resource_at(self, schema: Schema, otherwise: Resource) -> Resource:
        return self._resource_of.get(id(schema), otherwise) if isinstance(schema, dict) else otherwise

    def _index(self, schema: object, pointer: str, resource: Resource) -> None:
        """Finds identifiers in the subschemas of `schema`, which belongs to `resource`."""
        stack: list[tuple[object, str, Resource]] = [(schema, pointer, resource)]
        while stack:
            schema, pointer, resource = stack.pop()
            if not isinstance(schema, dict) or id(schema) in self._resource_of:
                continue
            identifier = schema.get("$id")
            if isinstance(identifier, str) and not identifier.startswith("#"):
                uri = urldefrag(urljoin(resource.uri, identifier))[0]
                if uri != resource.uri:
                    known = self._resources.get(uri)
                    if known is not None and known.root is not schema:
                        raise UnsupportedSchema(
                            f"Two subschemas have the $id {identifier[:200]!r}.",
                            keyword="$id",
                            pointer=f"{pointer}/$id",
                        )
                    resource = self._resources[uri] = Resource(uri, schema, pointer)
            self._resource_of[id(schema)] = resource
            if isinstance(anchor := schema.get("$anchor"), str):
                resource.anchors.setdefault(anchor, (schema, pointer))
            if isinstance(anchor := schema.get("$dynamicAnchor"), str):
                resource.dynamic_anchors.setdefault(anchor, (schema, pointer))
            if isinstance(identifier, str) and identifier.startswith("#"):  # draft-07's anchors
                resource.anchors.setdefault(identifier[1:], (schema, pointer))
            self._is_dynamic = self._is_dynamic or "$dynamicRef" in schema or "$dynamicAnchor" in schema
            self.has_unevaluated |= "unevaluatedProperties" in schema or "unevaluatedItems" in schema
            for keyword, value in schema.items():
                place = f"{pointer}/{escaped(keyword)}"
                if keyword in ONE and isinstance(value, dict):
                    stack.append((value, place, resource))
                elif keyword in MANY and isinstance(value, list):
                    stack.extend((child, f"{place}/{at}", resource) for at, child in enumerate(value))
                elif keyword in NAMED and isinstance(value, dict):
                    stack.extend(
                        (child, f"{place}/{escaped(name)}", resource) for name, child in value.items()
                    )

    def _known(self, uri: str) -> Resource | None:
        """A meta-schema of JSON Schema itself, added to the document when it is first referred to."""
        contents = _meta_schemas().get(uri)
        if contents is None:
            return None
        resource = Resource(uri, contents, uri)
        self._resources[uri] = resource
        self._index(contents, uri, resource)
        return self._resources[uri]


def _follow(resource: Resource, pointer: str) -> tuple[Schema, str] | None:
    value: Any = resource.root
    place = resource.pointer
    for token in pointer.split("/")[1:]:
        token = token.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and token in value:
            value = value[token]
        elif isinstance(value, list) and token.isascii() and token.isdigit() and int(token) < len(value):
            value = value[int(token)]
        else:
            return None
        place += "/" + escaped(token)
    return value, place


@lru_cache(maxsize=1)
def _meta_schemas() -> dict[str, Schema]:
    from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]

    return {uri.rstrip("#"): REGISTRY.contents(uri) for uri in REGISTRY}
