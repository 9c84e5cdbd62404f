"""Tools that never existed: a verb, a noun, parameters, and a function definition that shows them in one of many styles.

Nothing here says how a person asks for a tool (asks.py) or what comes back (results.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from basemlx.engine.tiny.training.data import values, words
from basemlx.engine.tiny.training.data.naming import Namer, joined, spoken


@dataclass(slots=True)
class Parameter:
    """`spoken` is how a request names it: from its name, or from its description where the name says nothing."""

    name: str
    schema: dict[str, Any]
    required: bool
    spoken: str
    description: str = ""


@dataclass(slots=True)
class Tool:
    name: str
    verb: str
    noun: str
    parameters: list[Parameter]
    description: str
    asked_as: Sequence[str] = field(default_factory=tuple)  # ways to say the verb

    def definition(self, style: int) -> dict[str, Any]:
        """The function definition. Styles differ in key order and in what else schema libraries write into it."""
        properties: dict[str, Any] = {}
        for parameter in self.parameters:
            entry = dict(parameter.schema)
            if style == 1:
                entry = {"title": spoken(parameter.name).title(), **entry}
            if parameter.description:
                entry = (
                    {"description": parameter.description, **entry}
                    if style == 2
                    else {**entry, "description": parameter.description}
                )
            properties[parameter.name] = entry
        required = [parameter.name for parameter in self.parameters if parameter.required]
        schema: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
        if style == 1:
            schema = {"properties": properties, "required": required, "type": "object"}
        elif style == 2:
            schema["additionalProperties"] = False
        elif style == 3:
            schema = {"properties": properties, "type": "object"} | (
                {"required": required} if required else {}
            )
        elif style == 4 and not properties:
            schema = {"type": "object", "properties": {}}
        function: dict[str, Any] = {"name": self.name, "description": self.description, "parameters": schema}
        if style == 4:
            function = {"name": self.name, "parameters": schema} | (
                {"description": self.description} if self.description else {}
            )
        if style == 2:
            function["strict"] = True
        return {"type": "function", "function": function}


STYLES = 5


def make_parameters(namer: Namer, count: int, rich: bool = True) -> list[Parameter]:
    rng = namer.rng
    parameters: list[Parameter] = []
    taken: set[str] = set()
    style = rng.choice((0, 0, 0, 1))
    for _ in range(count):
        name = namer.pick(words.PARAMETERS)
        opaque = rng.random() < 0.05
        if rng.random() < 0.2:
            name = joined([namer.pick(words.MODIFIERS), name], style)
        said = spoken(name)
        if said in taken:
            continue
        taken.add(said)
        kind = rng.choice(values.NESTED) if rich and rng.random() < 0.16 else rng.choice(values.SCALARS)
        described = f"{rng.choice(('The', 'the', 'Its'))} {said}" + rng.choice(
            ("", "", ".", f" of the {namer.pick(words.NOUNS)}")
        )
        parameters.append(
            Parameter(
                name=f"{rng.choice('abcdefghijklmnopqrstuvwxyz')}{len(parameters) + 1}" if opaque else name,
                schema=values.schema_of(kind, namer),
                required=rng.random() < 0.7,
                spoken=said,
                description=described if opaque or rng.random() < 0.4 else "",
            )
        )
    return parameters


def make_tool(namer: Namer, verb: str = "", noun: str = "", most_parameters: int = 4) -> Tool:
    """A tool nobody has seen. `verb` and `noun` fix what it does, to make rivals that nearly fit."""
    rng = namer.rng
    verb = verb or (rng.choice(tuple(words.VERBS)) if namer.common() else namer.word())
    if not noun:
        noun = namer.pick(words.NOUNS)
        if rng.random() < 0.15:
            noun = f"{namer.pick(words.ADJECTIVES)} {noun}"
    count = rng.choices((0, 1, 2, 3, 4), (10, 34, 30, 18, 8))[0]
    parameters = make_parameters(namer, min(count, most_parameters))
    pieces = [verb, *noun.split()]
    if rng.random() < 0.12:
        pieces = [*noun.split(), verb]
    if rng.random() < 0.08:
        pieces.append(rng.choice(("tool", "api", "v2", "now", "function")))
    name = joined(pieces, rng.choices((0, 1, 2, 3, 4), (62, 16, 8, 6, 8))[0])
    opaque = rng.random() < 0.1
    if opaque:
        name = rng.choice(
            (
                namer.word(),
                f"{namer.word()}_{namer.word()}",
                f"fn_{namer.digits(1, 3)}",
                f"tool{namer.digits(1, 2)}",
            )
        )
    description = _description(namer, verb, noun, parameters)
    return Tool(
        name=name,
        verb=verb,
        noun=noun,
        parameters=parameters,
        description=description if opaque or rng.random() < 0.7 else "",
        asked_as=words.VERBS.get(verb, (verb,)),
    )


def _description(namer: Namer, verb: str, noun: str, parameters: Sequence[Parameter]) -> str:
    rng = namer.rng
    form = rng.randrange(8)
    article = rng.choice(("a", "the", "one"))
    if form == 0:
        text = f"{verb.capitalize()} {article} {noun}."
    elif form == 1:
        text = f"{verb.capitalize()}s {article} {noun}"
    elif form == 2:
        text = f"Use this to {verb} {article} {noun}."
    elif form == 3:
        text = f"{verb.capitalize()} {noun}"
    elif form == 4:
        text = f"This tool can {verb} {article} {noun}."
    elif form == 5:
        text = f"Tool to {verb} {article} {noun} in the {namer.word()} system."
    elif form == 6 and parameters:
        text = f"{verb.capitalize()} {article} {noun} by its {parameters[0].spoken}."
    else:
        text = f"{verb.capitalize()} {article} {noun} and return the {namer.pick(words.PARAMETERS)}."
    return text
