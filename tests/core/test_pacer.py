"""The pacer against simulated machines: what it allows has to fit what it measures."""

import pytest

from basemlx.engine.core.pacer import PrefillPacer


@pytest.mark.parametrize(
    ("decode_s", "fixed_s", "token_s"),
    [(0.007, 0.005, 0.0003), (0.013, 0.0, 0.013), (0.004, 0.003, 0.00002)],  # OpenBLAS, plain BLAS, a GPU
)
def test_a_mixed_step_stays_within_its_share_of_a_plain_one(
    decode_s: float, fixed_s: float, token_s: float
) -> None:
    pacer = PrefillPacer(2048)
    pacer.seed(decode_s, (4, fixed_s + 4 * token_s), (32, fixed_s + 32 * token_s))
    computed = too_long = 0
    for step in range(400):
        if step % 50 == 0:
            pacer.observe(8 * decode_s, 0, True)  # a hiccup of the machine must not become the new normal
        if step % 5 == 0:
            pacer.observe(decode_s, 0, True)
        chunk = pacer.chunk_tokens(True)
        dearer = 1 + computed / 3000  # attention over what is there already
        elapsed_s = decode_s + fixed_s + chunk * token_s * dearer
        too_long += chunk > 1 and elapsed_s > 3 * decode_s
        pacer.observe(elapsed_s, chunk, True)
        computed += chunk
    assert computed >= 400
    assert too_long <= 4  # one step in a hundred


def test_alone_a_prompt_is_computed_in_large_chunks_within_a_quarter_second() -> None:
    pacer = PrefillPacer(2048)
    for _ in range(40):
        chunk = pacer.chunk_tokens(False)
        pacer.observe(0.005 + chunk * 0.0003, chunk, False)
    assert 500 <= pacer.chunk_tokens(False) <= 900


def test_a_ceiling_holds_whatever_was_measured() -> None:
    pacer = PrefillPacer(64)
    pacer.seed(0.01, (4, 0.0001), (32, 0.0002))
    assert pacer.chunk_tokens(False) == pacer.chunk_tokens(True) == 64
