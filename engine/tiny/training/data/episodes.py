"""What a conversation is made of: one exchange and the tools it needs, or must not see.

The mixture joins episodes into a dialogue and furnishes the toolbox: the tools they need, others beside them, and none
that would change a right answer. Knows nothing of wording.
"""

from dataclasses import dataclass, field

from basemlx.engine.tiny.training.data import catalogue
from basemlx.engine.tiny.training.data.dialogue import Turn
from basemlx.engine.tiny.training.data.naming import Namer
from basemlx.engine.tiny.training.data.tools import Tool, make_tool


@dataclass(slots=True)
class Episode:
    """`absent`: made-up tools that must not be offered; `barred`: families of the catalogue that must not be."""

    turns: list[Turn]
    tools: list[Tool] = field(default_factory=list)
    absent: list[Tool] = field(default_factory=list)
    barred: set[int] = field(default_factory=set)
    task: str = ""
    toolless: bool = False  # it makes sense without any tool


def furnish(episodes: list[Episode], namer: Namer, total: int) -> list[Tool] | None:
    """The toolbox for these episodes, shuffled; None where two of them cannot stand side by side."""
    rng = namer.rng
    box: list[Tool] = []
    absent = [tool for episode in episodes for tool in episode.absent]
    barred: set[int] = set()
    for episode in episodes:
        barred |= episode.barred
    names: set[str] = set()
    for episode in episodes:
        for tool in episode.tools:
            if any(tool is other for other in box):
                continue
            if tool.name in names or _could_serve(tool, absent) or _same_deed(tool, box):
                return None
            names.add(tool.name)
            box.append(tool)
    offered = {_family(tool) for tool in box} - {-1}
    if offered & barred:
        return None
    for family in offered:
        barred |= catalogue.rivals(family)
    wanted = [tool for tool in [*box, *absent] if _family(tool) < 0]
    natural = bool(offered) or (not wanted and not namer.unseen)
    tries = 0
    while len(box) < total and tries < 30:
        tries += 1
        if not namer.unseen and rng.random() < (0.6 if natural else 0.15):
            family = rng.randrange(len(catalogue.FAMILIES))
            if family in barred:
                continue
            other = catalogue.instance(namer, family).tool
            barred |= catalogue.rivals(family)
        else:
            verb = noun = ""
            if wanted and rng.random() < 0.45:
                near = rng.choice(wanted)
                verb, noun = (near.verb, "") if rng.random() < 0.5 else ("", near.noun)
            other = make_tool(namer, verb, noun)
            if _could_serve(other, absent) or _same_deed(other, box):
                continue
        if other.name in names:
            continue
        names.add(other.name)
        box.append(other)
    rng.shuffle(box)
    return box


def _family(tool: Tool) -> int:
    return int(tool.verb[1:]) if tool.verb.startswith("#") else -1


def _could_serve(tool: Tool, absent: list[Tool]) -> bool:
    """Whether it could be taken for one of the absent: the same verb in some wording, and the same noun."""
    return any(
        tool.noun == other.noun and set(tool.asked_as) & set(other.asked_as) for other in absent if other.noun
    )


def _same_deed(tool: Tool, box: list[Tool]) -> bool:
    return bool(tool.noun) and _could_serve(tool, box)
