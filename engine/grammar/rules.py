"""A context-free grammar in the making: rules over terminals, what can never be completed removed, written as Lark.

What a rule cannot complete must not be offered: a model that has begun a property whose value nothing satisfies would
be stuck. So rules that derive no finite text are cut out, terminals without any text first of all. Knows nothing of
JSON.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from basemlx.engine.grammar.recogniser import TooCostly, terminal_is_empty


@dataclass(frozen=True, slots=True)
class Terminal:
    """A Lark terminal expression. `sure`: known not to be empty."""

    text: str
    sure: bool = True


@dataclass(frozen=True, slots=True)
class Rule:
    """`argument`: for a rule with a parameter (RuleSet.parametric), what it is called with."""

    name: str
    argument: str = ""


@dataclass(frozen=True, slots=True)
class When:
    """At the end of a production of a rule with a parameter: the condition under which it applies."""

    condition: str


@dataclass(frozen=True, slots=True)
class Raw:
    """Anything else that Lark allows in a rule and that is never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Times:
    """A group of symbols, `low` to `high` times (None: any number)."""

    symbols: tuple["Symbol", ...]
    low: int
    high: int | None


Symbol = Terminal | Rule | Raw | Times | When
Production = tuple[Symbol, ...]


@dataclass
class RuleSet:
    """Rules by name; `start` is where texts begin."""

    start: str
    productions: dict[str, list[Production]] = field(default_factory=dict)
    parametric: set[str] = field(default_factory=set)

    def pruned(self) -> "RuleSet | None":
        """Without what derives nothing, and without what is not reached. None if no text is left at all."""
        productive = self._productive()
        if self.start not in productive:
            return None
        kept: dict[str, list[Production]] = {}
        waiting = [self.start]
        while waiting:
            name = waiting.pop()
            if name in kept:
                continue
            kept[name] = list(
                dict.fromkeys(
                    done
                    for production in self.productions[name]
                    if (done := _kept(production, productive)) is not None
                )
            )
            waiting.extend(rule for production in kept[name] for rule in _rules_in(production))
        ordered = {name: kept[name] for name in self.productions if name in kept}
        return RuleSet(self.start, ordered, self.parametric)

    def _productive(self) -> set[str]:
        users: dict[str, set[str]] = {}
        for name, productions in self.productions.items():
            for production in productions:
                for used in _rules_in(production):
                    users.setdefault(used, set()).add(name)
        productive: set[str] = set()
        waiting = list(self.productions)
        while waiting:
            name = waiting.pop()
            if name in productive:
                continue
            if any(_completes(production, productive) for production in self.productions[name]):
                productive.add(name)
                waiting.extend(users.get(name, ()))
        return productive

    def lark(self, prefix: str = "") -> str:
        """The grammar as text. Every name begins with `prefix` (rules in lower case, terminals in upper), so that
        several grammars can stand in one text; without a prefix the start rule is called `start`."""
        terminals: dict[str, str] = {}
        names = {
            name: f"{prefix.lower()}r{at}" if prefix or name != self.start else "start"
            for at, name in enumerate(self.productions)
        }
        lines: list[str] = []

        def write(symbol: Symbol) -> str:
            match symbol:
                case Terminal(text=text):
                    if text not in terminals:
                        terminals[text] = f"{prefix.upper()}T{len(terminals)}"
                    return terminals[text]
                case Rule(name=name, argument=argument):
                    return names[name] + (f"::{argument}" if argument else "")
                case When(condition=condition):
                    return f"%if {condition}"
                case Raw(text=text):
                    return text
                case Times(symbols=symbols, low=low, high=high):
                    inside = " ".join(write(part) for part in symbols)
                    return f"({inside}){_times(low, high)}"

        for name, productions in self.productions.items():
            sides = [
                ("" if production and not isinstance(production[0], When) else '"" ')
                + " ".join(write(symbol) for symbol in production)
                for production in productions
            ]
            parameter = "::_ " if name in self.parametric else ""
            lines.append(f"{names[name]}{parameter}: " + "\n  | ".join(sides))
        lines += [f"{name}: {text}" for text, name in terminals.items()]
        return "\n".join(lines) + "\n"


def _times(low: int, high: int | None) -> str:
    if (low, high) == (0, None):
        return "*"
    return f"{{{low},{'' if high is None else high}}}"


def _rules_in(symbols: Iterable[Symbol]) -> Iterable[str]:
    for symbol in symbols:
        if isinstance(symbol, Rule):
            yield symbol.name
        elif isinstance(symbol, Times):
            yield from _rules_in(symbol.symbols)


def _completes(symbols: Iterable[Symbol], productive: set[str]) -> bool:
    return all(_symbol_completes(symbol, productive) for symbol in symbols)


def _symbol_completes(symbol: Symbol, productive: set[str]) -> bool:
    match symbol:
        case Terminal(text=text, sure=sure):
            if sure:
                return True
            try:
                return not terminal_is_empty(text)
            except TooCostly:
                return True
        case Rule(name=name):
            return name in productive
        case Times(symbols=symbols, low=low):
            return low == 0 or _completes(symbols, productive)
    return True


def _kept(production: Production, productive: set[str]) -> Production | None:
    """The production with repetitions of what cannot be completed left out; None if it cannot be completed itself."""
    kept: list[Symbol] = []
    for symbol in production:
        if isinstance(symbol, Times):
            if symbol.high == 0:
                continue
            inside = _kept(symbol.symbols, productive)
            if inside is None:
                if symbol.low:
                    return None
                continue
            kept.append(Times(inside, symbol.low, symbol.high))
        elif _symbol_completes(symbol, productive):
            kept.append(symbol)
        else:
            return None
    return tuple(kept)
