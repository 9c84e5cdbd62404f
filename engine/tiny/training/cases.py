"""The evaluation's cases: one row of the table each, on names and values that training never made.

Every made-up word, identifier, string and long number here comes from the reserved world of `naming`, and no common
word stands for one. Seeds start at `FIRST_SEED`, which training does not use. The wording of the requests is the
training generator's own; what is measured is the ability on new names, not on new phrasings.
"""

from collections.abc import Callable
from random import Random

from basemlx.engine.tiny.training.data import calls, mixture, recall, results, shapes
from basemlx.engine.tiny.training.data.dialogue import Dialogue, Sample
from basemlx.engine.tiny.training.data.episodes import Episode
from basemlx.engine.tiny.training.data.naming import Namer

FIRST_SEED = 1_000_000_000
MOST_TOOLS = 8

Maker = Callable[[Namer], Episode]


def _call_or_none(namer: Namer) -> Episode:
    return calls.no_tool_fits(namer) if namer.rng.random() < 0.25 else calls.one_call(namer)


def _after_a_result(namer: Namer) -> Episode:
    chance = namer.rng.random()
    if chance < 0.7:
        return results.answered(namer)
    if chance < 0.8:
        return results.two_results(namer)
    if chance < 0.9:
        return results.failed(namer)
    return results.chained(namer)


ROWS: dict[str, Maker] = {
    "call": _call_or_none,
    "calls": calls.several_calls,
    "result": _after_a_result,
    "json": shapes.object_from_sentence,
    "recall": recall.remembered,
}


def case(row: str, number: int, thinking: bool) -> Sample:
    """Case `number` of a row, the same each time; its tools, names and values are the same in both modes."""
    for attempt in range(100):
        rng = Random(FIRST_SEED + 1000 * number + attempt + 10**8 * (1 + list(ROWS).index(row)))
        namer = Namer(rng, unseen=True)
        made = mixture.dialogue(namer, [ROWS[row]], toolbox_size=rng.randint(1, MOST_TOOLS))
        if made is None:
            continue
        return _to_be_written(made, row, rng, thinking)
    raise RuntimeError(f"no case {number} of {row}")


def _to_be_written(made: Dialogue, row: str, rng: Random, thinking: bool) -> Sample:
    """The last turn; for results, any turn that follows a tool's result."""
    places = [len(made.turns) - 1]
    if row == "result":
        first = next(at for at, turn in enumerate(made.turns) if turn.role == "tool")
        places = [at for at, turn in enumerate(made.turns) if turn.role == "assistant" and at > first]
    at = rng.choice(places)
    return Sample(made.turns[: at + 1], made.tools, thinking, row)
