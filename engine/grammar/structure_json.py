"""A structure as JSON, for the process that compiles it. Knows the nodes, not what they mean."""

from typing import Any

from basemlx.engine.grammar.structure import Const, Json, Node, Or, Regex, Repeat, Separated, Seq, Text, Until


def node_json(node: Node) -> list[Any]:
    """The node as a list: its kind, then its fields in order."""
    match node:
        case Const(text=text):
            return ["const", text]
        case Json(schema=schema, strict=strict, pointer=pointer):
            return ["json", schema, strict, pointer]
        case Text(excluding=excluding, not_starting=not_starting):
            return ["text", list(excluding), not_starting]
        case Until(end=end, excluding=excluding, max_tokens=max_tokens):
            return ["until", end, list(excluding), max_tokens]
        case Regex(pattern=pattern):
            return ["regex", pattern]
        case Seq(parts=parts):
            return ["seq", [node_json(part) for part in parts]]
        case Or(options=options):
            return ["or", [node_json(option) for option in options]]
        case Repeat(part=part, low=low, high=high, separator=separator):
            return ["repeat", node_json(part), low, high, None if separator is None else node_json(separator)]
        case Separated(parts=parts, separator=between):
            return ["separated", [[node_json(part), required] for part, required in parts], between]


def json_node(value: list[Any]) -> Node:
    """The node that `node_json` wrote."""
    match value:
        case ["const", text]:
            return Const(text)
        case ["json", schema, strict, pointer]:
            return Json(schema, strict, pointer)
        case ["text", excluding, not_starting]:
            return Text(tuple(excluding), not_starting)
        case ["until", end, excluding, max_tokens]:
            return Until(end, tuple(excluding), max_tokens)
        case ["regex", pattern]:
            return Regex(pattern)
        case ["seq", parts]:
            return Seq(tuple(json_node(part) for part in parts))
        case ["or", options]:
            return Or(tuple(json_node(option) for option in options))
        case ["repeat", part, low, high, separator]:
            return Repeat(json_node(part), low, high, None if separator is None else json_node(separator))
        case ["separated", parts, between]:
            return Separated(tuple((json_node(part), required) for part, required in parts), between)
    raise ValueError(f"no node: {value[:1]}")
