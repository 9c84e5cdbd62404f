"""Requests in words: how people ask for a tool and name its arguments.

`arguments` decides which parameters a request gives, `request` says it. The order of the arguments in the call is the
definition's, whatever the order of the words. Knows nothing of what the assistant does with it.
"""

from typing import Any

from basemlx.engine.tiny.training.data.naming import Namer
from basemlx.engine.tiny.training.data.tools import Parameter, Tool
from basemlx.engine.tiny.training.data.values import Value, draw

Given = list[tuple[Parameter, Value]]


def arguments(tool: Tool, namer: Namer) -> Given:
    """Values for the required parameters and for some of the optional ones, in the definition's order."""
    rng = namer.rng
    return [
        (parameter, draw(parameter.schema, namer))
        for parameter in tool.parameters
        if parameter.required or rng.random() < 0.45
    ]


def as_json(given: Given) -> dict[str, Any]:
    return {parameter.name: value.data for parameter, value in given}


def request(tool: Tool, given: Given, namer: Namer) -> str:
    """A full request, as a sentence."""
    rng = namer.rng
    core = clause(tool, given, namer)
    form = rng.randrange(14)
    if form == 0:
        return f"Please {core}."
    if form == 1:
        return f"Can you {core}?"
    if form == 2:
        return f"Could you {core}, please?" if not core.endswith("\n") else f"Could you please {core}"
    if form == 3:
        return f"I want to {core}."
    if form == 4:
        return f"I need you to {core}."
    if form == 5:
        return f"I'd like to {core}."
    if form == 6:
        return f"{_capital(core)}, please."
    if form == 7:
        return core
    if form == 8:
        return f"Hi! {_capital(core)}."
    if form == 9:
        return f"{rng.choice(('Now', 'Next', 'Ok, now', 'Then', 'Well,'))} {core}."
    if form == 10:
        return f"Use a tool to {core}."
    return f"{_capital(core)}{rng.choice(('.', '.', '', '!'))}"


def clause(tool: Tool, given: Given, namer: Namer, compact: bool = False) -> str:
    """The request without its politeness: "book the room with size 3 and name Ilka". `compact` keeps it on one line."""
    rng = namer.rng
    verb = rng.choice(tool.asked_as or (tool.verb,))
    article = rng.choice(("the", "the", "a", "one", "this", "my", ""))
    what = f"{verb} {article} {tool.noun}".replace("  ", " ")
    by_name = rng.random() < 0.12
    if by_name:
        what = rng.choice(("call {}", "use {}", "run {}", "use the {} tool", "call the tool {}")).format(
            tool.name
        )
    if not given:
        return what
    if len(given) == 1 and not by_name and _only_choice(tool, given[0][0]) and rng.random() < 0.4:
        said = given[0][1].said
        kind = given[0][0].schema
        if "enum" not in kind and kind["type"] in ("string", "integer", "number") and not given[0][1].spreads:
            return f"{what} {rng.choice(('', '', 'for ', 'called ', 'with ', '- ', ': ')) if kind['type'] == 'string' else rng.choice(('', 'with ', 'for '))}{said}".replace(
                " :", ":"
            )
    parts = list(given)
    if rng.random() < 0.3:
        rng.shuffle(parts)
    if by_name and rng.random() < 0.3:
        return f"call {tool.name}({', '.join(f'{p.name}={v.said}' for p, v in parts)})"
    spreading = any(value.spreads for _, value in parts[:-1])
    layout = rng.random()
    if layout < 0.1 and not compact:
        mark = rng.choice(("- ", "", "* "))
        return what + ":\n" + "\n".join([f"{mark}{_key(p, namer)}: {v.said}" for p, v in parts])
    if spreading or layout < 0.2:
        return (
            what
            + rng.choice((" with ", ": ", " - ", ", "))
            + "; ".join([_mention(p, v, namer) for p, v in parts])
        )
    mentions = [_mention(p, v, namer) for p, v in parts]
    if layout < 0.3:
        return f"{what} ({', '.join(mentions)})"
    if layout < 0.4 and not compact:
        return f"{what}. " + ". ".join([_capital(f"{_key(p, namer)} is {v.said}") for p, v in parts])
    if layout < 0.55:
        return what + rng.choice((" with ", ", ", ": ", " using ")) + ", ".join(mentions)
    tail = mentions[0] if len(mentions) == 1 else ", ".join(mentions[:-1]) + " and " + mentions[-1]
    return what + rng.choice((" with ", " with ", ", ", " using ", " where ")) + tail


def _only_choice(tool: Tool, parameter: Parameter) -> bool:
    """Whether a value that is said without its name can only be this parameter's."""
    return all(other is parameter or (parameter.required and not other.required) for other in tool.parameters)


def _key(parameter: Parameter, namer: Namer) -> str:
    return parameter.name if namer.rng.random() < 0.2 and len(parameter.name) > 2 else parameter.spoken


def _mention(parameter: Parameter, value: Value, namer: Namer) -> str:
    rng = namer.rng
    key, said = _key(parameter, namer), value.said
    form = rng.randrange(12)
    if form == 0:
        return f"{key}: {said}"
    if form == 1:
        return f"{key} = {said}"
    if form == 2:
        return f"{key} set to {said}"
    if form == 3 and not value.spreads:
        return f"{said} as {rng.choice(('the ', ''))}{key}"
    if form == 4:
        return f"the {key} {said}"
    if form == 5:
        return f"{key}={said}"
    if form == 6 and not value.spreads:
        return f"{said} for {rng.choice(('the ', ''))}{key}"
    if form == 7:
        return f"{key} is {said}"
    if form == 8:
        return f"a {key} of {said}"
    return f"{key} {said}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
