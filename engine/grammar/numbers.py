"""Terminals for JSON numbers: bounds, integers, multiples and given values, as sets of decimal numerals.

Where a number is bounded at all its numerals are plain decimals (no exponent), and every set here holds either all
numerals of a value or none, so sets can be intersected and complemented. Arithmetic is exact: a schema's 0.1 is one
tenth, as JSON Schema has it, not the nearest double. Knows nothing of schemas.

A value may be written with zeros at the end of its fraction (1.50, 1.0 for an integer, -0): JSON Schema makes no
difference between numerals of one value.
"""

import math
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from fractions import Fraction

MAX_DIGITS = 400
"""Of a bound written out without exponent: 1e308 has 309."""
_MAX_LISTED = 500
_MAX_STEP = 1000
# What multiples of 1, 2 and 5 end with, and what the one-digit ones but zero are.
_LAST_DIGITS: dict[tuple[int, ...], tuple[str, str]] = {
    (1,): ("[0-9]", "[1-9]"),
    (2,): ("[02468]", "[2468]"),
    (5,): ("[05]", "5"),
}

_UNSIGNED = "(0|[1-9][0-9]*)"
ANY_NUMBER = r"/-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,4})?/"
PLAIN = rf"/-?{_UNSIGNED}(\.[0-9]+)?/"
ANY_INTEGER = rf"/-?{_UNSIGNED}(\.0+)?/"
# As written: one zero after the point at most, since more say nothing.
INTEGER = rf"/-?{_UNSIGNED}(\.0)?/"


class TooManyDigits(ValueError):
    """A bound or value whose numeral would be very long."""


def exact(value: int | float | Decimal) -> Decimal:
    """The number that a JSON numeral stood for; a float is read as its shortest decimal. Raises TooManyDigits."""
    try:
        number = value if isinstance(value, Decimal) else Decimal(repr(value))
    except InvalidOperation:
        raise TooManyDigits("not a finite number") from None
    if not number.is_finite():
        raise TooManyDigits("not a finite number")
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    if len(digits) + abs(exponent) > MAX_DIGITS:
        raise TooManyDigits(f"more than {MAX_DIGITS} digits")
    while len(digits) > 1 and digits[-1] == 0 and exponent < 0:  # 1.50 is 1.5
        digits, exponent = digits[:-1], exponent + 1
    return Decimal((sign, digits, exponent)) if any(digits) else Decimal(0)


@dataclass(frozen=True)
class NumberSet:
    """A conjunction. `integer`: None says nothing, False demands a fraction. Bounds are (value, whether it is allowed).
    `allowed`: None for all."""

    low: tuple[Decimal, bool] | None = None
    high: tuple[Decimal, bool] | None = None
    integer: bool | None = None
    multiples: frozenset[Decimal] = frozenset()
    no_multiples: frozenset[Decimal] = frozenset()
    allowed: frozenset[Decimal] | None = None
    excluded: frozenset[Decimal] = frozenset()

    def __and__(self, other: "NumberSet") -> "NumberSet | None":
        """None where nothing is left, as far as is seen at once."""
        if self.integer is not None and other.integer is not None and self.integer != other.integer:
            return None
        allowed = self.allowed
        if other.allowed is not None:
            allowed = other.allowed if allowed is None else allowed & other.allowed
        integer = self.integer if other.integer is None else other.integer
        multiples = self.multiples | other.multiples
        if integer:  # every integer is a multiple of 0.5
            multiples = frozenset(step for step in multiples if Fraction(step).numerator != 1)
        merged = NumberSet(
            low=_tighter(self.low, other.low, 1),
            high=_tighter(self.high, other.high, -1),
            integer=integer,
            multiples=multiples,
            no_multiples=self.no_multiples | other.no_multiples,
            allowed=allowed,
            excluded=self.excluded | other.excluded,
        )
        return merged._reduced()

    def _reduced(self) -> "NumberSet | None":
        if self.allowed is not None:
            left = frozenset(value for value in self.allowed if value in self)
            return NumberSet(allowed=left) if left else None
        if self.low is not None and self.high is not None:
            if self.low[0] > self.high[0]:
                return None
            if self.low[0] == self.high[0] and not (self.low[1] and self.high[1]):
                return None
        return self

    def __contains__(self, value: Decimal) -> bool:
        if self.low is not None and (value < self.low[0] or (value == self.low[0] and not self.low[1])):
            return False
        if self.high is not None and (value > self.high[0] or (value == self.high[0] and not self.high[1])):
            return False
        if self.integer is not None and (value == value.to_integral_value()) != self.integer:
            return False
        if any(not _divides(step, value) for step in self.multiples):
            return False
        if any(_divides(step, value) for step in self.no_multiples):
            return False
        return value not in self.excluded and (self.allowed is None or value in self.allowed)

    def listed(self) -> "NumberSet":
        """A bounded set of integers or multiples, if small, as its values."""
        step = self._step()
        if self.allowed is not None or self.low is None or self.high is None or step is None:
            return self
        first = -(-Fraction(self.low[0]) // step)
        last = Fraction(self.high[0]) // step
        if not 0 <= last - first < _MAX_LISTED:
            return replace(self, allowed=frozenset()) if last < first else self
        values = [_decimal(step * k) for k in range(int(first), int(last) + 1)]
        return NumberSet(allowed=frozenset(value for value in values if value in self))

    def _step(self) -> Fraction | None:
        """What all members are multiples of."""
        steps = [Fraction(step) for step in self.multiples]
        if self.integer:
            steps.append(Fraction(1))
        if not steps:
            return None
        result = steps[0]
        for step in steps[1:]:
            result = _common_multiple(result, step)
        return result

    def terminal(self) -> str | None:
        """A Lark terminal, or None where there is none (`json_schema` may help). Empty sets are "": never written."""
        if self == NumberSet():
            return ANY_NUMBER
        if self == NumberSet(integer=True):
            return INTEGER
        if self.allowed is not None:
            return _values(self.allowed, "") if self.allowed else ""
        parts = [PLAIN]
        if self.integer is not None:
            parts = [INTEGER] if self.integer else [PLAIN, f"~({ANY_INTEGER})"]
        step = self._step() if self.multiples else None
        if step is not None:
            simple = _multiples(_decimal_or_none(step))
            if simple is None:
                return None
            parts.append(simple)
        for other in self.no_multiples:
            simple = _multiples(other)
            if simple is None:
                return None
            parts.append(f"~({simple})")
        if self.low is not None:
            parts.append(_above(*self.low))
        if self.high is not None:
            value, included = self.high
            parts.append(f"~({_above(value, not included)})")
        if self.excluded:
            parts.append(f"~({_values(self.excluded)})")
        return "(" + " & ".join(parts) + ")" if len(parts) > 1 else parts[0]

    def json_schema(self) -> dict[str, object] | None:
        """For llguidance's own number grammar, which knows multiples that have no short expression; None if neither."""
        step = self._step()
        if step is None or self.no_multiples or self.excluded or self.integer is False:
            return None
        exact_step = _decimal_or_none(step)
        # Its automaton has a state a remainder, and is built in one go.
        if exact_step is None or int("".join(map(str, exact_step.normalize().as_tuple().digits))) > _MAX_STEP:
            return None
        schema: dict[str, object] = {"type": "integer" if step.denominator == 1 else "number"}
        schema["multipleOf"] = _json_number(exact_step)
        if self.low is not None:
            schema["minimum" if self.low[1] else "exclusiveMinimum"] = _json_number(self.low[0])
        if self.high is not None:
            schema["maximum" if self.high[1] else "exclusiveMaximum"] = _json_number(self.high[0])
        return schema


def _tighter(
    a: tuple[Decimal, bool] | None, b: tuple[Decimal, bool] | None, sign: int
) -> tuple[Decimal, bool] | None:
    if a is None or b is None:
        return a or b
    if a[0] == b[0]:
        return a[0], a[1] and b[1]
    return a if (a[0] > b[0]) == (sign > 0) else b


def _divides(step: Decimal, value: Decimal) -> bool:
    return (Fraction(value) / Fraction(step)).denominator == 1


def _common_multiple(a: Fraction, b: Fraction) -> Fraction:
    return Fraction(math.lcm(a.numerator, b.numerator), math.gcd(a.denominator, b.denominator))


def _decimal(value: Fraction) -> Decimal:
    found = _decimal_or_none(value)
    assert found is not None
    return found


def _decimal_or_none(value: Fraction) -> Decimal | None:
    """Exact, or None (never for a multiple of a decimal)."""
    exponent, denominator = 0, value.denominator
    while denominator != 1:
        if exponent > MAX_DIGITS:
            return None
        value, exponent = value * 10, exponent + 1
        denominator = value.denominator
    sign = 1 if value < 0 else 0
    digits = tuple(int(digit) for digit in str(abs(value.numerator)))
    return Decimal((sign, digits, -exponent))


def _json_number(value: Decimal) -> int | float:
    return int(value) if value == value.to_integral_value() else float(value)


def _numeral(value: Decimal) -> tuple[str, str]:
    """Integer digits and fraction digits of a magnitude."""
    whole, _, fraction = format(abs(value), "f").partition(".")
    return whole, fraction.rstrip("0")


def _values(values: frozenset[Decimal], zeros: str = "+") -> str:
    """Every numeral of the given values; with `zeros` "", those that a program might write."""
    options = []
    for value in sorted(values):
        whole, fraction = _numeral(value)
        if value == 0:
            options.append(rf"-?0(\.0{zeros})?")
            continue
        tail = (rf"\.{fraction}" + ("0*" if zeros else "")) if fraction else rf"(\.0{zeros})?"
        options.append(("-" if value < 0 else "") + whole + tail)
    return f"/({'|'.join(options)})/"


def _above(bound: Decimal, included: bool) -> str:
    """Numerals of values above `bound` (or equal to it, if `included`)."""
    if bound >= 0:
        above = _magnitude_above(bound, included)
        if bound == 0 and included:
            return rf"(/{above}/ | /-0(\.0+)?/)"
        return f"/{above}/"
    # Above a negative bound: all that have no sign, zero, and negative ones of smaller magnitude.
    smaller = _magnitude_above(-bound, not included)
    return rf'(/{_UNSIGNED}(\.[0-9]+)?/ | ("-" (/{_UNSIGNED}(\.[0-9]+)?/ & ~(/{smaller}/))))'


def _magnitude_above(bound: Decimal, included: bool) -> str:
    """Unsigned numerals of values above `bound` >= 0. Without leading zeros, more digits are a greater number; among
    equally many the first digit that differs decides, and fractions compare digit by digit."""
    whole, fraction = _numeral(bound)
    any_fraction = r"(\.[0-9]+)?"
    options = [f"[1-9][0-9]{{{len(whole)},}}{any_fraction}"]
    for at, digit in enumerate(whole):
        if digit != "9":
            rest = len(whole) - at - 1
            low = max(int(digit) + 1, 1)
            options.append(f"{whole[:at]}[{low}-9][0-9]{{{rest}}}{any_fraction}")
    for at, digit in enumerate(fraction):
        if digit != "9":
            options.append(rf"{whole}\.{fraction[:at]}[{int(digit) + 1}-9][0-9]*")
    options.append(rf"{whole}\.{fraction}0*[1-9][0-9]*")
    if included:
        options.append(rf"{whole}\.{fraction}0*" if fraction else rf"{whole}(\.0+)?")
    return f"({'|'.join(options)})"


def _multiples(step: Decimal | None) -> str | None:
    """Numerals of the multiples of 1, 2 or 5 times a power of ten; None for another step."""
    if step is None or step <= 0:
        return None
    _, digits, exponent = step.normalize().as_tuple()
    assert isinstance(exponent, int)
    if digits not in _LAST_DIGITS:
        return None
    end, nonzero_end = _LAST_DIGITS[digits]
    if exponent >= 0:
        zeros = f"0{{{exponent}}}" if exponent else ""
        return rf"/-?(0|([1-9][0-9]*{end}|{nonzero_end}){zeros})(\.0+)?/"
    places = -exponent
    fewer = rf"(\.[0-9]{{1,{places - 1}}})?" if places > 1 else ""
    return rf"/-?{_UNSIGNED}({fewer}|\.[0-9]{{{places - 1}}}{end}0*)/"
