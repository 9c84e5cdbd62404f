"""Episodes about what the conversation said: facts are told, other things are talked about, then a fact is asked for.

A fact corrected later counts as corrected. What nobody said is answered with "You have not told me that." Knows nothing
of tools.
"""

from dataclasses import dataclass

from basemlx.engine.tiny.training.data import talk, words
from basemlx.engine.tiny.training.data.catalogue import numbers_of
from basemlx.engine.tiny.training.data.dialogue import Turn, assistant, user
from basemlx.engine.tiny.training.data.episodes import Episode
from basemlx.engine.tiny.training.data.naming import Namer

KNOWN = "The user told me this."
UNKNOWN = "The user has not told me this."
NOT_TOLD = "You have not told me that."
_NOTED = "The user tells me something to remember."


@dataclass(slots=True)
class Fact:
    """`subject` says whether two facts are about the same thing; `told` states it, `asked` asks, `answer` answers."""

    subject: str
    told: str
    asked: str
    answer: str


# subject, ways to tell, ways to ask, the answer, kind of value
_PERSONAL: tuple[tuple[str, tuple[str, ...], tuple[str, ...], str, str], ...] = (
    ("name", ("My name is {}.", "I am {}.", "I'm {}.", "Call me {}.", "Hi, I'm {}!", "Hello, my name is {}.", "This is {} speaking.", "hi! I'm {}", "hello. my name is {}"), ("What is my name?", "What's my name?", "Who am I?", "Do you remember my name?", "Can you tell me my name?", "what is my name", "Do you know my name?", "What did I say my name was?"), "Your name is {}.", "person"),
    ("city", ("I live in {}.", "My home is {}.", "I moved to {}.", "I'm from {}."), ("Where do I live?", "Which city do I live in?", "Where am I from?", "In which place do I live?"), "You live in {}.", "place"),
    ("color", ("My favorite color is {}.", "I love the color {}.", "My favourite colour is {}."), ("What is my favorite color?", "Which color do I like?", "What's my favourite colour?"), "Your favorite color is {}.", "color"),
    ("age", ("I am {} years old.", "I'm {}, by the way. My age, I mean.", "My age is {}."), ("How old am I?", "What is my age?"), "You are {} years old.", "age"),
    ("dog", ("My dog is called {}.", "I have a dog named {}.", "My dog's name is {}."), ("What is my dog called?", "What is the name of my dog?", "What's my dog's name?"), "Your dog is called {}.", "name"),
    ("cat", ("My cat is called {}.", "I have a cat named {}.", "My cat's name is {}."), ("What is my cat called?", "What is the name of my cat?", "What's my cat's name?"), "Your cat is called {}.", "name"),
    ("job", ("I work as a {}.", "I am a {} by trade.", "My job is {}."), ("What is my job?", "What do I do for a living?", "What do I work as?"), "You work as a {}.", "job"),
    ("food", ("My favorite food is {}.", "I love eating {}.", "Nothing beats {} for dinner."), ("What is my favorite food?", "What do I love to eat?"), "Your favorite food is {}.", "food"),
    ("hobby", ("My hobby is {}.", "I spend my weekends with {}.", "In my free time I do {}."), ("What is my hobby?", "What do I do in my free time?"), "Your hobby is {}.", "hobby"),
    ("brother", ("My brother is called {}.", "I have a brother, {}.", "My brother's name is {}."), ("What is my brother called?", "What is my brother's name?"), "Your brother is called {}.", "person"),
    ("sister", ("My sister is called {}.", "I have a sister, {}.", "My sister's name is {}."), ("What is my sister called?", "What is my sister's name?"), "Your sister is called {}.", "person"),
    ("birthday", ("My birthday is on {}.", "I was born on {}."), ("When is my birthday?", "When was I born?"), "Your birthday is on {}.", "date"),
    ("number", ("My lucky number is {}.", "The number to remember is {}.", "Remember the number {}."), ("What is my lucky number?", "Which number did I tell you?", "What was the number?"), "The number is {}.", "number"),
    ("code", ("The code is {}.", "Remember this code: {}.", "The secret code is {}."), ("What is the code?", "What was the code?", "Tell me the secret code."), "The code is {}.", "id"),
    ("word", ("The secret word is {}.", "Remember the word {}.", "The password is {}."), ("What is the secret word?", "Which word should you remember?", "What was the password?"), "The word is {}.", "word"),
    ("drink", ("I prefer {} over coffee.", "My favorite drink is {}.", "I always drink {}."), ("What is my favorite drink?", "What do I like to drink?"), "Your favorite drink is {}.", "drink"),
    ("company", ("I work at {}.", "My company is {}.", "My employer is {}."), ("Where do I work?", "Which company do I work at?", "Who is my employer?"), "You work at {}.", "name"),
)  # fmt: skip


_PERSONAL_SUBJECTS = {row[0] for row in _PERSONAL}
# Tools that would note the facts, or know them.
_BARRED = talk.BARRED | numbers_of(
    {"remember", "add_to_list", "get_secret", "create_event", "get_calendar", "create_user"}
)


def _value(kind: str, namer: Namer) -> str:
    rng = namer.rng
    if kind == "person":
        return namer.person()
    if kind == "place":
        return namer.place()
    if kind == "name":
        return namer.word().capitalize()
    if kind == "age":
        return str(rng.randint(3, 99))
    if kind == "date":
        return (
            namer.date()
            if rng.random() < 0.5 or namer.unseen
            else f"{rng.choice(words.MONTHS)} {rng.randint(1, 28)}"
        )
    if kind == "number":
        return str(namer.integer(0, 10 ** rng.randint(1, 6)))
    if kind == "id":
        return namer.identifier()
    if kind == "word":
        return namer.word()
    options = {
        "color": words.COLORS,
        "job": words.JOBS,
        "food": words.FOODS,
        "hobby": words.HOBBIES,
        "drink": ("tea", "water", "juice", "milk", "cocoa"),
    }
    return namer.pick(options[kind])


def fact(namer: Namer, subject: str = "") -> Fact:
    """A fact about the user, or about some thing (then of a made-up attribute of it)."""
    rng = namer.rng
    if subject or rng.random() < 0.55:
        known = next(row for row in _PERSONAL if row[0] == subject) if subject else rng.choice(_PERSONAL)
        value = _value(known[4], namer)
        return Fact(
            known[0], rng.choice(known[1]).format(value), rng.choice(known[2]), known[3].format(value)
        )
    if rng.random() < 0.3:
        return _about_someone(namer)
    key = namer.pick(words.PARAMETERS)
    thing = namer.pick(words.NOUNS)
    value = str(namer.integer(0, 10 ** rng.randint(1, 6))) if rng.random() < 0.3 else namer.string()
    subject = f"the {key} of the {thing}"
    told = rng.choice(
        (
            "{s} is {v}.",
            "Remember that {s} is {v}.",
            "Note: {s} is {v}.",
            "Please keep in mind that {s} is {v}.",
            "By the way, {s} is {v}.",
        )
    )
    told = told.format(s=subject, v=value)
    asked = rng.choice(
        ("What is {s}?", "What was {s}?", "Tell me {s}.", "Do you remember {s}?", "Can you tell me {s}?")
    )
    return Fact(
        subject, told[:1].upper() + told[1:], asked.format(s=subject), f"The{subject[3:]} is {value}."
    )


def _about_someone(namer: Namer) -> Fact:
    rng = namer.rng
    name = namer.word().capitalize()
    kind, verb, asked, value = rng.choice((
        ("lives", "lives in", "Where does {} live?", namer.place()),
        ("likes", "likes", "What does {} like?", namer.word()),
        ("works", "works at", "Where does {} work?", namer.word().capitalize()),
        ("plays", "plays", "What does {} play?", namer.word()),
        ("owns", "owns a", "What does {} own?", namer.word()),
    ))  # fmt: skip
    return Fact(f"{kind} {name}", f"{name} {verb} {value}.", asked.format(name), f"{name} {verb} {value}.")


def remembered(namer: Namer, filler_turns: int = -1) -> Episode:
    """Facts over some turns, talk between them, then one or two of them asked for."""
    rng = namer.rng
    facts: list[Fact] = []
    for _ in range(rng.choice((1, 1, 2, 2, 3, 4, 5, 6))):
        new = fact(namer)
        if all(new.subject != old.subject for old in facts):
            facts.append(new)
    turns: list[Turn] = []
    impersonal = [told for told in facts if told.subject not in _PERSONAL_SUBJECTS]
    if impersonal and rng.random() < 0.2:
        facts = impersonal
        turns.append(Turn("system", " ".join([told.told for told in facts])))
    elif rng.random() < 0.3:
        turns += _telling(facts, namer)
    else:
        for told in facts:
            turns += _telling([told], namer)
            if rng.random() < 0.25:
                turns += talk.exchange(namer)
    if rng.random() < 0.12:
        turns += _corrected(facts, namer)
    count = filler_turns if filler_turns >= 0 else rng.choice((0, 0, 0, 1, 1, 2, 3))
    for _ in range(count):
        turns += talk.exchange(namer)
    wanted = rng.choice(facts)
    chance = rng.random()
    if chance < 0.1:
        other = fact(namer)
        if all(other.subject != told.subject for told in facts):
            return Episode(
                [*turns, user(other.asked), assistant(NOT_TOLD, UNKNOWN)],
                barred=set(_BARRED),
                task="recall",
                toolless=True,
            )
    if chance < 0.25 and len(facts) > 1:
        second = rng.choice([told for told in facts if told is not wanted])
        both = (
            f"{wanted.asked} {second.asked}"
            if rng.random() < 0.5 or not wanted.asked.endswith("?")
            else f"{wanted.asked[:-1]} and {_lowered(second.asked)}"
        )
        return Episode(
            [*turns, user(both), assistant(f"{wanted.answer} {second.answer}", KNOWN)],
            barred=set(_BARRED),
            task="recall",
            toolless=True,
        )
    turns += [user(wanted.asked), assistant(wanted.answer, KNOWN)]
    if len(facts) > 1 and rng.random() < 0.4:
        second = rng.choice([told for told in facts if told is not wanted])
        turns += [user(rng.choice(("", "", "And ", "Ok. ")) + second.asked), assistant(second.answer, KNOWN)]
    return Episode(turns, barred=set(_BARRED), task="recall", toolless=True)


def _telling(facts: list[Fact], namer: Namer) -> list[Turn]:
    rng = namer.rng
    text = " ".join([told.told for told in facts])
    if rng.random() < 0.1:
        text = f"{rng.choice(('Listen.', 'One thing:', 'Just so you know:', 'Please remember:'))} {text}"
    reply = "Nice to meet you!" if len(facts) == 1 and facts[0].subject == "name" else "I will remember that."
    return [user(text), assistant(reply, _NOTED)]


def _corrected(facts: list[Fact], namer: Namer) -> list[Turn]:
    rng = namer.rng
    places = [at for at, told in enumerate(facts) if any(told.subject == row[0] for row in _PERSONAL)]
    if not places:
        return []
    at = rng.choice(places)
    facts[at] = fact(namer, facts[at].subject)
    lead = rng.choice(("Sorry, I was wrong.", "Actually:", "Correction:", "No, wait."))
    return [user(f"{lead} {facts[at].told}"), assistant("I will remember that.", _NOTED)]


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:] if not text.startswith("I ") else text
