"""A structure as a grammar of llguidance's Lark dialect. There a control token is matched by its id, by nothing else.

llguidance cuts text into lexemes first, greedily. So text is one lexeme together with the letters that end it, and is
closed by a control token where its end has one.
"""

import json
from collections.abc import Callable, Mapping

from basemlx.engine.errors import UnsupportedSchema
from basemlx.engine.grammar.search import without
from basemlx.engine.grammar.structure import Const, Json, Node, Or, Regex, Repeat, Separated, Seq, Text, Until
from basemlx.engine.grammar.structure_xgrammar import controls_pattern

JsonRules = Callable[[Json, str], tuple[str, str]]

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_ ,:;<>=!@%'`~&")
_ANY = "/(?s:.*)/"
_WHITESPACE = "[ \\n\\r\\t]{0,2}"


def schema_rules(node: Json, prefix: str) -> tuple[str, str]:
    """The value as llguidance's own schema compiler takes it: the name of its rule, and the rules."""
    options = {"x-guidance": {"whitespace_pattern": _WHITESPACE}}
    return f"{prefix}value", f"{prefix}value: %json {json.dumps({**node.schema, **options})}\n"


def lark(node: Node, controls: Mapping[str, int], json_rules: JsonRules = schema_rules) -> str:
    """The grammar's text. `controls`: ids of the vocabulary's control tokens by their texts.

    `json_rules` gives the start rule of a JSON value and its rules, all of whose names begin with the prefix it is told
    (in upper case for terminals). Raises UnsupportedSchema for a bound on text that no control token ends.
    """
    writer = _Writer(controls, json_rules)
    start = writer.write(node)
    return "".join([f"start: {start}\n", *writer.rules])


class _Writer:
    def __init__(self, controls: Mapping[str, int], json_rules: JsonRules) -> None:
        self.rules: list[str] = []
        self._controls = controls
        self._pattern = controls_pattern(frozenset(controls))
        self._json_rules = json_rules
        self._terminals: dict[str, str] = {}
        self._num_values = 0

    def write(self, node: Node) -> str:
        match node:
            case Const(text=text):
                return self._const(text)
            case Json():
                self._num_values += 1
                start, rules = self._json_rules(node, f"j{self._num_values}x")
                self.rules.append(rules)
                return start
            case Text(excluding=excluding, not_starting=not_starting):
                return self._terminal(_free(excluding, not_starting, to_its_end=True))
            case Until():
                return self._until(node)
            case Regex(pattern=pattern):
                return self._terminal(f"/{pattern.replace('/', chr(92) + '/')}/")
            case Seq(parts=parts):
                return " ".join(self.write(part) for part in parts) or '""'
            case Or(options=options):
                return f"({' | '.join(self.write(option) for option in options)})"
            case Repeat(part=part, low=low, high=high, separator=separator):
                written = f"({self.write(part)})"
                if separator is None or high == 1:
                    return written + _times(low, high)
                written = self._rule(written)
                more = f"({self.write(separator)} {written})"
                several = f"{written} {more}{_times(max(low - 1, 0), None if high is None else high - 1)}"
                return several if low else f"({several})?"

            case Separated():
                return self._separated(node)

    def _separated(self, node: Separated) -> str:
        """A rule for what may follow once something came before, and one for what may come where nothing did, for each
        part: as large as the parts are, however many of them are optional."""
        separator = self._const(node.separator)
        first, after = "", ""
        for part, required in reversed(node.parts):
            here = self._rule(self.write(part))
            begun = f"{here} {after}"
            first = self._rule(begun if required else f"{begun} | {first}" if first else f"({begun})?")
            after = self._rule(f"({separator} {here}){'' if required else '?'} {after}")
        return first or '""'

    def _rule(self, written: str) -> str:
        """The name of a rule of its own, for what is needed in several places."""
        name = f"part{len(self.rules)}"
        self.rules.append(f"{name}: {written}\n")
        return name

    def _const(self, text: str) -> str:
        return " ".join(
            f"<[{self._controls[piece]}]>" if is_token else _quoted(piece)
            for piece, is_token in self._split(text)
        )

    def _until(self, node: Until) -> str:
        pieces = self._split(node.end)
        at = next((index for index, (_, is_token) in enumerate(pieces) if is_token), None)
        text = _free(node.excluded, to_its_end=at == 0)
        if at is None:
            if node.max_tokens is not None:
                raise UnsupportedSchema("Reasoning cannot be bounded: no token of this model ends it.")
            return self._terminal(f"{text} {_quoted(node.end)}")
        lead, rest = (pieces[0][0], node.end[len(pieces[0][0]) :]) if at else ("", node.end)
        name = self._terminal(f"{text} {_quoted(lead)}" if lead else text)
        if node.max_tokens is not None:
            rule = f"bounded{len(self.rules)}"
            self.rules.append(f"{rule}[max_tokens={node.max_tokens}]: {name}\n")
            name = rule
        return f"{name} {self._const(rest)}"

    def _split(self, text: str) -> list[tuple[str, bool]]:
        """The text's pieces, and which of them are control tokens."""
        pieces, at = [], 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            pieces += [(text[at : match.start()], False), (match[0], True)]
            at = match.end()
        pieces.append((text[at:], False))
        return [piece for piece in pieces if piece[0]]

    def _terminal(self, expression: str) -> str:
        if expression not in self._terminals:
            self._terminals[expression] = name = f"TEXT{len(self._terminals)}"
            self.rules.append(f"{name}: {expression}\n")
        return self._terminals[expression]


def _free(excluding: tuple[str, ...], not_starting: str = "", *, to_its_end: bool) -> str:
    """Any text that does not hold these."""
    plain = without(excluding, to_its_end=to_its_end)
    if plain is not None:
        conditions = [f"/{plain}/"]
    else:
        conditions = [_ANY, *(f"~/(?s:.*){_literal(text)}(?s:.*)/" for text in excluding)]
    if not_starting:
        conditions.append(f"~/[{''.join(map(_literal, not_starting))}](?s:.*)/")
    return f"({' & '.join(conditions)})" if len(conditions) > 1 else conditions[0]


def _literal(text: str) -> str:
    """A regular expression that matches exactly `text`."""
    return "".join(char if char in _PLAIN else f"\\x{{{ord(char):X}}}" for char in text)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _times(low: int, high: int | None) -> str:
    if (low, high) == (1, 1):
        return ""
    if high == 1:
        return "?"
    if high is None and low < 2:
        return "+" if low else "*"
    return f"{{{low},{'' if high is None else high}}}"
