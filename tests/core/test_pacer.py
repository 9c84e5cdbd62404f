"""The pacer against simulated machines: what it allows has to fit what it measures."""

from dataclasses import dataclass

import pytest

from basemlx.engine.core.pacer import LinearCost, PrefillPacer


@dataclass
class Machine:
    """A forward costs `fixed_s` and `token_s` a token; attention over a long prompt adds up to as much again."""

    fixed_s: float
    token_s: float
    rows: int = 1

    def decode_s(self) -> float:
        return self.fixed_s + self.rows * self.token_s

    def seeded(self) -> PrefillPacer:
        pacer = PrefillPacer(2048)
        pacer.seed(LinearCost(self.fixed_s, self.token_s), LinearCost(self.fixed_s, self.token_s))
        return pacer

    def step(self, pacer: PrefillPacer, dearer: float, *, can_join: bool) -> tuple[int, float]:
        """One step with a chunk of a long prompt: (its tokens, seconds)."""
        allowed = pacer.allowance(self.rows, can_join)
        if allowed.joined:
            width = allowed.width(self.rows + 1)
            extra = (self.rows + 1) * width - self.rows
            elapsed_s = self.decode_s() + extra * self.token_s * dearer
            pacer.observe(elapsed_s, prompt_tokens=0, extra_tokens=extra, decoding_rows=self.rows)
            return width, elapsed_s
        width = allowed.width(1)
        elapsed_s = self.decode_s() + self.fixed_s + width * self.token_s * dearer
        pacer.observe(elapsed_s, prompt_tokens=width, extra_tokens=0, decoding_rows=self.rows)
        return width, elapsed_s


OPENBLAS, PLAIN_BLAS, GPU = (0.006, 0.0003), (0.0, 0.013), (0.004, 0.00002)


@pytest.mark.parametrize("kind", [OPENBLAS, PLAIN_BLAS, GPU], ids=["openblas", "plain blas", "gpu"])
@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("can_join", [True, False])
def test_a_mixed_step_stays_within_its_share_of_a_plain_one(
    kind: tuple[float, float], rows: int, can_join: bool
) -> None:
    machine = Machine(*kind, rows)
    pacer = machine.seeded()
    computed = too_long = 0
    for step in range(400):
        if step % 50 == 0:  # a hiccup of the machine must not become the new normal
            pacer.observe(8 * machine.decode_s(), prompt_tokens=0, extra_tokens=0, decoding_rows=rows)
        if step % 5 == 0:
            pacer.observe(machine.decode_s(), prompt_tokens=0, extra_tokens=0, decoding_rows=rows)
        chunk, elapsed_s = machine.step(pacer, 1 + computed / 3000, can_join=can_join)
        too_long += chunk > 1 and elapsed_s > 3 * machine.decode_s()
        computed += chunk
    assert computed >= 400
    assert too_long <= 4  # one step in a hundred


@pytest.mark.parametrize(
    ("kind", "rows", "joined"),
    [(OPENBLAS, 1, True), (OPENBLAS, 32, False), (PLAIN_BLAS, 8, False), (GPU, 2, True)],
)
def test_prompt_tokens_join_the_decoding_rows_where_that_lets_more_of_them_through(
    kind: tuple[float, float], rows: int, joined: bool
) -> None:
    """Alone, a chunk pays a forward's fixed cost again; joined, it pays the padding of every row."""
    machine = Machine(*kind, rows)
    assert machine.seeded().allowance(rows, can_join=True).joined is joined
    assert not machine.seeded().allowance(rows, can_join=False).joined
    chosen, _ = machine.step(machine.seeded(), 1.0, can_join=True)
    apart, _ = machine.step(machine.seeded(), 1.0, can_join=False)
    assert chosen >= apart


def test_a_batch_that_grows_is_known_to_take_longer_steps_at_once() -> None:
    machine = Machine(*OPENBLAS, rows=1)
    pacer = machine.seeded()
    one = pacer.allowance(1, can_join=False).tokens
    sixteen = pacer.allowance(16, can_join=False).tokens
    assert sixteen > 2 * one


def test_alone_a_prompt_is_computed_in_large_chunks_within_a_quarter_second() -> None:
    pacer = PrefillPacer(2048)
    for _ in range(40):
        chunk = pacer.allowance(0, can_join=True).width(1)
        pacer.observe(0.005 + chunk * 0.0003, prompt_tokens=chunk, extra_tokens=0, decoding_rows=0)
    assert 500 <= pacer.allowance(0, can_join=True).width(1) <= 900


def test_a_ceiling_holds_whatever_was_measured() -> None:
    pacer = PrefillPacer(64)
    free = LinearCost.through((4, 0.0001), (32, 0.0002))
    pacer.seed(LinearCost(0.01, 0.001), free)
    for rows in (0, 1, 8):
        for can_join in (True, False):
            assert pacer.allowance(rows, can_join).width(1) <= 64


def test_noise_in_two_measurements_makes_nothing_look_free() -> None:
    cost = LinearCost.through((4, 0.010), (32, 0.009))
    assert cost.unit_s > 0
    assert cost.of(32) >= 0.009
