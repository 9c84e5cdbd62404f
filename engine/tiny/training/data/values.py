"""Typed argument values: what stands in the JSON, how the request says it, and the schema that describes it.

`draw` makes a value of a kind; the kinds are JSON Schema's types plus enums and small nested shapes. Knows nothing of
tools. Deterministic for the namer's generator.
"""

from dataclasses import dataclass
from typing import Any

from basemlx.engine.tiny.training.data import words
from basemlx.engine.tiny.training.data.naming import Namer, spoken

_SPELLED = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)

SCALARS = ("string", "string", "string", "string", "integer", "integer", "number", "boolean", "enum")
NESTED = ("strings", "strings", "numbers", "object")


@dataclass(slots=True)
class Value:
    """`data` goes into the JSON; `said` is the same in a sentence; `spreads`: it has commas or spaces of its own."""

    data: Any
    said: str
    spreads: bool = False


def schema_of(kind: str, namer: Namer) -> dict[str, Any]:
    """A JSON Schema for a new parameter of this kind."""
    rng = namer.rng
    if kind == "enum":
        count = rng.randint(2, 4)
        options = (
            rng.sample(words.ENUM_WORDS, count) if namer.common() else [namer.word() for _ in range(count)]
        )
        return {"type": "string", "enum": list(dict.fromkeys(options))}
    if kind == "strings":
        return {"type": "array", "items": {"type": "string"}}
    if kind == "numbers":
        return {"type": "array", "items": {"type": rng.choice(("integer", "integer", "number"))}}
    if kind == "object":
        names = list(dict.fromkeys([namer.pick(words.PARAMETERS) for _ in range(rng.randint(1, 3))]))
        properties = {name: {"type": rng.choice(("string", "string", "integer", "number"))} for name in names}
        return {"type": "object", "properties": properties, "required": names}
    return {"type": kind}


def draw(schema: dict[str, Any], namer: Namer) -> Value:
    """A value that fits a schema made by `schema_of`."""
    rng = namer.rng
    if "enum" in schema:
        option = rng.choice(schema["enum"])
        return Value(option, option)
    kind = schema["type"]
    if kind == "string":
        return string(namer)
    if kind == "integer":
        number = namer.integer(0, 10 ** rng.randint(1, 7))
        if number <= 12 and rng.random() < 0.3:
            return Value(number, _SPELLED[number])
        number = -number if rng.random() < 0.06 else number
        return Value(number, str(number))
    if kind == "number":
        decimal = namer.decimal() if rng.random() < 0.7 else namer.integer(0, 99999)
        decimal = -decimal if rng.random() < 0.06 else decimal
        return Value(decimal, str(decimal))
    if kind == "boolean":
        truth = rng.random() < 0.5
        return Value(
            truth,
            rng.choice(("true", "yes", "on", "enabled") if truth else ("false", "no", "off", "disabled")),
        )
    if kind == "array":
        return _array(schema["items"]["type"], namer)
    return _object(schema["properties"], namer)


def string(namer: Namer) -> Value:
    """A string value; one with spaces is mostly said in quotes."""
    text = namer.string() if namer.rng.random() < 0.93 else namer.digits(2, 7)
    spreads = " " in text or "," in text
    quote = 0.75 if spreads else 0.22
    if namer.rng.random() < quote or "," in text:
        mark = namer.rng.choice(('"', '"', "'"))
        return Value(text, f"{mark}{text}{mark}")
    return Value(text, text, spreads)


def _array(item: str, namer: Namer) -> Value:
    rng = namer.rng
    count = rng.randint(1, 4)
    if item == "string":
        style = rng.random()
        items: list[Any] = [namer.word() if style < 0.7 else namer.word().capitalize() for _ in range(count)]
    elif item == "integer":
        items = [namer.integer(0, 9999) for _ in range(count)]
    else:
        items = [namer.decimal() for _ in range(count)]
    texts = [str(item) for item in items]
    style = rng.random()
    if style < 0.25:
        return Value(items, "[" + ", ".join(texts) + "]")
    if style < 0.35 and item == "string":
        return Value(items, "[" + ", ".join([f'"{text}"' for text in texts]) + "]")
    said = (
        ", ".join(texts) if rng.random() < 0.4 or count == 1 else ", ".join(texts[:-1]) + " and " + texts[-1]
    )
    return Value(items, said, count > 1)


def _object(properties: dict[str, Any], namer: Namer) -> Value:
    rng = namer.rng
    data: dict[str, Any] = {}
    said: list[str] = []
    mark = rng.choice((" ", ": ", " is "))
    for name, schema in properties.items():
        value = draw(schema, namer)
        while value.spreads:
            value = draw(schema, namer)
        data[name] = value.data
        said.append(f"{name if rng.random() < 0.3 else spoken(name)}{mark}{value.said}")
    style = rng.random()
    if style < 0.3:
        return Value(data, "{" + ", ".join(said) + "}")
    return Value(data, ", ".join(said) if style < 0.5 else " and ".join(said), True)
