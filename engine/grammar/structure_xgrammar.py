"""A structure as xgrammar's structural tag, over a vocabulary in which control tokens have private texts.

xgrammar matches bytes, and a control token's own bytes are letters like any other. So in the vocabulary that it is
given, a control token stands for U+0001, its name, U+0002: JSON strings refuse that, free text excludes it, no other
token may hold U+0001. Its `token` format would say the same, but its compile cache takes one token for another (0.2.8).
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from basemlx.engine.grammar.structure import Const, Json, Node, Or, Regex, Repeat, Separated, Seq, Text, Until

Format = dict[str, Any]
JsonFormat = Callable[[Json], Format]

BEGIN, END = "\x01", "\x02"
MAX_WHITESPACE = 2
"""Characters between two parts of a JSON value; without a bound some models never stop."""


def vocabulary_with_controls(tokens: Iterable[bytes], controls: Mapping[str, int]) -> list[bytes]:
    """The texts of all tokens as TokenizerInfo (RAW) has to be told them. Tokens that nothing may match have none."""
    names = {token_id: name for name, token_id in controls.items()}
    begin = BEGIN.encode()
    return [
        private_text(names[token_id]).encode() if token_id in names else b"" if begin in token else token
        for token_id, token in enumerate(tokens)
    ]


def private_text(name: str) -> str:
    """What a control token is called in the vocabulary."""
    return f"{BEGIN}{name}{END}"


def schema_format(node: Json) -> Format:
    """The value as xgrammar's own schema compiler takes it, whatever it makes of it."""
    return {"type": "json_schema", "json_schema": dict(node.schema), "max_whitespace_cnt": MAX_WHITESPACE}


def structural_tag(
    node: Node, controls: Collection[str], json_format: JsonFormat = schema_format
) -> dict[str, Any]:
    """For GrammarCompiler.compile_structural_tag. `controls`: the texts of the vocabulary's control tokens.

    `json_format` gives the format of a JSON value, which decides how faithful it is to its schema.
    """
    return {"type": "structural_tag", "format": _Writer(controls, json_format).write(node)}


class _Writer:
    def __init__(self, controls: Collection[str], json_format: JsonFormat) -> None:
        self._controls = controls_pattern(frozenset(controls))
        self._json_format = json_format

    def write(self, node: Node) -> Format:
        match node:
            case Const(text=text):
                return self._const(text)
            case Json():
                return self._json_format(node)
            case Text(excluding=excluding, not_starting=not_starting):
                text_format = _any_text(excluding)
                if not not_starting:
                    return text_format
                first = {"type": "regex", "pattern": f"[^{_class_escaped(not_starting + BEGIN)}]"}
                return {"type": "optional", "content": _sequence([first, text_format])}
            case Until(end=end, max_tokens=max_tokens):
                text_format = _any_text(node.excluded)
                if max_tokens is not None:
                    text_format["max_tokens"] = max_tokens
                return _sequence([text_format, self._const(end)])
            case Regex(pattern=pattern):
                return {"type": "regex", "pattern": pattern}
            case Seq(parts=parts):
                return _sequence([self.write(part) for part in parts])
            case Or(options=options):
                return {"type": "or", "elements": [self.write(option) for option in options]}
            case Repeat():
                return self._repeat(node)
            case Separated():
                return self._separated(node)

    def _const(self, text: str) -> Format:
        value = self._controls.sub(lambda match: private_text(match[0]), text) if self._controls else text
        return {"type": "const_string", "value": value}

    def _separated(self, node: Separated) -> Format:
        """A tag has no names, so a part stands in it as often as there are optional ones before it."""
        separator = self._const(node.separator)
        first, after = _sequence([]), _sequence([])
        for part, required in reversed(node.parts):
            written = self.write(part)
            here = _sequence([written, after])
            first = here if required else {"type": "or", "elements": [here, first]}
            this = _sequence([separator, written])
            after = _sequence([this if required else {"type": "optional", "content": this}, after])
        return first

    def _repeat(self, node: Repeat) -> Format:
        part = self.write(node.part)
        if node.separator is None or node.high == 1:
            return _times(part, node.low, node.high)
        more = _sequence([self.write(node.separator), part])
        least = max(node.low - 1, 0)
        several = _sequence([part, _times(more, least, None if node.high is None else node.high - 1)])
        return several if node.low else {"type": "optional", "content": several}


@lru_cache(maxsize=64)
def controls_pattern(controls: frozenset[str]) -> re.Pattern[str] | None:
    """Finds control tokens in a text as a tokenizer would: the leftmost, of these the longest."""
    names: Sequence[str] = sorted((name for name in controls if name), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names))) if names else None


def _any_text(excluding: Sequence[str]) -> Format:
    return {"type": "any_text", "excludes": [BEGIN, *excluding]}


def _sequence(elements: Sequence[Format]) -> Format:
    if not elements:
        return {"type": "const_string", "value": ""}
    return elements[0] if len(elements) == 1 else {"type": "sequence", "elements": list(elements)}


def _times(part: Format, low: int, high: int | None) -> Format:
    if (low, high) == (1, 1):
        return part
    if (low, high) == (0, 1):
        return {"type": "optional", "content": part}
    if high is None and low < 2:
        return {"type": "plus" if low else "star", "content": part}
    return {"type": "repeat", "min": low, "max": -1 if high is None else high, "content": part}


def _class_escaped(characters: str) -> str:
    """The inside of a character class."""
    return "".join(
        f"\\x{ord(char):02x}" if char < " " else f"\\{char}" if char in "\\]^-[" else char
        for char in characters
    )
