"""The pacer against simulated machines: what it allows has to fit what it measures."""

from dataclasses import dataclass

import pytest

from basemlx.engine.core.pacer import ALONE_S, LinearCost, PrefillPacer

NUM_LAYERS = 8


@dataclass
class Machine:
    """A forward costs `fixed_s` and `token_s` a token, alike in all layers; attention over a long prompt adds up to as
    much again."""

    fixed_s: float
    token_s: float
    rows: int = 1

    def decode_s(self) -> float:
        return self.fixed_s + self.rows * self.token_s

    def seeded(self) -> PrefillPacer:
        pacer = PrefillPacer(2048, NUM_LAYERS)
        pacer.seed(LinearCost(self.fixed_s, self.token_s), LinearCost(self.fixed_s, self.token_s))
        return pacer

    def chunk(self, pacer: PrefillPacer, dearer: float) -> tuple[int, list[float]]:
        """A chunk of a long prompt through all layers: (its tokens, seconds of each step)."""
        tokens = pacer.chunk_tokens(self.rows)
        left, steps = NUM_LAYERS - 1, []
        while left:
            layers = min(left, pacer.layers(tokens, self.rows))
            if not layers:
                pacer.observe(self.decode_s(), decoding_rows=self.rows)
                continue
            forward_s = self.fixed_s + tokens * self.token_s * dearer
            elapsed_s = self.decode_s() + forward_s * layers / (NUM_LAYERS - 1)
            pacer.observe(elapsed_s, prompt_tokens=tokens, layers=layers, decoding_rows=self.rows)
            steps.append(elapsed_s)
            left -= layers
        return tokens, steps


OPENBLAS, PLAIN_BLAS, GPU = (0.006, 0.0003), (0.0, 0.013), (0.004, 0.00002)


@pytest.mark.parametrize("kind", [OPENBLAS, PLAIN_BLAS, GPU], ids=["openblas", "plain blas", "gpu"])
@pytest.mark.parametrize("rows", [1, 8])
def test_a_step_with_a_part_of_a_prompt_stays_within_its_share_of_a_plain_one(
    kind: tuple[float, float], rows: int
) -> None:
    machine = Machine(*kind, rows)
    pacer = machine.seeded()
    computed, steps = 0, list[float]()
    for chunk in range(60):
        if chunk % 10 == 0:  # a hiccup of the machine must not become the new normal
            pacer.observe(8 * machine.decode_s(), decoding_rows=rows)
        tokens, parts = machine.chunk(pacer, 1 + chunk / 60)
        computed += tokens
        steps += parts
    assert computed >= 3 * 60
    assert sum(step > 3 * machine.decode_s() for step in steps) <= len(steps) / 100


@pytest.mark.parametrize("kind", [OPENBLAS, GPU], ids=["openblas", "gpu"])
def test_spread_over_steps_a_chunk_is_larger_than_one_step_could_take(kind: tuple[float, float]) -> None:
    """Otherwise every chunk would read the weights again for the few tokens that fit beside the streams."""
    machine = Machine(*kind)
    tokens, steps = machine.chunk(machine.seeded(), 1.0)
    assert len(steps) > 1
    assert tokens * machine.token_s > machine.decode_s()
    assert sum(steps) <= 1.1 * ALONE_S


def test_rows_whose_own_texts_grow_are_not_taken_for_a_prompt_that_does() -> None:
    """Their steps become three times as long while a prompt is computed beside them, which shall not slow it down."""
    machine = Machine(0.006, 0.002)
    pacer = machine.seeded()
    first, _ = machine.chunk(pacer, 1.0)
    for _ in range(100):
        machine.fixed_s += 0.00016
        last, steps = machine.chunk(pacer, 1.0)
    assert last >= first
    assert max(steps) <= 3 * machine.decode_s()


def test_a_forward_that_no_row_waits_for_is_computed_at_once() -> None:
    pacer = Machine(*OPENBLAS).seeded()
    assert pacer.layers(pacer.chunk_tokens(1), decoding_rows=1) < NUM_LAYERS
    assert pacer.layers(pacer.chunk_tokens(0), decoding_rows=0) == NUM_LAYERS


def test_a_batch_that_grows_is_known_to_take_longer_steps_at_once() -> None:
    pacer = Machine(*OPENBLAS).seeded()
    assert pacer.layers(50, decoding_rows=16) > 1.5 * pacer.layers(50, decoding_rows=1)


def test_alone_a_prompt_is_computed_in_large_chunks_within_a_quarter_second() -> None:
    pacer = PrefillPacer(2048, NUM_LAYERS)
    for _ in range(40):
        chunk = pacer.chunk_tokens(0)
        pacer.observe(0.005 + chunk * 0.0003, prompt_tokens=chunk, layers=NUM_LAYERS - 1)
    assert 500 <= pacer.chunk_tokens(0) <= 900


def test_a_ceiling_holds_whatever_was_measured() -> None:
    pacer = PrefillPacer(64, NUM_LAYERS)
    free = LinearCost.through((4, 0.0001), (32, 0.0002))
    pacer.seed(LinearCost(0.01, 0.001), free)
    assert all(pacer.chunk_tokens(rows) <= 64 for rows in (0, 1, 8))


def test_noise_in_two_measurements_makes_nothing_look_free() -> None:
    cost = LinearCost.through((4, 0.010), (32, 0.009))
    assert cost.unit_s > 0
    assert cost.of(32) >= 0.009
