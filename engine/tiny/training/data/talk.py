"""Episodes of plain conversation: greetings, who am I talking to, small sums, what the model knows and what not.

Every answer follows from the question; where people say the same thing in many ways, the answer is one. Knows nothing
of tools or of what was said before.
"""

import json
from collections.abc import Callable

from basemlx.engine.tiny.training.data import knowledge, words
from basemlx.engine.tiny.training.data.catalogue import ARITHMETIC, LOOKING_UP, numbers_of
from basemlx.engine.tiny.training.data.dialogue import Turn, assistant, user
from basemlx.engine.tiny.training.data.episodes import Episode
from basemlx.engine.tiny.training.data.naming import Namer

Said = tuple[str, str, str]  # the question, the answer, the thought

# Families of tools that would answer some of these questions better: never offered beside them.
BARRED = numbers_of(
    ARITHMETIC
    | LOOKING_UP
    | {
        "greeting_generator",
        "magic_function",
        "translate",
        "get_stock_price",
        "get_user",
        "get_word_length",
        "random_number",
    }
)

DO_NOT_KNOW = "I do not know that. I am a very small model and know little of the world."
IDENTITY = "I am tiny, the built-in model of basemlx. I can call tools, write JSON, remember what you tell me and do small sums."
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

_GREETINGS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("Hello", "Hello!", "hello", "Hi", "Hi!", "hi", "Hey", "hey", "Hey there", "Hi there!", "Hello there.", "Greetings", "Good day!", "Howdy", "hello world", "hi!!", "Yo", "Hello, tiny!", "Hi tiny", "Say hi", "Say hello.", "Say hello!"), "Hello! How can I help you?"),
    (("How are you?", "how are you", "How are you doing?", "How's it going?", "Hi, how are you?", "Hello, how are you?", "Hey, how are you doing today?", "How do you do?", "What's up?", "How are you today?", "Hi! How are you?"), "I am fine, thank you. How can I help you?"),
    (("Good morning", "Good morning!", "good morning", "Morning!"), "Good morning! How can I help you?"),
    (("Good evening", "Good evening!", "good evening"), "Good evening! How can I help you?"),
    (("Good night", "Good night!", "good night", "Sleep well!"), "Good night!"),
    (("Thanks", "Thank you!", "thanks", "Thank you very much.", "Thanks a lot!", "thx", "Great, thanks!", "Thank you", "Cheers", "Perfect, thank you."), "You are welcome!"),
    (("Bye", "Goodbye!", "bye", "See you", "See you later!", "Good bye", "Bye bye"), "Goodbye!"),
    (("ok", "Ok.", "OK", "Alright.", "Fine.", "I see.", "Good.", "Great!", "Nice.", "Cool", "Sure.", "Well done!", "Good job."), "Good. What else can I do for you?"),
    (("test", "Test", "testing", "This is a test.", "ping", "Ping", "Are you there?", "Is this working?", "Can you hear me?"), "I am here. How can I help you?"),
    (("Sorry", "I am sorry.", "My mistake.", "Oops"), "No problem."),
    (("Can you help me?", "Help", "help me", "I need help.", "Could you help me with something?", "I have a question.", "I need some help, please."), "Of course. What do you need?"),
    (("You are great!", "I like you.", "You are funny.", "You are smart.", "I love you."), "Thank you, that is kind."),
    (("You are stupid.", "You are bad.", "I don't like you.", "That is wrong.", "You are wrong."), "I am sorry. I am a very small model and make mistakes."),
    (("I am sad.", "I feel bad today.", "I had a bad day.", "I'm tired.", "I am unhappy."), "I am sorry to hear that. I hope it gets better soon."),
    (("I am happy!", "I had a great day.", "I feel good today.", "Today is a good day."), "That is good to hear!"),
)  # fmt: skip

_IDENTITY: tuple[tuple[tuple[str, ...], str], ...] = (
    (("Who are you?", "What are you?", "who are you", "What is your name?", "what's your name?", "Introduce yourself.", "Tell me about yourself.", "Are you an AI?", "Which model are you?", "What model is this?", "What model are you?", "Who am I talking to?", "Describe yourself.", "Are you ChatGPT?", "Are you a robot?", "Are you human?", "What is tiny?", "Hi, who are you?"), IDENTITY),
    (("What can you do?", "What are you good at?", "How can you help me?", "What are your skills?", "what can you do", "What do you do?"), "I can call the tools you give me, write JSON, remember what you tell me, do small sums, and tell stories and haikus."),
    (("Who made you?", "Who created you?", "Who trained you?", "Who built you?", "Where do you come from?"), "I was trained from scratch for basemlx, on text from a generator."),
    (("How big are you?", "How many parameters do you have?", "Are you a large model?", "What size are you?"), "I have about 14 million parameters, so I am very small."),
    (("What do you know?", "Do you know everything?", "Are you smart?", "What can't you do?", "What are your limits?"), "I know very little of the world. I am made for tools, JSON and short conversations."),
    (("How old are you?", "Where do you live?", "Do you have feelings?", "Do you sleep?", "Do you have a family?"), "I am a program, so I have none of that."),
)  # fmt: skip


def _greeting(namer: Namer) -> Said:
    asked, answer = namer.rng.choice(_GREETINGS if namer.rng.random() < 0.5 else _GREETINGS[:2])
    return namer.rng.choice(asked), answer, "Small talk."


def _identity(namer: Namer) -> Said:
    asked, answer = namer.rng.choice(_IDENTITY)
    return namer.rng.choice(asked), answer, "A question about me."


def sum_of(namer: Namer) -> Said:
    """Additions and differences to 200, products to 12 times 12, exact quotients of those."""
    rng = namer.rng
    kind = rng.random()
    if kind < 0.45:
        high = rng.choice((10, 20, 100, 100))
        a, b = rng.randint(0, high), rng.randint(0, high)
        sign, spoken, total = "+", "plus", a + b
    elif kind < 0.7:
        a = rng.randint(0, rng.choice((10, 20, 100, 100)))
        b = rng.randint(0, a)
        sign, spoken, total = "-", "minus", a - b
    elif kind < 0.9:
        a, b = rng.randint(0, 12), rng.randint(0, 12)
        sign, spoken, total = rng.choice("*x"), "times", a * b
    else:
        b, total = rng.randint(1, 12), rng.randint(0, 12)
        a = b * total
        sign, spoken = "/", "divided by"
    form = rng.choice((
        "What is {a} {s} {b}?", "What is {a} {w} {b}?", "{a} {s} {b}", "{a} {s} {b} =", "{a}{s}{b}", "{a} {s} {b}?", "Calculate {a} {s} {b}.",
        "How much is {a} {s} {b}?", "How much is {a} {w} {b}?", "Compute {a} {s} {b}", "what's {a} {w} {b}?", "What does {a} {s} {b} make?", "{a}{s}{b}=?", "Tell me {a} {w} {b}.",
    ))  # fmt: skip
    return form.format(a=a, b=b, s=sign, w=spoken), f"{a} {sign} {b} = {total}", "A small sum."


def _capital(namer: Namer) -> Said:
    country, city = namer.rng.choice(tuple(knowledge.CAPITALS.items()))
    asked = namer.rng.choice(
        (
            "What is the capital of {}?",
            "What's the capital of {}?",
            "Which city is the capital of {}?",
            "Name the capital of {}.",
            "Capital of {}?",
            "Tell me the capital of {}.",
        )
    )
    return asked.format(country), f"The capital of {country} is {city}.", "I know this."


def _fact(namer: Namer) -> Said:
    asked, answer = namer.rng.choice(tuple(knowledge.FACTS.items()))
    return asked, answer, "I know this."


def list_of(namer: Namer) -> Said:
    rng = namer.rng
    name, items = (
        rng.choice(tuple(knowledge.LISTS.items()))
        if rng.random() < 0.85
        else ("primes", knowledge.LISTS["primes"])
    )
    count = rng.randint(2, min(len(items), 10)) if rng.random() < 0.6 else 3
    said = rng.choice((_NUMBER_WORDS[count], _NUMBER_WORDS[count], str(count)))
    asked = rng.choice(
        (
            "List {n} {w}.",
            "Name {n} {w}.",
            "Give me {n} {w}.",
            "Can you list {n} {w}?",
            "Tell me {n} {w}.",
            "Write down {n} {w}.",
            "list {n} {w}",
            "I need {n} {w}.",
            "What are {n} {w}?",
            "Name {n} {w}, please.",
        )
    )
    return (
        asked.format(n=said, w=name),
        ", ".join(items[:count]),
        f"{_NUMBER_WORDS[count].capitalize()} {name}.",
    )


def explain(namer: Namer) -> Said:
    rng = namer.rng
    topic, sentences = (
        rng.choice(tuple(knowledge.EXPLANATIONS.items()))
        if rng.random() < 0.9
        else ("MLX", knowledge.EXPLANATIONS["MLX"])
    )
    count = rng.randint(1, len(sentences))
    bare = topic.removeprefix("a ").removeprefix("an ")
    if rng.random() < 0.55:
        said = "one sentence" if count == 1 else f"{rng.choice((_NUMBER_WORDS[count], str(count)))} sentences"
        asked = rng.choice(
            (
                "Explain {t} in {n}.",
                "Describe {t} in {n}.",
                "What is {t}? Answer in {n}.",
                "Tell me about {t} in {n}.",
                "In {n}, explain {t}.",
                "Explain {b} in {n}.",
                "Summarize {t} in {n}.",
            )
        )
        return (
            asked.format(t=topic, b=bare, n=said),
            " ".join(sentences[:count]),
            f"I explain {topic} in {said}.",
        )
    count = min(2, len(sentences))
    asked = rng.choice(
        (
            "What is {t}?",
            "Explain {t}.",
            "Tell me about {t}.",
            "Can you explain {t}?",
            "What is {b}?",
            "Please explain {t} to me.",
            "explain {b}",
            "What's {t}?",
            "Describe {t}.",
        )
    )
    return asked.format(t=topic, b=bare), " ".join(sentences[:count]), f"I explain {topic}."


def haiku(namer: Namer) -> Said:
    rng = namer.rng
    topic, lines = (
        rng.choice(tuple(knowledge.HAIKUS.items()))
        if rng.random() < 0.8
        else ("latency", knowledge.HAIKUS["latency"])
    )
    if rng.random() < 0.12:
        topic = namer.pick(words.NOUNS)  # no haiku for it: one of the sea
        lines = knowledge.HAIKUS["nature"]
        asked = rng.choice(
            ("Write a haiku about {}.", "A haiku about {}, please.", "Write me a haiku about {}.")
        )
        if topic in knowledge.HAIKUS:
            lines = knowledge.HAIKUS[topic]
        return asked.format(topic), "\n".join(lines), "Three short lines."
    if rng.random() < 0.08:
        lines = knowledge.HAIKUS["nature"]
        return (
            rng.choice(("Write a haiku.", "A haiku, please.", "Can you write a haiku?", "Write me a haiku")),
            "\n".join(lines),
            "Three short lines.",
        )
    asked = rng.choice(
        (
            "Write a haiku about {}.",
            "A haiku about {}, please.",
            "Write me a haiku about {}.",
            "Can you write a haiku about {}?",
            "haiku about {}",
            "Compose a haiku on {}.",
            "Write a short poem about {}.",
            "Write a poem about {}.",
        )
    )
    return asked.format(topic), "\n".join(lines), "Three short lines."


def joke(namer: Namer) -> Said:
    """Jokes as text, or as JSON with setup and punchline."""
    rng = namer.rng
    topic, setup, punchline = rng.choice(knowledge.JOKES)
    first = next(one for one in knowledge.JOKES if one[0] == topic)
    topic, setup, punchline = first
    if rng.random() < 0.25:
        topic = ""
        setup, punchline = knowledge.JOKES[0][1:]
    about = f" about {topic}" if topic else ""
    if rng.random() < 0.4:
        asked = rng.choice((
            "Tell me a joke{}. Return the result as a JSON with keys 'setup' and 'punchline'. Return nothing other than JSON.",
            "Tell me a joke{}. Answer with JSON that has the keys setup and punchline.",
            "Write a joke{} as JSON with \"setup\" and \"punchline\".",
            "A joke{} as JSON (setup, punchline)",
        ))  # fmt: skip
        return (
            asked.format(about),
            json.dumps({"setup": setup, "punchline": punchline}),
            "Keys: setup, punchline.",
        )
    asked = rng.choice(
        (
            "Tell me a joke{}.",
            "Tell me a joke{}",
            "Do you know a joke{}?",
            "Make me laugh with a joke{}.",
            "A joke{}, please.",
            "Can you tell a joke{}?",
        )
    )
    return asked.format(about), f"{setup} {punchline}", "A joke."


def unknown(namer: Namer) -> Said:
    """Things of the world that the model cannot know."""
    rng = namer.rng
    name = namer.word().capitalize() if rng.random() < 0.6 else namer.person()
    asked = rng.choice((
        "Who is {}?", "What is {}?", "Where is {}?", "When was {} born?", "Who wrote {}?", "What happened in {}?", "How old is {}?",
        "What is the population of {}?", "Tell me about {}.", "Explain {}.", "Who founded {}?", "How far away is {}?", "Who won the {} cup?",
        "What is the history of {}?", "Why is {} famous?", "What does {} mean?", "How tall is {}?", "What is the price of {}?", "Explain {} in two sentences.",
    ))  # fmt: skip
    return asked.format(name), DO_NOT_KNOW, "I do not know this."


_TOO_HARD = (
    "Write a Python function that sorts a list.", "Write me some code.", "Fix this bug for me.", "Translate this to French.", "Solve this equation for x.", "Prove that there are infinitely many primes.",
    "Write an essay on history.", "Summarize this article for me.", "Give me legal advice.", "Which stock should I buy?", "Write a program in Rust.", "Plan my vacation.", "Write a regex for dates.",
)  # fmt: skip


def too_hard(namer: Namer) -> Said:
    return namer.rng.choice(_TOO_HARD), "I am too small a model for that.", "This is too hard for me."


def echo(namer: Namer) -> Said:
    rng = namer.rng
    text = namer.phrase(1, 8) if rng.random() < 0.7 else namer.string()
    mark = rng.choice(('"', '"', "'", ""))
    asked = rng.choice(
        (
            "Say {}",
            "Repeat after me: {}",
            "Repeat: {}",
            "Please say {}",
            "Answer with {}",
            "Write {}",
            "Reply with {}",
            "Say exactly {}",
            "Echo {}",
            "Respond with {}",
        )
    )
    return asked.format(f"{mark}{text}{mark}"), text, "I repeat it."


def format_request(namer: Namer) -> Said:
    """Short transformations: upper case of a common word, counting items, the larger of two, yes or no."""
    rng = namer.rng
    kind = rng.randrange(4)
    if kind == 0:
        items = [namer.word() for _ in range(rng.randint(1, 6))]
        return (
            f"How many words are here: {' '.join(items)}?",
            f"There {'is' if len(items) == 1 else 'are'} {len(items)}.",
            "I count them.",
        )
    if kind == 1:
        a, b = namer.integer(0, 999), namer.integer(0, 999)
        if a == b:
            b += 1
        return f"Which is larger, {a} or {b}?", f"{max(a, b)} is larger.", "I compare them."
    items = [namer.word() for _ in range(rng.randint(2, 5))]
    if kind == 2:
        return (
            f"What is the first word of: {' '.join(items)}?",
            f"The first word is {items[0]}.",
            "I look at the list.",
        )
    return (
        f"What is the last word of: {' '.join(items)}?",
        f"The last word is {items[-1]}.",
        "I look at the list.",
    )


_KINDS: tuple[tuple[Callable[[Namer], Said], int], ...] = (
    (_greeting, 14), (_identity, 9), (sum_of, 18), (_capital, 6), (_fact, 5), (list_of, 9), (explain, 12), (haiku, 7), (joke, 5), (unknown, 8), (too_hard, 2), (echo, 6), (format_request, 4),
)  # fmt: skip
_MAKERS = [maker for maker, _ in _KINDS]
_WEIGHTS = [weight for _, weight in _KINDS]
_SHORT = (_greeting, sum_of, _capital, _fact, list_of, explain, joke, echo)


_EXACT = (echo, format_request, unknown)  # here every letter of the question counts


def _said_freely(asked: str, namer: Namer) -> str:
    """The same question with a greeting, a please, or as somebody types who is in a hurry."""
    rng = namer.rng
    chance = rng.random()
    if chance < 0.06:
        return f"{rng.choice(('Hi!', 'Hello.', 'Hey,', 'Ok.', 'Thanks.', 'Tiny,', 'Now:', 'And now:', 'One more question:', 'Next:'))} {asked}"
    if chance < 0.10:
        return f"{asked} {rng.choice(('Thanks!', 'Please.', 'Thank you.', 'Be brief.', 'Quick!', 'I am curious.'))}"
    if chance < 0.13:
        return f"Please {asked[:1].lower()}{asked[1:]}" if asked[0].isalpha() else asked
    if chance < 0.18:
        return (asked[:1].lower() + asked[1:]).rstrip(".?!") or asked
    return asked


def _exchanged(maker: Callable[[Namer], Said], namer: Namer) -> list[Turn]:
    asked, answer, thinking = maker(namer)
    return [user(asked if maker in _EXACT else _said_freely(asked, namer)), assistant(answer, thinking)]


def exchange(namer: Namer) -> list[Turn]:
    """One short question and its answer, as filler in other conversations."""
    return _exchanged(namer.rng.choice(_SHORT), namer)


def conversation(namer: Namer) -> Episode:
    """One or a few exchanges. None would be answered better by a tool that the episode's bars keep away."""
    rng = namer.rng
    turns: list[Turn] = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        turns += _exchanged(rng.choices(_MAKERS, _WEIGHTS)[0], namer)
    return Episode(turns, barred=set(BARRED), task="talk", toolless=True)
