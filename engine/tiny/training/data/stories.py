"""Short stories from a grammar: a hero, a wish, obstacles, help, an end. As long as asked, up to about 250 words.

The beats have a fixed order and no sentence comes twice, so a story always moves on to its end. Knows nothing else.
"""

from basemlx.engine.tiny.training.data import words
from basemlx.engine.tiny.training.data.dialogue import assistant, user
from basemlx.engine.tiny.training.data.episodes import Episode
from basemlx.engine.tiny.training.data.naming import Namer

_PLACES = (
    "in a village by the sea",
    "in a town on a hill",
    "in a house near the forest",
    "by an old harbor",
    "in a valley full of fog",
    "in a city of bridges",
    "on a farm by the river",
    "on an island in the north",
)
# From different names, so that the friend is never the hero: the likeliest name would be the same for both.
_HEROES = words.GIVEN_NAMES[::2]
_FRIENDS = words.GIVEN_NAMES[1::2]
_WISHES = (
    "to see the top of the mountain",
    "to find the lost {thing}",
    "to build a {thing}",
    "to learn the oldest song",
    "to bring home a {thing}",
    "to hear the bells of the far city",
)

# One beat after another; each is a choice of sentences. {n} hero, {k} what the hero is, {p} place, {w} wish, {f} friend,
# {t} thing, {a} an animal. A beat marked 1 is told in short stories too.
_BEATS: tuple[tuple[int, tuple[str, ...]], ...] = (
    (1, ("Once there was a {k} called {n}, who lived {p}.", "A {k} named {n} lived {p}.", "{n} was a {k} and lived {p}.")),
    (0, ("The days there were quiet, and the nights were full of stars.", "Every morning began with the smell of bread and the sound of the wind.", "Nothing much ever happened there, and most people liked it that way.")),
    (1, ("More than anything, {n} wanted {w}.", "There was one wish that never went away: {w}.", "At night {n} lay awake and dreamed of a single thing, {w}.")),
    (0, ("The neighbors only laughed when they heard of it.", "Nobody believed that it could be done.", "Old people shook their heads, because many had tried before.")),
    (1, ("One morning {n} packed a small bag and left.", "On the first day of spring {n} set out.", "So, before the sun was up, {n} closed the door and walked away.")),
    (0, ("The road was long and went through fields, over stones and past empty barns.", "The path led under dark trees where no bird sang.", "For three days there was nothing but grass and sky.")),
    (0, ("On the fourth day it began to rain.", "Then the weather turned, and the wind tore at every coat and leaf.", "Soon the food ran low, and the nights grew cold.")),
    (1, ("At a broken bridge {n} met a {a} called {f}.", "By a dry well sat a {a} whose name was {f}.", "Under an old tree {n} found a {a} named {f}.")),
    (0, ("\"Where are you going?\" asked {f}.", "\"You look tired,\" said {f}.", "\"This is no road for one alone,\" said {f}.")),
    (0, ("\"I am looking for something,\" said {n}, and told the whole story.", "{n} sat down and told everything from the beginning.", "\"I have a wish,\" said {n}, \"and it is far from here.\"")),
    (1, ("{f} thought for a while and then offered to come along.", "\"Then we go together,\" said {f}.", "{f} nodded and took the lead without another word.")),
    (0, ("They shared a piece of bread and an apple.", "They walked until the moon was high.", "They sang to keep their spirits up.")),
    (0, ("In the hills a wide river blocked their way.", "Before them lay a gate that had no key.", "A wall of thorns stood across the path.")),
    (0, ("{n} tried to climb, and slipped, and tried again.", "{n} tried with force, but it was of no use.", "Twice {n} failed and wanted to turn back.")),
    (0, ("But {f} had seen a narrow way that only the patient find.", "But {f} knew an old trick and whispered it.", "But {f} pointed at a small boat hidden in the reeds.")),
    (1, ("Together they got across, tired and proud.", "With some luck they reached the other side.", "And so, step by step, they made it.")),
    (0, ("Behind the last hill the light was golden.", "In the evening the clouds opened at last.", "There the air was warm and smelled of flowers.")),
    (1, ("There it was, just as {n} had dreamed it: {g}.", "And there, in the middle of a meadow, was {g}.", "In front of them was {g}, shining in the sun.")),
    (0, ("For a long time neither of them spoke.", "{n} laughed and cried at the same time.", "\"It was worth every step,\" said {f}.")),
    (0, ("They stayed until the first snow fell.", "The next day they began the way home.", "They made a fire and told each other stories all night.")),
    (1, ("When {n} came home, nobody laughed any more.", "Back home {n} told the children about the journey.", "Years later people still spoke of that journey.")),
    (0, ("Some of them even began to pack their own bags.", "The children listened with wide eyes.", "And {f} got the best chair by the stove.")),
    (1, ("And {n} and {f} stayed friends for the rest of their days.", "From then on {n} was never afraid of a long road again.", "The wish was fulfilled, but the friend was the greater gift.")),
)  # fmt: skip


def _told(namer: Namer, hero_kind: str, thing: str, target_words: int) -> str:
    rng = namer.rng
    hero, friend = rng.choice(_HEROES), rng.choice(_FRIENDS)
    wish = rng.choice(_WISHES).format(thing=thing)
    goal = {
        "to see the top of the mountain": "the top of the mountain",
        "to learn the oldest song": "the singer of the oldest song",
        "to hear the bells of the far city": "the far city with its bells",
    }.get(wish, f"the {thing}")
    slots = {
        "n": hero,
        "k": hero_kind,
        "p": rng.choice(_PLACES),
        "w": wish,
        "f": friend,
        "t": thing,
        "a": rng.choice(words.ANIMALS),
        "g": goal,
    }
    short = [at for at, (told, _) in enumerate(_BEATS) if told]
    extra = [at for at, (told, _) in enumerate(_BEATS) if not told]
    count = max(0, min(len(extra), round((target_words - 100) / 9.6)))
    chosen = sorted(short + extra[:count])
    sentences = [rng.choice(_BEATS[at][1]).format(**slots) for at in chosen]
    lines: list[str] = []
    for start in range(0, len(sentences), 6):
        lines.append(" ".join(sentences[start : start + 6]))
    return (
        "\n\n".join(lines)
        .replace(" a owl", " an owl")
        .replace(" a otter", " an otter")
        .replace(" a engineer", " an engineer")
        .replace("A owl", "An owl")
        .replace("A otter", "An otter")
        .replace("A engineer", "An engineer")
    )


def story(namer: Namer) -> Episode:
    rng = namer.rng
    kind = rng.choice(words.JOBS)
    thing = rng.choice(words.NOUNS) if rng.random() < 0.8 else namer.word()
    about = ""
    chance = rng.random()
    if chance < 0.25:
        kind = rng.choice(words.ANIMALS)
        about = f" about {_article(kind)} {kind}"
    elif chance < 0.45:
        kind = rng.choice(words.JOBS)
        about = f" about {_article(kind)} {kind}"
    elif chance < 0.6:
        thing = namer.pick(words.NOUNS)
        about = f" about {rng.choice(('a', 'the', 'a lost'))} {thing}"
    target = rng.choice((80, 100, 150, 200, 200, 200, 250))
    form = rng.random()
    if form < 0.45:
        asked = rng.choice(
            (
                "Write a {n}-word story{a}.",
                "Write a {n} word story{a}.",
                "Write a story{a} in {n} words.",
                "Tell me a {n}-word story{a}.",
                "A story{a} of {n} words, please.",
                "write a {n}-word story{a}",
            )
        ).format(n=target, a=about)
    elif form < 0.65:
        target = 80
        asked = rng.choice(
            ("Write a short story{a}.", "Tell me a short story{a}.", "A short story{a}, please.")
        ).format(a=about)
    elif form < 0.75:
        target = 250
        asked = rng.choice(("Write a long story{a}.", "Tell me a long story{a}.")).format(a=about)
    else:
        target = 150
        asked = rng.choice(
            (
                "Write a story{a}.",
                "Tell me a story{a}.",
                "Can you tell me a story{a}?",
                "I want to hear a story{a}.",
                "Once upon a time...",
            )
        ).format(a=about)
    text = _told(namer, kind, thing, target)
    return Episode(
        [user(asked), assistant(text, "A hero, a wish, a journey, an end.")], task="story", toolless=True
    )


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
