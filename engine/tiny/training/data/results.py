"""Episodes that go on after a tool has answered: its result in words, its failure, a chain of calls, a second question.

How an answer is put follows from the question and the shape of the result alone:
- a question for a field: "The status of the order is open."
- a question with a topic and a text or number as result: "The weather in Oslo: sunny."
- anything else: "Here is the result. id: 17, state: open."
Knows nothing of how requests for calls are worded.
"""

from typing import Any

from basemlx.engine.tiny.training.data import asks, catalogue, words
from basemlx.engine.tiny.training.data.calls import made_up_request, natural_request, planned
from basemlx.engine.tiny.training.data.dialogue import Call, Turn, assistant, calling, tool_result, user
from basemlx.engine.tiny.training.data.episodes import Episode
from basemlx.engine.tiny.training.data.naming import Namer, spoken
from basemlx.engine.tiny.training.data.tools import Tool, make_tool

RESULT_THOUGHT = "The result has the answer."
FAILURE_THOUGHT = "The tool failed; I say so."
_ERRORS = (
    "not found", "permission denied", "connection timed out", "service unavailable", "invalid input", "rate limit exceeded",
    "internal error", "access denied", "no such record", "the request was too large", "unknown id", "quota exceeded",
)  # fmt: skip


def in_words(value: Any) -> str:
    """A JSON value as the model says it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, dict):
        return ", ".join([f"{spoken_key(key)}: {in_words(item)}" for key, item in value.items()])
    if isinstance(value, list):
        return ", ".join([in_words(item) for item in value]) or "nothing"
    return str(value)


def spoken_key(key: str) -> str:
    return spoken(key)


def field_value(namer: Namer) -> Any:
    rng = namer.rng
    kind = rng.random()
    if kind < 0.5:
        return namer.string()
    if kind < 0.72:
        return namer.integer(0, 10 ** rng.randint(1, 9))
    if kind < 0.84:
        return namer.decimal()
    if kind < 0.9:
        return rng.random() < 0.5
    if kind < 0.97:
        return [namer.word() for _ in range(rng.randint(1, 4))]
    return None


def record(namer: Namer, low: int = 1, high: int = 5) -> dict[str, Any]:
    made: dict[str, Any] = {}
    said: set[str] = set()
    for _ in range(namer.rng.randint(low, high)):
        key = namer.pick(words.PARAMETERS)
        if namer.rng.random() < 0.2:
            key = f"{key}_{namer.pick(words.PARAMETERS)}"
        if spoken(key) not in said:
            said.add(spoken(key))
            made[key] = field_value(namer)
    return made


def statement(topic: str, result: Any) -> str:
    """The answer that a result gives to a question about `topic`."""
    if isinstance(result, list) and result and all(isinstance(item, dict) for item in result):
        return (
            f"I found {len(result)}: "
            + ", ".join([in_words(next(iter(item.values()))) for item in result])
            + "."
        )
    text = in_words(result)
    subject = (
        _capital(topic)
        if topic.startswith(("the ", "your ", "user ", "order ", "flights ", "hotels "))
        else topic
    )
    if isinstance(result, (bool, int, float)) and topic:
        return f"{subject} is {text}."
    ended = text if text.endswith((".", "!", "?")) else text + "."
    return f"{subject}: {ended}" if topic else f"Here is the result. {ended}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def free_text(namer: Namer) -> str:
    """A result that is just text."""
    rng = namer.rng
    kind = rng.randrange(6)
    if kind == 0:
        return (
            f"It's {rng.choice(words.CONDITIONS)}."
            if namer.common()
            else f"It is {namer.word()} and {namer.word()}."
        )
    if kind == 1:
        return namer.phrase(3, 9)
    if kind == 2:
        return namer.string()
    if kind == 3:
        return f"{namer.pick(words.CONDITIONS).capitalize()}, {namer.integer(0, 40)} degrees"
    if kind == 4:
        return f"{namer.phrase(2, 5)}. {namer.phrase(2, 5)}."
    return rng.choice(("ok", "done", "success", "OK", "sent", "created")) if namer.common() else namer.word()


def wrapped(value: Any, namer: Namer) -> Any:
    """Some tools put their one value into an object; what is said then is the same as of a field."""
    return {namer.rng.choice(("result", "output", "value", "answer")): value}


def answered(namer: Namer) -> Episode:
    """A call, its result, an answer; often a second question that the same result answers."""
    rng = namer.rng
    kind = rng.random()
    if kind < 0.5:
        return _field_question(namer)
    if kind < 0.75 and not namer.unseen:
        return _natural(namer)
    tool, call, text = made_up_request(namer)
    result: Any = (
        record(namer) if rng.random() < 0.6 else free_text(namer) if rng.random() < 0.7 else _records(namer)
    )
    turns = [
        user(text),
        calling([call], planned([call])),
        tool_result(result),
        assistant(statement("", result), RESULT_THOUGHT),
    ]
    return Episode(turns, [tool], task="result")


def _records(namer: Namer) -> list[dict[str, Any]]:
    keys = list(dict.fromkeys([namer.pick(words.PARAMETERS) for _ in range(namer.rng.randint(1, 3))]))
    return [
        {key: namer.string() if at == 0 else field_value(namer) for at, key in enumerate(keys)}
        for _ in range(namer.rng.randint(1, 4))
    ]


def _field_question(namer: Namer) -> Episode:
    """ "What is the status of the order X?" answered from one field among several."""
    rng = namer.rng
    tool = make_tool(namer)
    while not tool.noun:
        tool = make_tool(namer)
    given = asks.arguments(tool, namer)
    call = Call(tool.name, asks.as_json(given))
    fields = record(namer, 1, 7)
    while not fields:
        fields = record(namer, 1, 7)
    wanted = rng.choice(list(fields))
    said = spoken(wanted)
    core = asks.clause(tool, given, namer, compact=True)
    text = rng.choice((
        f"{_capital(core)} and tell me its {said}.",
        f"{_capital(core)}. What is its {said}?",
        f"What is the {said}? Please {core}.",
        f"I need the {said}: {core}.",
        f"{_capital(core)} and give me the {said}.",
        f"Please {core} and say what the {said} is.",
    ))  # fmt: skip
    shape = rng.random()
    result: Any = fields
    if shape < 0.1:
        result = {tool.noun.split()[-1]: fields}
    elif shape < 0.2:
        result = "\n".join([f"{spoken(key)}: {in_words(value)}" for key, value in fields.items()])
    turns = [
        user(text),
        calling([call], planned([call])),
        tool_result(result),
        assistant(field_statement(said, fields[wanted]), RESULT_THOUGHT),
    ]
    if len(fields) > 1 and rng.random() < 0.4:
        other = rng.choice([key for key in fields if key != wanted])
        more = rng.choice(
            (
                "And the {}?",
                "What is the {}?",
                "And what about the {}?",
                "Tell me the {} too.",
                "Which {} does it have?",
            )
        )
        turns += [
            user(more.format(spoken(other))),
            assistant(field_statement(spoken(other), fields[other]), "The earlier result has it."),
        ]
    return Episode(turns, [tool], task="result")


def field_statement(said: str, value: Any) -> str:
    text = in_words(value)
    return f"The {said} is {text}" + ("" if text.endswith((".", "!", "?")) else ".")


def _natural(namer: Namer) -> Episode:
    found, call = natural_request(namer)
    result, answer = natural_result(found, namer)
    return Episode(
        [
            user(found.ask),
            calling([call], planned([call])),
            tool_result(result),
            assistant(answer, RESULT_THOUGHT),
        ],
        [found.tool],
        task="result",
    )


def natural_result(found: catalogue.Instance, namer: Namer) -> tuple[Any, str]:
    """A result for an everyday tool, and the answer it gives."""
    rng = namer.rng
    family = catalogue.FAMILIES[found.family].names.split()[0]
    result: Any
    if family in catalogue.ARITHMETIC or family in (
        "magic_function",
        "magic_function_no_args",
        "get_stock_price",
        "get_population",
        "get_balance",
        "get_word_length",
        "fibonacci",
        "random_number",
        "convert_currency",
        "get_distance",
    ):
        value: Any = namer.integer(0, 10 ** rng.randint(1, 8)) if rng.random() < 0.75 else namer.decimal()
        if rng.random() < 0.3:
            return wrapped(value, namer), statement(found.topic, value)
        return str(value), statement(found.topic, value)
    if family in ("get_weather", "get_forecast"):
        kind = rng.random()
        if kind < 0.4:
            keys = rng.sample(("temperature", "condition", "humidity", "wind", "unit"), rng.randint(1, 4))
            result = {
                key: rng.choice(words.CONDITIONS)
                if key == "condition"
                else rng.choice(words.UNITS[:2])
                if key == "unit"
                else namer.integer(0, 99)
                for key in keys
            }
        else:
            result = rng.choice(
                (
                    "{0}",
                    "It's {0}.",
                    "{0}, {1} degrees",
                    "{1}C and {0}",
                    "The weather is {0}.",
                    "{1} degrees",
                    "It's {0} and {1} degrees.",
                )
            ).format(namer.pick(words.CONDITIONS), namer.integer(0, 99))
        return result, statement(found.topic, result)
    result = (
        record(namer) if rng.random() < 0.45 else free_text(namer) if rng.random() < 0.75 else _records(namer)
    )
    if isinstance(result, dict) and not result:
        result = "done"
    return result, statement(found.topic, result)


def failed(namer: Namer) -> Episode:
    """The tool says that it failed."""
    rng = namer.rng
    if not namer.unseen and rng.random() < 0.4:
        found, call = natural_request(namer)
        tool, text = found.tool, found.ask
    else:
        tool, call, text = made_up_request(namer)
    message = rng.choice(_ERRORS) if namer.common() else namer.phrase(2, 5)
    if rng.random() < 0.15:
        message = f"Missing required argument '{namer.pick(words.PARAMETERS)}'"
    result: Any = rng.choice(
        (
            f"Error: {message}",
            f"Error: {message}.",
            {"error": message},
            {"status": "error", "message": message},
            {"error": {"message": message}},
        )
    )
    turns = [
        user(text),
        calling([call], planned([call])),
        tool_result(result),
        assistant(f"That did not work: {message}.", FAILURE_THOUGHT),
    ]
    return Episode(turns, [tool], task="failed")


def two_results(namer: Namer) -> Episode:
    """Two calls at once and both results; the answer keeps their order."""
    rng = namer.rng
    tools: list[Tool] = []
    calls: list[Call] = []
    clauses: list[str] = []
    answers: list[str] = []
    replies: list[Turn] = []
    same = rng.random() < 0.3
    natural = not namer.unseen and rng.random() < 0.5
    family = -1
    asked: list[str] = []
    barred: set[int] = set()
    for _ in range(rng.choice((2, 2, 2, 3))):
        if natural:
            found, call = natural_request(namer, family)
            while family < 0 and (found.family in barred or not found.topic):
                found, call = natural_request(namer)
            if same:
                family = found.family
            if same and tools:
                tool = tools[0]
                call = Call(tool.name, found.arguments)
                if list(found.arguments) != list(calls[0].arguments):
                    continue
            else:
                tool = found.tool
            barred |= catalogue.rivals(found.family)
            result, answer = natural_result(found, namer)
            asked.append(found.ask)
        else:
            tool = tools[0] if same and tools else make_tool(namer, most_parameters=2)
            given = asks.arguments(tool, namer)
            call = Call(tool.name, asks.as_json(given))
            clauses.append(asks.clause(tool, given, namer, compact=True))
            result = record(namer, 1, 3) or "ok" if rng.random() < 0.6 else namer.string()
            text = in_words(result)
            # A made-up word is never capitalised: that would be a feat of spelling, of use to nobody.
            answer = f"Result {len(calls) + 1}: {text}" + ("" if text.endswith((".", "!", "?")) else ".")
        tools.append(tool)
        calls.append(call)
        replies.append(tool_result(result))
        answers.append(answer)
    text = " ".join(asked) if natural else _capital(" and ".join(clauses)) + "."
    if len(calls) == 1:
        return answered(namer)
    turns = [
        user(text),
        calling(calls, planned(calls)),
        *replies,
        assistant(" ".join(answers), "The results have the answers."),
    ]
    return Episode(turns, list({id(tool): tool for tool in tools}.values()), task="result")


def chained(namer: Namer) -> Episode:
    """The second call needs what the first one returned."""
    rng = namer.rng
    first = make_tool(namer, most_parameters=2)
    second = make_tool(namer, most_parameters=1)
    while (
        not second.parameters
        or second.parameters[0].schema.get("type") not in ("string", "integer")
        or "enum" in second.parameters[0].schema
    ):
        second = make_tool(namer, most_parameters=1)
    key = second.parameters[0]
    key.required = True
    given = asks.arguments(first, namer)
    call = Call(first.name, asks.as_json(given))
    value: Any = namer.integer(1, 10**6) if key.schema["type"] == "integer" else namer.string()
    fields = record(namer, 0, 3)
    fields = {name: item for name, item in fields.items() if spoken(name) != key.spoken}
    items = [*fields.items(), (key.spoken.replace(" ", "_"), value)]
    rng.shuffle(items)
    follow = Call(second.name, {key.name: value})
    verb = rng.choice(second.asked_as or (second.verb,))
    text = (
        asks.clause(first, given, namer, compact=True)
        + rng.choice((" and then ", ", then ", " and "))
        + f"{verb} the {second.noun} with the {key.spoken} it returns"
    )
    outcome: Any = record(namer, 1, 2) or "done"
    turns = [
        user(_capital(text) + "."),
        calling([call], f"First {first.name}, then {second.name} with its {key.spoken}."),
        tool_result(dict(items)),
        calling([follow], planned([follow])),
        tool_result(outcome),
        assistant(statement("", outcome), RESULT_THOUGHT),
    ]
    return Episode(turns, [first, second], task="chain")
