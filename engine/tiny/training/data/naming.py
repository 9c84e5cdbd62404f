"""Made-up names, numbers and identifiers, in two worlds that never meet.

Every made-up word falls by its CRC-32 into one of `BUCKETS` buckets; words of bucket `RESERVED` are what evaluation
draws from, and training never makes one. Numbers of four or more digits follow the same rule by their digits. So a
name in the evaluation is unseen by construction, not by luck. Common words (words.py) are training's only.
Deterministic for a given `random.Random`. Knows nothing of tools or conversations.
"""

import zlib
from collections.abc import Sequence
from random import Random

from basemlx.engine.tiny.training.data import words

BUCKETS = 8
RESERVED = 3

_SIMPLE_ONSETS = ["b", "c", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z"]
_ONSETS = [
    "bl",
    "br",
    "ch",
    "cl",
    "cr",
    "dr",
    "fl",
    "fr",
    "gl",
    "gr",
    "kl",
    "kr",
    "ph",
    "pl",
    "pr",
    "qu",
    "sc",
    "sh",
    "sk",
    "sl",
    "sm",
    "sn",
    "sp",
    "st",
    "str",
    "sw",
    "th",
    "tr",
    "tw",
    "vr",
    "y",
    "x",
]
_SIMPLE_VOWELS = ["a", "e", "i", "o", "u"]
_VOWELS = ["ai", "au", "ea", "ee", "ia", "ie", "io", "oa", "oo", "ou", "y"]
_CODAS = [
    "b",
    "d",
    "f",
    "g",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "x",
    "z",
    "l",
    "m",
    "n",
    "r",
    "s",
    "t",
    "ck",
    "ct",
    "ft",
    "ld",
    "lk",
    "ll",
    "lt",
    "mp",
    "nd",
    "ng",
    "nk",
    "nt",
    "rd",
    "rk",
    "rm",
    "rn",
    "rt",
    "ss",
    "st",
    "th",
]
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_DIGITS = "0123456789"
_HEX = "0123456789abcdef"
# Scripts beyond ASCII: (first code point, how many), each a run of plain letters.
_SCRIPTS = (
    (0x4E00, 2000),
    (0x3042, 60),
    (0x30A2, 60),
    (0x0410, 64),
    (0x03B1, 24),
    (0xAC00, 3000),
    (0x0627, 28),
    (0x0905, 50),
)
_ACCENTED = "äöüéèáàñçøåęłšžőûîôß"
_EMOJI = (0x1F600, 60)


def is_reserved(text: str) -> bool:
    return zlib.crc32(text.lower().encode()) % BUCKETS == RESERVED


class Namer:
    """Draws names and numbers. `unseen`: only from the reserved world, and no common words."""

    def __init__(self, rng: Random, unseen: bool = False, common_share: float = 0.45) -> None:
        self.rng = rng
        self.unseen = unseen
        self.common_share = 0.0 if unseen else common_share

    def common(self) -> bool:
        """Whether the next name should be a common word: never where names must be unseen."""
        return self.rng.random() < self.common_share

    def pick(self, options: Sequence[str]) -> str:
        """One of the common words, or a made-up one in its place."""
        return self.rng.choice(options) if self.common() else self.word()

    def word(self) -> str:
        """A made-up lower-case word of 2 to about 12 letters."""
        while True:
            made = self._made_up()
            if is_reserved(made) == self.unseen:
                return made

    def _made_up(self) -> str:
        rng = self.rng
        kind = rng.random()
        if kind < 0.08:
            return "".join(rng.choices(_LETTERS, k=rng.randint(2, 9)))
        count = 1 if kind < 0.2 else 2 if kind < 0.75 else 3
        choice, chance = rng.choice, rng.random
        syllables: list[str] = []
        for _ in range(count):
            syllables.append(choice(_SIMPLE_ONSETS) if chance() < 0.75 else choice(_ONSETS))
            syllables.append(choice(_SIMPLE_VOWELS) if chance() < 0.82 else choice(_VOWELS))
            if chance() < 0.33:
                syllables.append(choice(_CODAS))
        return "".join(syllables)

    def foreign(self) -> str:
        """A short text in another script, or with accents, or an emoji."""
        rng = self.rng
        while True:
            kind = rng.random()
            if kind < 0.25:
                word = self._made_up()
                at = rng.randrange(len(word))
                made = word[:at] + rng.choice(_ACCENTED) + word[at:]
            elif kind < 0.35:
                made = self._made_up() + " " + chr(_EMOJI[0] + rng.randrange(_EMOJI[1]))
            else:
                first, count = rng.choice(_SCRIPTS)
                made = "".join([chr(first + rng.randrange(count)) for _ in range(rng.randint(2, 6))])
            if is_reserved(made) == self.unseen:
                return made

    def integer(self, low: int = 0, high: int = 10**6) -> int:
        """An integer; as often short as long."""
        rng = self.rng
        while True:
            digits = rng.randint(len(str(max(low, 1))), len(str(max(high - 1, 1))))
            number = rng.randint(max(low, 10 ** (digits - 1) if digits > 1 else 0), min(high, 10**digits - 1))
            if number < 1000 or is_reserved(str(number)) == self.unseen:
                return number

    def decimal(self) -> float:
        places = self.rng.choice((1, 1, 2, 2, 3))
        return float(f"{self.integer(0, 9999)}.{self.rng.randint(1, 10**places - 1):0{places}d}")

    def person(self) -> str:
        """A given name, or a given name and a surname."""
        rng = self.rng
        first = self.pick(words.GIVEN_NAMES).capitalize()
        return f"{first} {self.word().capitalize()}" if rng.random() < 0.4 else first

    def place(self) -> str:
        if self.common():
            return self.rng.choice(words.CITIES)
        name = self.word().capitalize()
        kind = self.rng.random()
        return (
            f"{name} {self.word().capitalize()}"
            if kind < 0.12
            else f"{name}, {self.word().capitalize()}"
            if kind < 0.2
            else name
        )

    def identifier(self) -> str:
        """What systems call things: A-1284, ord_77ac, 9f3b21, zk8x."""
        rng = self.rng
        while True:
            kind = rng.randrange(6)
            if kind == 0:
                made = f"{''.join(rng.choices(_LETTERS, k=rng.randint(1, 4))).upper()}-{self.digits(2, 6)}"
            elif kind == 1:
                made = f"{self._made_up()}_{self.digits(1, 5)}"
            elif kind == 2:
                made = "".join(rng.choices(_HEX, k=rng.randint(4, 10)))
            elif kind == 3:
                made = "".join(rng.choices(_LETTERS + _DIGITS, k=rng.randint(4, 8)))
            elif kind == 4:
                made = f"{self._made_up()}-{self._made_up()}-{self.digits(1, 3)}"
            else:
                made = f"{rng.choice(_LETTERS).upper()}{self.digits(2, 5)}"
            if is_reserved(made) == self.unseen:
                return made

    def digits(self, low: int, high: int) -> str:
        return "".join(self.rng.choices(_DIGITS, k=self.rng.randint(low, high)))

    def date(self) -> str:
        rng = self.rng
        return f"{rng.randint(1990, 2039)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"

    def clock(self) -> str:
        return f"{self.rng.randint(0, 23):02d}:{self.rng.randint(0, 59):02d}"

    def email(self) -> str:
        user = self.pick(words.GIVEN_NAMES).lower()
        if self.rng.random() < 0.4:
            user += self.rng.choice("._-") + self.word()
        host = (
            f"{self.word()}.{self.rng.choice(('com', 'org', 'net', 'io', 'example'))}"
            if not self.common()
            else self.rng.choice(words.DOMAINS)
        )
        return f"{user}@{host}"

    def url(self) -> str:
        host = f"{self.word()}.{self.rng.choice(('com', 'org', 'net', 'io', 'test'))}"
        return f"https://{host}/{self.word()}" if self.rng.random() < 0.7 else f"https://{host}"

    def path(self) -> str:
        parts = [self.word() for _ in range(self.rng.randint(0, 2))] + [self.file()]
        return ("/" if self.rng.random() < 0.5 else "") + "/".join(parts)

    def file(self) -> str:
        return f"{self.word()}.{self.rng.choice(words.EXTENSIONS)}"

    def phrase(self, low: int = 2, high: int = 6) -> str:
        """A few words that mean nothing in particular."""
        count = self.rng.randint(low, high)
        text = " ".join(
            [self.rng.choice(words.PLAIN_WORDS) if self.common() else self.word() for _ in range(count)]
        )
        return text.capitalize() if self.rng.random() < 0.3 else text

    def string(self) -> str:
        """A string value of any kind, most often one word."""
        kind = self.rng.random()
        if kind < 0.3:
            return self.word()
        if kind < 0.44:
            return self.word().capitalize()
        if kind < 0.55:
            return self.person()
        if kind < 0.63:
            return self.place()
        if kind < 0.8:
            return self.identifier()
        if kind < 0.84:
            return self.date()
        if kind < 0.86:
            return self.clock()
        if kind < 0.90:
            return self.email()
        if kind < 0.92:
            return self.url()
        if kind < 0.94:
            return self.path()
        if kind < 0.97:
            return self.phrase(2, 4)
        return self.foreign()


def spoken(identifier: str) -> str:
    """How a person says an identifier: start_date, startDate and start-date are all "start date"."""
    pieces: list[str] = []
    for character in identifier:
        if character in "_-.":
            pieces.append(" ")
        elif character.isupper() and pieces and pieces[-1] != " ":
            pieces.extend((" ", character.lower()))
        else:
            pieces.append(character.lower())
    return "".join(pieces)


def joined(parts: Sequence[str], style: int) -> str:
    """An identifier of several words: 0 snake_case, 1 camelCase, 2 kebab-case, 3 dotted, 4 PascalCase."""
    if style == 0:
        return "_".join(parts)
    if style == 1:
        return parts[0] + "".join([part.capitalize() for part in parts[1:]])
    if style == 2:
        return "-".join(parts)
    if style == 3:
        return ".".join(parts)
    return "".join([part.capitalize() for part in parts])
