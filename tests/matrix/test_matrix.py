"""Cells of the matrix against the server that users start: some in every run, all of them with -m slow. See
bench/matrix.py, which prints the whole as a table.
"""

import random
from collections.abc import Iterator

import httpx
import pytest

from tests.matrix.cells import every_cell, requests
from tests.matrix.refusals import REFUSALS
from tests.matrix.run import TIMEOUT_S, Runner, Tally
from tests.serving import API_KEY, ServerProcess

CELLS = len(every_cell())


@pytest.fixture
def client(served: ServerProcess) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {API_KEY}"}
    with httpx.Client(base_url=served.url, timeout=TIMEOUT_S, headers=headers) as client:
        yield client


def shown(tally: Tally) -> str:
    return "\n".join(map(str, tally.failures[:5]))


def test_the_cells_are_all_there_once() -> None:
    assert CELLS == 8 * 2 * 4 * 2 * 2 * 2
    assert len(set(every_cell())) == CELLS


def test_some_cells_come_as_asked_alone_and_among_others(client: httpx.Client) -> None:
    """Five among each other and one alone, from all over the matrix."""
    tally = Tally()
    runner = Runner(client, tally, most_tokens=32)
    some = list(requests(101, toolboxes=(("ping", "math.add"), ("set_labels",)), max_tokens=(8, 32)))
    rng = random.Random(101)
    runner.mixed([some[start + rng.randrange(48)] for start in range(0, 224, 48)], 101)
    runner.alone([rng.choice(some)], 101)
    assert not tally.failures, shown(tally)
    assert tally.near_ties <= tally.most_near_ties
    assert tally.pairs == 6
    assert tally.num_samples >= 12


def test_what_cannot_be_had_is_refused_by_the_fields_name(client: httpx.Client) -> None:
    tally = Tally()
    Runner(client, tally).refusals()
    assert not tally.failures, shown(tally)
    assert tally.refused == dict.fromkeys(REFUSALS, 8)


@pytest.mark.slow
def test_every_cell_comes_as_asked_alone_and_among_others(client: httpx.Client) -> None:
    tally = Tally()
    runner = Runner(client, tally)
    runner.alone(requests(1), 1)
    for seed in (2, 3):
        runner.mixed(requests(seed), seed)
    assert not tally.failures, shown(tally)
    assert tally.near_ties <= tally.most_near_ties
    assert len(tally.samples) == CELLS
    assert tally.num_samples >= 2000
