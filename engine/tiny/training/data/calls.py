"""Episodes that end in tool calls, or in saying that no tool fits.

One call, several calls for several things asked, nothing to call, and something missing to call with. Each answer is a
function of what was said, so that it can be checked to the last character.
"""

from basemlx.engine.tiny.training.data import asks, catalogue
from basemlx.engine.tiny.training.data.dialogue import Call, assistant, calling, user
from basemlx.engine.tiny.training.data.episodes import Episode
from basemlx.engine.tiny.training.data.naming import Namer
from basemlx.engine.tiny.training.data.tools import Tool, make_tool

NO_TOOL = "I have no tool for that."
NO_TOOL_THOUGHT = "No tool here does this."
# What is asked for in these families is answered without a tool, or known not to be known.
_ANSWERABLE = catalogue.numbers_of(catalogue.LOOKING_UP | catalogue.ARITHMETIC)
_SMALL_TALK = (
    "I hope you are well.", "Thanks for your help!", "I am in a hurry.", "It has been a long day.", "You are great.",
    "This is important.", "My boss wants it.", "I am new here.", "Sorry to bother you.", "No rush.",
)  # fmt: skip
_LINKS = (
    (". Also, ", ""),
    (" and ", ""),
    (", then ", ""),
    (". Then ", ""),
    ("; ", ""),
    (", and also ", ""),
    (". And ", ""),
    (" and then ", ""),
)


def planned(calls: list[Call]) -> str:
    """The thought before calling: which tool, and which arguments the request gave."""
    if len(calls) > 1:
        return f"{_NUMBERS[len(calls)]} calls: " + ", then ".join([call.name for call in calls]) + "."
    call = calls[0]
    keys = list(call.arguments)
    if not keys:
        return f"I call {call.name} without arguments."
    listed = keys[0] if len(keys) == 1 else ", ".join(keys[:-1]) + " and " + keys[-1]
    return f"I call {call.name} with {listed}."


_NUMBERS = ("No", "One", "Two", "Three", "Four", "Five")


def made_up_request(namer: Namer, tool: Tool | None = None) -> tuple[Tool, Call, str]:
    tool = tool or make_tool(namer)
    given = asks.arguments(tool, namer)
    return tool, Call(tool.name, asks.as_json(given)), asks.request(tool, given, namer)


def natural_request(namer: Namer, family: int = -1) -> tuple[catalogue.Instance, Call]:
    found = catalogue.instance(namer, family)
    return found, Call(found.tool.name, found.arguments)


def one_call(namer: Namer) -> Episode:
    rng = namer.rng
    if not namer.unseen and rng.random() < 0.3:
        found, call = natural_request(namer)
        return Episode(
            [user(_chatty(found.ask, namer)), calling([call], planned([call]))], [found.tool], task="call"
        )
    tool, call, text = made_up_request(namer)
    return Episode([user(_chatty(text, namer)), calling([call], planned([call]))], [tool], task="call")


def no_tool_fits(namer: Namer) -> Episode:
    rng = namer.rng
    if not namer.unseen and rng.random() < 0.3:
        found, _ = natural_request(namer)
        while found.family in _ANSWERABLE:
            found, _ = natural_request(namer)
        turns = [user(_chatty(found.ask, namer)), assistant(NO_TOOL, NO_TOOL_THOUGHT)]
        barred = catalogue.rivals(found.family) | catalogue.numbers_of(catalogue.LOOKING_UP)
        return Episode(turns, absent=[found.tool], barred=barred, task="no_tool", toolless=rng.random() < 0.3)
    tool, _, text = made_up_request(namer)
    while tool.name in text:  # asked for by name is another matter
        tool, _, text = made_up_request(namer)
    turns = [user(_chatty(text, namer)), assistant(NO_TOOL, NO_TOOL_THOUGHT)]
    return Episode(turns, absent=[tool], task="no_tool", toolless=not namer.unseen and rng.random() < 0.1)


def several_calls(namer: Namer, count: int = 2) -> Episode:
    """Two or more things asked in one message; sometimes the same tool twice."""
    rng = namer.rng
    if not namer.unseen and rng.random() < 0.25:
        return _natural_several(namer, count)
    tools: list[Tool] = []
    calls: list[Call] = []
    clauses: list[str] = []
    same = rng.random() < 0.2
    for _ in range(count):
        tool = tools[0] if same and tools else make_tool(namer, most_parameters=3)
        given = asks.arguments(tool, namer)
        tools.append(tool)
        calls.append(Call(tool.name, asks.as_json(given)))
        clauses.append(asks.clause(tool, given, namer, compact=True))
    text = _linked(clauses, namer)
    return Episode(
        [user(_chatty(text, namer)), calling(calls, planned(calls))],
        list({id(t): t for t in tools}.values()),
        task="calls",
    )


def _natural_several(namer: Namer, count: int) -> Episode:
    rng = namer.rng
    first = catalogue.instance(namer)
    if rng.random() < 0.5 and first.arguments:
        return _same_natural(namer, count, first)
    found = [first]
    barred = catalogue.rivals(first.family)
    while len(found) < count:
        other = catalogue.instance(namer)
        if other.family in barred:
            continue
        barred |= catalogue.rivals(other.family)
        found.append(other)
    calls = [Call(each.tool.name, each.arguments) for each in found]
    text = rng.choice((" ", " Also: ", " And then: ", " And: ")).join([_ended(each.ask) for each in found])
    return Episode([user(text), calling(calls, planned(calls))], [each.tool for each in found], task="calls")


def _same_natural(namer: Namer, count: int, first: catalogue.Instance) -> Episode:
    """The same everyday tool for different values: the same wording each time, or a list of places or people."""
    asked, calls = [first.ask], [Call(first.tool.name, first.arguments)]
    keys = list(first.arguments)
    kinds = {parameter.name: parameter.schema for parameter in first.tool.parameters}
    tries = 0
    while len(calls) < count and tries < 50:
        tries += 1
        other = catalogue.instance(namer, first.family)
        if (
            len(other.arguments) == len(keys)
            and other.arguments != first.arguments
            and list(other.arguments) == keys
        ):
            if any(
                kinds[key].get("type") != "string"
                and not isinstance(other.arguments[key], (int, float, list))
                for key in keys
            ):
                continue
            asked.append(other.ask)
            calls.append(Call(first.tool.name, other.arguments))
    if len(keys) == 1 and isinstance(first.arguments[keys[0]], str):
        values = [call.arguments[keys[0]] for call in calls]
        if len(values) > 1 and str(values[0]) in first.ask and not any("," in value for value in values):
            said = ", ".join(values[:-1]) + " and " + values[-1]
            if f"in {values[0]}" in first.ask and namer.rng.random() < 0.5:
                said = ", in ".join(values[:-1]) + " and in " + values[-1]
            return Episode(
                [user(first.ask.replace(values[0], said, 1)), calling(calls, planned(calls))],
                [first.tool],
                task="calls",
            )
    text = " ".join([_ended(ask) for ask in asked])
    return Episode([user(text), calling(calls, planned(calls))], [first.tool], task="calls")


def something_missing(namer: Namer) -> Episode:
    """A required parameter was not given: ask for it, then call when the person gives it."""
    while True:
        tool = make_tool(namer)
        required = [parameter for parameter in tool.parameters if parameter.required]
        if required:
            break
    rng = namer.rng
    given = asks.arguments(tool, namer)
    missing = rng.choice(required)
    kept = [(parameter, value) for parameter, value in given if parameter is not missing]
    value = next(value for parameter, value in given if parameter is missing)
    text = asks.request(tool, kept, namer)
    question = assistant(
        f"Which {missing.spoken} should I use?", f"For {tool.name} the {missing.name} is missing."
    )
    call = Call(tool.name, asks.as_json(given))
    reply = rng.choice(("{1}", "{0}: {1}", "The {0} is {1}.", "Use {1}.", "{1}, please.", "{0} {1}")).format(
        missing.spoken, value.said
    )
    return Episode(
        [user(text), question, user(reply), calling([call], planned([call]))], [tool], task="missing"
    )


def _chatty(text: str, namer: Namer) -> str:
    """Now and then some small talk around a request."""
    rng = namer.rng
    chance = rng.random()
    if chance < 0.06:
        return f"{rng.choice(_SMALL_TALK)} {text[:1].upper()}{text[1:]}"
    if chance < 0.10:
        return f"{_ended(text)} {rng.choice(_SMALL_TALK)}"
    return text


def _ended(text: str) -> str:
    return text if text[-1] in ".?!" else text + "."


def _linked(clauses: list[str], namer: Namer) -> str:
    rng = namer.rng
    if rng.random() < 0.12:
        lead = rng.choice(
            (
                "Do these things:",
                "Please do the following:",
                "Two things:" if len(clauses) == 2 else "Some things:",
                "To do:",
            )
        )
        return lead + "\n" + "\n".join([f"{at}. {clause}" for at, clause in enumerate(clauses, 1)])
    link = rng.choice(_LINKS)[0]
    text = clauses[0]
    for clause in clauses[1:]:
        text += link + (clause[:1].upper() + clause[1:] if link.endswith((". ", "? ")) else clause)
    lead = rng.choice(("", "", "", "Please ", "Can you ", "First ", "I need you to ", "Hi, "))
    text = lead + text if lead else text[:1].upper() + text[1:]
    return text + ("?" if lead == "Can you " else rng.choice((".", ".", "")))
