"""Keywords of objects."""

from basemlx.engine.grammar.cases import TOP, Case, Goal, KeySet, ObjectCase
from basemlx.engine.grammar.document import Place
from basemlx.engine.grammar.expand import Expander, Handler, string_language
from basemlx.engine.grammar.keywords.scalars import pattern_language
from basemlx.engine.grammar.keywords.values import count_of, value_handlers
from basemlx.engine.grammar.languages import EVERYTHING, Language, negation


def _schemas(expander: Expander, place: Place, keyword: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict) or any(not isinstance(child, dict | bool) for child in value.values()):
        raise expander.malformed(keyword, place, "is an object of schemas")
    return value


def _names(expander: Expander, place: Place, keyword: str, value: object) -> list[str]:
    if not isinstance(value, list) or any(not isinstance(name, str) for name in value):
        raise expander.malformed(keyword, place, "is a list of property names")
    return list(dict.fromkeys(value))


def _properties(expander: Expander, place: Place, value: object, holds: bool) -> list[Case]:
    names = list(_schemas(expander, place, "properties", value))
    goals: dict[str, Goal] = {
        name: ((expander.document.child(place, "properties", name), holds),) for name in names
    }
    if holds:
        return [
            ObjectCase(
                properties=tuple(goals.items()),
                sources=frozenset({place.pointer}) if names else frozenset(),
                evaluated=(frozenset(names), ()),
            )
        ]
    return [
        ObjectCase(properties=((name, goal),), sources=frozenset({place.pointer}), required=(name,))
        for name, goal in goals.items()
        if value[name] is not True and value[name] != {}  # type: ignore[index]
    ]


def _required(expander: Expander, place: Place, value: object, holds: bool) -> list[Case]:
    names = _names(expander, place, "required", value)
    if holds:
        return [ObjectCase(required=tuple(names))]
    return [ObjectCase(forbidden=frozenset({name})) for name in names]


def _pattern_properties(expander: Expander, place: Place, value: object, holds: bool) -> list[Case]:
    rules: list[tuple[KeySet, Goal]] = []
    languages: list[Language] = []
    for pattern in _schemas(expander, place, "patternProperties", value):
        language = pattern_language(expander, place, "patternProperties", pattern)
        if language is None:
            if not holds:
                return [TOP["object"]]
            continue
        languages.append(language)
        goal: Goal = ((expander.document.child(place, "patternProperties", pattern), holds),)
        rules.append((KeySet(patterns=(language,)), goal))
    if holds:
        return [ObjectCase(rules=tuple(rules), evaluated=(frozenset(), tuple(languages)))]
    return [ObjectCase(some=(rule,), some_pointer=f"{place.pointer}/patternProperties") for rule in rules]


def _additional_properties(expander: Expander, place: Place, value: object, holds: bool) -> list[Case]:
    assert isinstance(place.schema, dict)
    if not isinstance(value, dict | bool):
        raise expander.malformed("additionalProperties", place, "is a schema")
    languages = []
    for pattern in place.schema.get("patternProperties", {}):
        language = pattern_language(expander, place, "patternProperties", pattern)
        if language is None:
            return [ObjectCase(evaluated=None)] if holds else [TOP["object"]]
        languages.append(language)
    names = frozenset(place.schema.get("properties", {}))
    goal: Goal = ((expander.document.child(place, "additionalProperties"), holds),)
    keys = KeySet(names, tuple(languages), others=True)
    if holds:
        rules = () if value is True or value == {} else ((keys, goal),)
        return [ObjectCase(rules=rules, evaluated=None)]
    if value is True or value == {}:
        return []
    return [ObjectCase(some=((keys, goal),), some_pointer=f"{place.pointer}/additionalProperties")]


def _property_names(expander: Expander, place: Place, value: object, holds: bool) -> list[Case]:
    if not isinstance(value, dict | bool):
        raise expander.malformed("propertyNames", place, "is a schema")
    language = string_language(
        expander.cases(expander.document.child(place, "propertyNames"), True, "string")
    )
    if holds:
        return [ObjectCase(names=language)]
    if language == EVERYTHING:
        return []
    # A gap inside makes `language` too wide, and its complement too narrow; the gap itself was noted.
    keys = KeySet(patterns=(negation(language),))
    return [ObjectCase(some=((keys, ()),), some_pointer=f"{place.pointer}/propertyNames")]


def _min_properties(expander: Expander, place: Place, value: object, holds: bool) -> list[Case]:
    count = count_of(expander, place, "minProperties", value)
    if holds:
        return [ObjectCase(low=count, low_pointer=f"{place.pointer}/minProperties")]
    return [ObjectCase(high=count - 1)] if count else []


def _max_properties(expander: Expander, place: Place, value: object, holds: bool) -> list[Case]:
    count = count_of(expander, place, "maxProperties", value)
    if holds:
        return [ObjectCase(high=count)]
    return [ObjectCase(low=count + 1, low_pointer=f"{place.pointer}/maxProperties")]


def _depend_on_names(
    expander: Expander, place: Place, keyword: str, name: str, needed: list[str], holds: bool
) -> list[Case]:
    if holds:
        return [ObjectCase(forbidden=frozenset({name})), ObjectCase(required=(name, *needed))]
    return [ObjectCase(required=(name,), forbidden=frozenset({other})) for other in needed if other != name]


def _depend_on_schema(expander: Expander, place: Place, keyword: str, name: str, holds: bool) -> list[Case]:
    cases = expander.cases(expander.document.child(place, keyword, name), holds, "object")
    present: list[Case] = expander.product([ObjectCase(required=(name,))], cases)
    return [ObjectCase(forbidden=frozenset({name})), *present] if holds else present


def _dependencies(keyword: str) -> Handler:
    def handler(expander: Expander, place: Place, value: object, holds: bool) -> list[Case]:
        if not isinstance(value, dict):
            raise expander.malformed(keyword, place, "is an object")
        found: list[Case] = [TOP["object"]] if holds else []
        for name, child in value.items():
            if isinstance(child, list) and keyword != "dependentSchemas":
                needed = _names(expander, place, keyword, child)
                part = _depend_on_names(expander, place, keyword, name, needed, holds)
            elif isinstance(child, dict | bool) and keyword != "dependentRequired":
                part = _depend_on_schema(expander, place, keyword, name, holds)
            else:
                raise expander.malformed(keyword, place, "has an entry of the wrong kind")
            found = expander.product(found, part) if holds else expander.union(found, part)
        return found

    return handler


OBJECT: dict[str, Handler] = value_handlers("object") | {
    "properties": _properties,
    "required": _required,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "propertyNames": _property_names,
    "minProperties": _min_properties,
    "maxProperties": _max_properties,
    "dependentRequired": _dependencies("dependentRequired"),
    "dependentSchemas": _dependencies("dependentSchemas"),
    "dependencies": _dependencies("dependencies"),
}
