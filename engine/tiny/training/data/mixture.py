"""The training mixture: which episodes, how they are joined into dialogues, and what surrounds them.

`samples` is an endless, seeded stream. A sample is one assistant turn to write, with thinking on or off; the dialogue
before it may hold other episodes, a system prompt, and tools that are not needed.
"""

from collections.abc import Callable, Iterator
from random import Random

from basemlx.engine.tiny.training.data import calls, recall, results, shapes, stories, talk
from basemlx.engine.tiny.training.data.dialogue import Dialogue, Sample, Turn
from basemlx.engine.tiny.training.data.episodes import Episode, furnish
from basemlx.engine.tiny.training.data.naming import Namer
from basemlx.engine.tiny.training.data.tools import STYLES

Maker = Callable[[Namer], Episode]


def _three_or_more(namer: Namer) -> Episode:
    return calls.several_calls(namer, namer.rng.choice((3, 3, 4)))


# Weights are shares of the episodes, not of the tokens.
MAKERS: tuple[tuple[Maker, float], ...] = (
    (calls.one_call, 20),
    (calls.no_tool_fits, 8),
    (calls.several_calls, 15),
    (_three_or_more, 2.5),
    (calls.something_missing, 2.5),
    (results.answered, 17),
    (results.two_results, 4.5),
    (results.failed, 2),
    (results.chained, 3),
    (shapes.object_from_sentence, 13),
    (recall.remembered, 10),
    (talk.conversation, 9),
    (stories.story, 1.6),
)
_MAKERS = [maker for maker, _ in MAKERS]
_WEIGHTS = [weight for _, weight in MAKERS]

_SYSTEM_PROMPTS = (
    "You are a helpful assistant.", "You are tiny, a helpful assistant.", "You are an assistant with tools.", "Be brief.", "You are a friendly assistant. Answer in short sentences.",
    "You are an agent. Use the tools when they help.", "Answer the user's question. If a tool fits, use it.", "You are a helpful AI assistant that can call tools.",
    "You are a concise assistant.", "Today is a good day. Help the user.", "Use tools to answer.", "You must use the tools you are given where they fit.",
)  # fmt: skip


def _system(namer: Namer) -> str:
    rng = namer.rng
    kind = rng.random()
    if kind < 0.6:
        return rng.choice(_SYSTEM_PROMPTS)
    if kind < 0.75:
        return f"You are {namer.word().capitalize()}, {rng.choice(('an assistant', 'a helpful agent', 'a bot'))} for {namer.word().capitalize()}."
    lines = [f"{rng.choice(_SYSTEM_PROMPTS)}"]
    for _ in range(rng.randint(1, 4)):
        lines.append(
            rng.choice(("Rule: {}.", "- {}.", "Never {}.", "Always {}.", "Note that {}.")).format(
                namer.phrase(3, 9)
            )
        )
    return "\n".join(lines)


def dialogue(namer: Namer, makers: list[Maker], toolbox_size: int = -1) -> Dialogue | None:
    """The episodes of these makers as one dialogue; None where they cannot stand together."""
    rng = namer.rng
    episodes = [maker(namer) for maker in makers]
    turns: list[Turn] = []
    for episode in episodes:
        system = [turn for turn in episode.turns if turn.role == "system"]
        if system and len(episodes) > 1:
            return None
        turns += episode.turns
    needed = len({id(tool) for episode in episodes for tool in episode.tools})
    with_tools = needed > 0 or not all(episode.toolless for episode in episodes) or rng.random() < 0.25
    tools = []
    if with_tools:
        total = (
            toolbox_size if toolbox_size > 0 else max(needed, rng.choice((1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8)))
        )
        box = furnish(episodes, namer, max(1, total))
        if box is None:
            return None
        style = rng.randrange(STYLES)
        tools = [tool.definition(style) for tool in box]
    if turns[0].role != "system" and rng.random() < 0.3:
        turns.insert(0, Turn("system", _system(namer)))
    return Dialogue(turns, tools, episodes[-1].task)


def samples(seed: int, unseen: bool = False, long_share: float = 0.0) -> Iterator[Sample]:
    """Endless. `long_share` of them are dialogues of many episodes, for contexts of thousands of tokens."""
    rng = Random(seed)
    while True:
        namer = Namer(rng, unseen, common_share=rng.choice((0.1, 0.3, 0.5, 0.8)))
        if rng.random() < long_share:
            sample = _long(namer)
        else:
            count = rng.choices((1, 2, 3), (74, 18, 8))[0]
            sample = _ordinary(namer, count)
        if sample is not None:
            yield sample


def _ordinary(namer: Namer, count: int) -> Sample | None:
    rng = namer.rng
    made = dialogue(namer, rng.choices(_MAKERS, _WEIGHTS, k=count))
    if made is None:
        return None
    return made.sample(rng, rng.random() < 0.4, from_turn=_last_question(made.turns))


def _long(namer: Namer) -> Sample | None:
    """Facts told first, much else in between, asked for at the end; or a task after a long conversation."""
    rng = namer.rng
    remembering = rng.random() < 0.6
    if remembering:
        episode = recall.remembered(namer, filler_turns=rng.randint(5, 80))
        turns = episode.turns
        if turns[0].role != "system" and rng.random() < 0.2:
            turns.insert(0, Turn("system", _system(namer)))
        made: Dialogue | None = Dialogue(turns, [], "recall")
    else:
        made = dialogue(namer, rng.choices(_MAKERS, _WEIGHTS, k=rng.randint(3, 8)))
    if made is None:
        return None
    return made.sample(rng, rng.random() < 0.4, from_turn=_last_question(made.turns))


def _last_question(turns: list[Turn]) -> int:
    """Where the part begins that a sample may end in: the last few turns."""
    return max(0, len(turns) - 6)
