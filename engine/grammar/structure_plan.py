"""From a turn's structure to a grammar in one engine's own words, and what that grammar leaves to be checked.

    written = write_structure(node, controls)
    written.engine      "xgrammar" where its schema compiler enforces every JSON value of the turn exactly, else
    "llguidance" written.text        a structural tag's JSON, or Lark
    written.remaining   JSON values whose schema is not enforced in full, with the gaps; never strict ones

Pure Python: it needs no engine and no vocabulary but the control tokens' texts and ids.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from basemlx.engine.errors import UnsupportedSchema
from basemlx.engine.grammar.expand import Gap
from basemlx.engine.grammar.schema import SchemaPlan, plan_schema
from basemlx.engine.grammar.structure import Json, Node, has_separated
from basemlx.engine.grammar.structure_llguidance import lark
from basemlx.engine.grammar.structure_xgrammar import structural_tag

Engine = Literal["xgrammar", "llguidance"]


@dataclass(frozen=True, slots=True)
class Written:
    engine: Engine
    text: str
    remaining: tuple[tuple[Json, tuple[Gap, ...]], ...] = ()


def write_structure(
    node: Node, controls: Mapping[str, int], *, prefer: Engine = "xgrammar", loosely: bool = False
) -> Written:
    """`controls`: ids of the vocabulary's control tokens by their texts. `prefer` decides where both engines enforce
    the turn exactly; `loosely` is `plan_schema`'s. Raises UnsupportedSchema: what is strict and not enforceable, or
    what nothing satisfies."""
    remaining: list[tuple[Json, tuple[Gap, ...]]] = []
    all_exact = True

    def rules(value: Json, prefix: str) -> tuple[str, str]:
        nonlocal all_exact
        plan = _planned(value, prefix, loosely)
        if plan.remaining:
            remaining.append((value, plan.remaining))
        all_exact = all_exact and plan.xgrammar and _is_exact(value.schema)
        assert plan.lark is not None  # _planned has looked
        return f"{prefix}r0", plan.lark

    text = lark(node, controls, rules)
    if prefer == "xgrammar" and all_exact and not has_separated(node):
        return Written("xgrammar", json.dumps(structural_tag(node, controls), ensure_ascii=False))
    return Written("llguidance", text, tuple(remaining))


def _planned(value: Json, prefix: str, loosely: bool) -> SchemaPlan:
    try:
        plan = plan_schema(dict(value.schema), prefix=prefix, loosely=loosely)
        if value.strict and plan.remaining:
            raise plan.refusal()
    except UnsupportedSchema as error:
        pointer = value.pointer + (error.pointer or "")
        raise UnsupportedSchema(
            f"{error.message} (in {value.pointer or 'the schema'})", keyword=error.keyword, pointer=pointer
        ) from None
    if plan.lark is None:
        raise UnsupportedSchema(
            f"No value satisfies the schema at {value.pointer or 'the root'}.", pointer=value.pointer
        )
    return plan


def _is_exact(schema: Any) -> bool:
    """Whether objects with properties say if they allow others: within a tag, xgrammar takes silence for no."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            if "properties" in part and "additionalProperties" not in part:
                return False
            waiting.extend(part.values())
        elif isinstance(part, list | tuple):
            waiting.extend(part)
    return True
