"""Episodes that ask for a JSON object: a shape, described in words or as a schema, and a sentence to fill it from.

The object has exactly the keys of the shape, in its order, on one line as `json.dumps` writes it; what the sentence
does not say is null. Knows nothing of tools.
"""

import json
from dataclasses import dataclass
from typing import Any

from basemlx.engine.tiny.training.data import words
from basemlx.engine.tiny.training.data.dialogue import Turn, assistant, user
from basemlx.engine.tiny.training.data.episodes import Episode
from basemlx.engine.tiny.training.data.naming import Namer, spoken
from basemlx.engine.tiny.training.data.values import Value, draw, schema_of

_TYPE_WORDS = {
    "string": ("string", "text", "str"),
    "integer": ("integer", "number", "int", "whole number"),
    "number": ("number", "float", "decimal"),
    "boolean": ("boolean", "true or false", "bool"),
    "array": ("list of strings", "array of strings", "list"),
    "numbers": ("list of numbers", "array of integers", "list"),
    "object": ("object",),
}


@dataclass(slots=True)
class Field:
    key: str
    schema: dict[str, Any]
    value: Value | None  # None: the sentence does not say it


# How a shape is given: a number in [0, 1). Below _AS_SCHEMA as a JSON schema, below _TYPED by keys and types, else by
# keys alone.
_AS_SCHEMA = 0.25
_TYPED = 0.75


def _tellable(field: Field, form: float) -> bool:
    """Whether shape and sentence leave no doubt about the value's type."""
    if form < _AS_SCHEMA or field.value is None:
        return True
    data = field.value.data
    if isinstance(data, dict):
        # The types of the inner fields are not given.
        return form < _TYPED and not any(
            isinstance(inner, str) and _looks_like_a_number(inner) for inner in data.values()
        )
    if form < _TYPED:
        return True
    if isinstance(data, list):
        return len(data) > 1
    return not (isinstance(data, str) and _looks_like_a_number(data))


def _looks_like_a_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def _fields(namer: Namer, form: float, low: int = 1, high: int = 6) -> list[Field]:
    rng = namer.rng
    fields: list[Field] = []
    taken: set[str] = set()
    for _ in range(rng.randint(low, high)):
        key = namer.pick(words.PARAMETERS)
        if rng.random() < 0.2:
            key = (
                f"{key}_{namer.pick(words.MODIFIERS)}"
                if rng.random() < 0.7
                else key + namer.pick(words.MODIFIERS).capitalize()
            )
        if spoken(key) in taken:
            continue
        taken.add(spoken(key))
        kind = rng.choice(
            ("string",) * 6
            + ("integer",) * 4
            + ("number", "number", "boolean", "strings", "numbers", "object", "enum")
        )
        schema = schema_of(kind, namer)
        field = Field(key, schema, None if rng.random() < 0.07 else draw(schema, namer))
        while not _tellable(field, form):
            field.schema = schema_of("string" if kind == "object" else kind, namer)
            field.value = draw(field.schema, namer)
        fields.append(field)
    if not any(field.value for field in fields):
        return _fields(namer, form, low, high)
    return fields


def filled(fields: list[Field]) -> str:
    return json.dumps(
        {field.key: field.value.data if field.value else None for field in fields}, ensure_ascii=False
    )


def object_from_sentence(namer: Namer) -> Episode:
    rng = namer.rng
    if not namer.unseen and rng.random() < 0.25:
        return _about_a_person(namer)
    form = rng.random()
    fields = _fields(namer, form)
    sentence = _sentence(fields, namer)
    return _asked(fields, sentence, namer, form)


def thought(fields: list[Field]) -> str:
    keys = [field.key for field in fields]
    return f"Keys: {', '.join(keys)}."


def _asked(fields: list[Field], sentence: str, namer: Namer, shape_form: float) -> Episode:
    rng = namer.rng
    shape = _shape(fields, namer, shape_form)
    form = rng.randrange(9)
    turns: list[Turn] = []
    if form == 0:
        turns = [Turn("system", f"Answer only with JSON. {shape}"), user(sentence)]
    elif form == 1:
        turns = [Turn("system", f"You extract data. {shape} Return nothing other than JSON."), user(sentence)]
    elif form == 2:
        text = f"{sentence}\n\n{shape}"
        turns = [user(text)]
    elif form == 3:
        turns = [user(f"{shape}\n\n{sentence}")]
    elif form == 4:
        turns = [user(f"{shape} Text: {sentence}")]
    elif form == 5:
        turns = [
            user(f'{shape}\nText: "{sentence}"' if '"' not in sentence else f"{shape}\nText: {sentence}")
        ]
    elif form == 6:
        turns = [user(f"{sentence} {shape}")]
    elif form == 7:
        turns = [user(f"Extract the data from this sentence. {shape}\nSentence: {sentence}")]
    else:
        turns = [user(f"Here is a text: {sentence}\n{shape} Answer only with JSON.")]
    return Episode([*turns, assistant(filled(fields), thought(fields))], task="json", toolless=True)


def _shape(fields: list[Field], namer: Namer, form: float) -> str:
    """The shape in words, or as a JSON schema."""
    rng = namer.rng
    if form < _AS_SCHEMA:
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {field.key: field.schema for field in fields},
            "required": [field.key for field in fields],
        }
        if rng.random() < 0.3:
            schema["additionalProperties"] = False
        if rng.random() < 0.3:
            schema = {"title": namer.word().capitalize(), **schema}
        text = json.dumps(schema, indent=2 if rng.random() < 0.15 else None)
        return rng.choice((
            f"Answer with a JSON object that matches this schema: {text}",
            f"Respond in JSON that follows this JSON schema:\n{text}\n",
            f"Return a JSON object for this schema: {text}.",
            f"Use this JSON schema:\n```json\n{text}\n```\n",
        ))  # fmt: skip
    quote = rng.choice(('"', "'", "`", ""))
    typed = form < _TYPED
    parts: list[str] = []
    mark = rng.choice((" ({})", ": {}", " as {}"))
    for field in fields:
        text = f"{quote}{field.key}{quote}"
        if typed:
            text += mark.format(_type_word(field.schema, namer))
        parts.append(text)
    listed = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    if rng.random() < 0.15 and typed:
        lines = "\n".join([f"- {part}" for part in parts])
        return f"Write a JSON object with these fields:\n{lines}\n"
    return rng.choice((
        f"Write a JSON object with the keys {listed}.",
        f"Return JSON with keys {listed}.",
        f"Return the result as a JSON with keys {listed}.",
        f"Make a JSON object with {listed}.",
        f"Give me JSON with the fields {listed}.",
        f"Extract {listed} as JSON.",
        f"Fill a JSON object that has {listed}.",
        f"I need a JSON object: {listed}.",
    ))  # fmt: skip


def _type_word(schema: dict[str, Any], namer: Namer) -> str:
    if "enum" in schema:
        return "one of " + "/".join(schema["enum"])
    kind = schema["type"]
    if kind == "array" and schema["items"]["type"] != "string":
        kind = "numbers"
    if kind == "object":
        return "object with " + " and ".join(schema["properties"])
    return namer.rng.choice(_TYPE_WORDS[kind])


def _sentence(fields: list[Field], namer: Namer) -> str:
    rng = namer.rng
    said = [field for field in fields if field.value]
    if rng.random() < 0.4:
        rng.shuffle(said)
    thing = f"{rng.choice(('the', 'a', 'our', 'this'))} {namer.pick(words.NOUNS)}"
    mark = rng.choice((" {}", " {}", ": {}", " is {}", " of {}", " = {}"))
    parts: list[str] = []
    for field in said:
        assert field.value
        key = spoken(field.key) if rng.random() < 0.85 else field.key
        parts.append(key + mark.format(field.value.said))
    spreading = any(field.value and field.value.spreads for field in said[:-1])
    link = "; " if spreading else ", "
    listed = (
        link.join(parts)
        if spreading or len(parts) == 1 or rng.random() < 0.3
        else ", ".join(parts[:-1]) + " and " + parts[-1]
    )
    if mark == " is {}":
        return rng.choice((f"For {thing} the {listed}.", f"The {listed}.", f"We know that the {listed}."))
    return rng.choice((
        f"{_capital(thing)} has {listed}.",
        f"{_capital(thing)} with {listed}.",
        f"There is {thing} with {listed}.",
        f"I saw {thing}: {listed}.",
        f"{_capital(listed)}.",
        f"Add {thing} with {listed}.",
    ))  # fmt: skip


# A person or a thing, told naturally: (key, what the sentence says, how the value is drawn).
_ABOUT = (
    ("age", "is {} years old"), ("city", "lives in {}"), ("job", "works as a {}"), ("hobby", "likes {}"),
    ("email", "has the email {}"), ("pet", "has a {}"), ("color", "likes the color {}"), ("height", "is {} cm tall"),
    ("company", "works at {}"), ("children", "has {} children"), ("food", "loves {}"), ("language", "speaks {}"),
)  # fmt: skip


def _about_a_person(namer: Namer) -> Episode:
    rng = namer.rng
    name = namer.person()
    chosen = rng.sample(_ABOUT, rng.randint(1, 4))
    fields = [Field("name", {"type": "string"}, Value(name, name))]
    told: list[str] = []
    for key, phrase in chosen:
        schema = {"type": "integer" if key in ("age", "height", "children") else "string"}
        data: Any = _personal(key, namer)
        fields.append(Field(key, schema, Value(data, str(data))))
        told.append(phrase.format(data))
    if rng.random() < 0.3:
        fields = [fields[0], *rng.sample(fields[1:], len(fields) - 1)]
    form = rng.randrange(3)
    if form == 0:
        sentence = (
            f"{name} {' and '.join(told)}."
            if len(told) < 3
            else f"{name} {', '.join(told[:-1])} and {told[-1]}."
        )
    elif form == 1:
        pronoun = rng.choice(("She", "He"))
        sentence = f"{name} {told[0]}. " + " ".join([f"{pronoun} {part}." for part in told[1:]])
    else:
        sentence = f"My friend {name} {', '.join(told)}."
    return _asked(fields, sentence.strip(), namer, rng.random())


def _personal(key: str, namer: Namer) -> Any:
    rng = namer.rng
    if key in ("age", "height", "children"):
        return {"age": rng.randint(1, 99), "height": rng.randint(120, 210), "children": rng.randint(2, 6)}[
            key
        ]
    options = {
        "job": words.JOBS,
        "hobby": words.HOBBIES,
        "pet": words.ANIMALS,
        "color": words.COLORS,
        "food": words.FOODS,
        "language": words.LANGUAGES,
    }
    if key == "city":
        place = namer.place()
        return place.split(",")[0]
    if key == "email":
        return namer.email()
    if key == "company":
        return namer.word().capitalize()
    return namer.pick(options[key])


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
