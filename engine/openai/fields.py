"""Typed, bounded reading of a request's fields. Strict: true is not 1, "1" is not 1, 1.0 is not a count.

Null equals absent. What is wrong raises InvalidRequest whose `param` is the field's JSON path. Fields that nobody read
are known afterwards, to be named to the caller.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from basemlx.engine.errors import InvalidRequest

MAX_IGNORED_NAMES = 32
MAX_SHOWN_CHARACTERS = 64
_HUGE = 2**64
_SHOWABLE = re.compile(r"[\w.\[\]-]{1,64}", re.ASCII)


def shown_names(names: Sequence[str]) -> tuple[str, ...]:
    """What a caller is told of fields that nobody knows: bounded, the same by every way."""
    shown = tuple(name[:MAX_SHOWN_CHARACTERS] for name in names[:MAX_IGNORED_NAMES])
    return (*shown, f"and {len(names) - MAX_IGNORED_NAMES} more") if len(names) > MAX_IGNORED_NAMES else shown


class Fields:
    """One object of the request. `path` is where it lies, "" for the body itself."""

    __slots__ = ("_ignored", "_lists", "_objects", "_path", "_read", "_values")

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        self._values = values
        self._path = path
        self._read: set[str] = set()
        self._objects: dict[str, Fields] = {}
        self._lists: dict[str, list[Fields]] = {}
        self._ignored: dict[str, None] = {}

    def path_of(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name

    def get(self, name: str) -> Any:
        """The value as it is, None if absent or null."""
        self._read.add(name)
        return self._values.get(name)

    def ignored(self) -> tuple[str, ...]:
        """Paths of fields that have a value and were never read, those in objects that were read as such included. Of
        the objects of a list together, without their numbers. Names unfit for a header are left out."""
        found: dict[str, None] = {}
        if not self._read.issuperset(self._values):
            for name, value in self._values.items():
                if name not in self._read and value is not None and _SHOWABLE.fullmatch(str(name)):
                    found[self.path_of(name)] = None
                    if len(found) == MAX_IGNORED_NAMES:
                        break
        for given in self._objects.values():
            if inside := given.ignored():
                found.update(dict.fromkeys(inside))
        for name, items in self._lists.items():
            path = self.path_of(name)
            for index, item in enumerate(items):
                if inside := item.ignored():
                    number = f"{path}[{index}]"
                    found.update(dict.fromkeys(path + each.removeprefix(number) for each in inside))
        return (*found, *self._ignored)

    def boolean(self, name: str, default: bool = False) -> bool:
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false", value)
        return value

    def integer(self, name: str, low: int = -_HUGE, high: int = _HUGE) -> int | None:
        value = self.get(name)
        if value is None:
            return None
        return checked_integer(value, self.path_of(name), low, high)

    def number(self, name: str, low: float = -math.inf, high: float = math.inf) -> float | None:
        value = self.get(name)
        if value is None:
            return None
        return checked_number(value, self.path_of(name), low, high)

    def string(self, name: str, *, max_characters: int, choices: Collection[str] = ()) -> str | None:
        value = self.get(name)
        if value is None:
            return None
        if type(value) is str and value.isascii() and len(value) <= max_characters and not choices:
            return value  # the common case, without its path: a request may have a hundred thousand
        text = checked_text(value, self.path_of(name))
        if len(text) > max_characters:
            raise InvalidRequest(
                f"{self.path_of(name)} must have at most {max_characters} characters, not {len(text)}.",
                param=self.path_of(name),
            )
        if choices and text not in choices:
            shown = ", ".join(choices)
            raise InvalidRequest(f"{self.path_of(name)} must be one of {shown}.", param=self.path_of(name))
        return text

    def array(self, name: str, max_items: int) -> list[Any] | None:
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, list | tuple):
            raise self._wrong(name, "a list", value)
        if len(value) > max_items:
            raise InvalidRequest(
                f"{self.path_of(name)} must have at most {max_items} items, not {len(value)}.",
                param=self.path_of(name),
            )
        return list(value)

    def objects(self, name: str, max_items: int) -> "list[Fields]":
        """A list of objects, none if it is absent; the same Fields each time."""
        if name not in self._lists:
            values, path = self.array(name, max_items) or [], self.path_of(name)
            self._lists[name] = [checked_object(value, f"{path}[{at}]") for at, value in enumerate(values)]
        return self._lists[name]

    def each_object(self, name: str, max_items: int) -> "Iterator[Fields]":
        """`objects` for long lists: one after the other, and each is done with when the next is asked for."""
        path = self.path_of(name)
        for at, value in enumerate(self.array(name, max_items) or ()):
            item = checked_object(value, f"{path}[{at}]")
            yield item
            if inside := item.ignored():
                number = f"{path}[{at}]"
                self._ignored.update(dict.fromkeys(path + each.removeprefix(number) for each in inside))

    def object(self, name: str) -> "Fields | None":
        """The same Fields each time, so that what one reader has read is known to the others."""
        value = self.mapping(name)
        if value is None:
            return None
        found = self._objects.get(name)
        if found is None:
            found = self._objects[name] = Fields(value, self.path_of(name))
        return found

    def mapping(self, name: str) -> Mapping[Any, Any] | None:
        """An object whose names are the caller's own; from Python they may be other than texts."""
        value = self.get(name)
        if value is None:
            return None
        if type(value) is not dict and not isinstance(value, Mapping):
            raise self._wrong(name, "an object", value)
        return value

    def _wrong(self, name: str, wanted: str, value: Any) -> InvalidRequest:
        return wrong_type(self.path_of(name), wanted, value)


def checked_integer(value: Any, path: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type(path, "a whole number", value)
    if not low <= value <= high:
        raise _out_of_range(path, value, low, high)
    return value


def checked_number(value: Any, path: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_type(path, "a number", value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidRequest(f"{path} must be a finite number.", param=path)
    if not low <= number <= high:
        raise _out_of_range(path, number, low, high)
    return number


def checked_text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise wrong_type(path, "a string", value)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidRequest(
                f"{path} holds a lone surrogate, which is not valid Unicode.", param=path
            ) from None
    return value


def checked_object(value: Any, path: str) -> Fields:
    if type(value) is not dict and not isinstance(value, Mapping):
        raise wrong_type(path, "an object", value)
    return Fields(value, path)


def wrong_type(path: str, wanted: str, value: Any) -> InvalidRequest:
    return InvalidRequest(f"{path} must be {wanted}, not {_kind(value)}.", param=path)


def _out_of_range(path: str, value: float, low: float, high: float) -> InvalidRequest:
    if high in (math.inf, _HUGE) or low in (-math.inf, -_HUGE):
        words = f"be at least {low}" if low > -_HUGE and value < low else "not be so large a number"
        return InvalidRequest(f"{path} must {words}.", param=path)
    return InvalidRequest(f"{path} must be between {low} and {high}.", param=path)


def _kind(value: Any) -> str:
    """What JSON calls it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number" if isinstance(value, int) else "a fraction"
    if isinstance(value, str):
        return "a string"
    return "a list" if isinstance(value, list | tuple) else "an object"
