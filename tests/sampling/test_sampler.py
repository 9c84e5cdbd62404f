"""Sampling against the exact distribution, computed in plain Python from the same logits."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from basemlx.engine.runtime import mx
from basemlx.engine.sampling.row import RowSampler
from basemlx.engine.sampling.sampler import Sampled, sample
from basemlx.engine.types import SamplingParams

VOCAB = 40


def row(prompt: tuple[int, ...] = (1, 2), choice: int = 0, vocab: int = VOCAB, **params: Any) -> RowSampler:
    return RowSampler(SamplingParams(**params), prompt, vocab, choice)


def make_logits(rows: int, vocab: int = VOCAB, seed: int = 0) -> mx.array:
    return mx.random.normal((rows, vocab), key=mx.random.key(seed)) * 2


def run(logits: mx.array, rows: list[RowSampler], position: int = 0, mask: mx.array | None = None) -> Sampled:
    return sample(logits, rows, [position] * len(rows), mask)


def exact(
    logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float
) -> dict[int, float]:
    """Token probabilities after the filters, from their definitions."""
    weights = {i: math.exp((x - max(logits)) / temperature) for i, x in enumerate(logits)}
    kept = {i: w for i, w in weights.items() if w >= min_p}
    if top_k:
        kept = dict(sorted(kept.items(), key=lambda item: -item[1])[:top_k])
    total, mass, nucleus = sum(kept.values()), 0.0, {}
    for i, w in sorted(kept.items(), key=lambda item: -item[1]):
        if mass >= top_p * total:
            break
        nucleus[i] = w
        mass += w
    return {i: w / sum(nucleus.values()) for i, w in nucleus.items()}


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p"),
    [
        (1.0, 0, 1.0, 0.0),
        (0.7, 5, 1.0, 0.0),
        (1.3, 0, 0.8, 0.0),
        (1.0, 0, 1.0, 0.1),
        (1.5, 12, 0.9, 0.05),
        (1.0, 1, 0.5, 0.0),
    ],
)
def test_draws_follow_the_exact_distribution(
    temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    """Chi-square over 4,000 seeded draws: fails by chance once in ten thousand, and the seeds are fixed."""
    draws = 4000
    logits = make_logits(1)
    expected = exact(logits[0].tolist(), temperature, top_k, top_p, min_p)
    many = mx.broadcast_to(logits, (draws, VOCAB))
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    tokens: Any = run(many, [row(seed=seed, **options) for seed in range(draws)]).tokens.tolist()
    counts = {token: tokens.count(token) for token in set(tokens)}
    assert set(counts) <= set(expected)
    chi_square = sum(
        (counts.get(i, 0) - draws * p) ** 2 / (draws * p) for i, p in expected.items() if draws * p >= 5
    )
    degrees = max(1, sum(draws * p >= 5 for p in expected.values()) - 1)
    assert chi_square < degrees + 4 * math.sqrt(2 * degrees) + 10


ROWS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.5, 1.0, 2.0]),
        "top_k": st.sampled_from([0, 1, 5, 39, 40, 1000]),
        "top_p": st.sampled_from([0.0, 0.3, 0.95, 1.0]),
        "min_p": st.sampled_from([0.0, 0.2, 1.0]),
        "repetition_penalty": st.sampled_from([1.0, 1.3]),
        "presence_penalty": st.sampled_from([0.0, 1.5]),
        "frequency_penalty": st.sampled_from([0.0, -0.5]),
        "logit_bias": st.sampled_from([{}, {3: 5.0}, {0: -100.0, 7: 2.0}]),
        "seed": st.integers(0, 5),
        "logprobs": st.booleans(),
    }
)


@settings(max_examples=40, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=6), st.integers(0, 3))
def test_a_rows_tokens_do_not_depend_on_the_other_rows(options: list[dict[str, Any]], seed: int) -> None:
    together = [row(**o) for o in options]
    alone = [row(**o) for o in options]
    for position in range(3):
        logits = make_logits(len(options), seed=10 * seed + position)
        batch = run(logits, together, position)
        for index, single in enumerate(alone):
            result = run(logits[index : index + 1], [single], position)
            assert result.tokens[0].item() == batch.tokens[index].item()
            assert (
                (result.logprobs(0) is None)
                == (batch.logprobs(index) is None)
                == (not options[index]["logprobs"])
            )


def test_choices_and_positions_of_one_seed_draw_different_numbers() -> None:
    flat = mx.zeros((1, 10_000))
    drawn = {
        (choice, position): run(flat, [row(seed=1, choice=choice, vocab=10_000)], position).tokens.item()
        for choice in range(4)
        for position in range(4)
    }
    assert len(set(drawn.values())) == 16


def test_unseeded_rows_differ() -> None:
    flat = mx.zeros((8, 100_000))
    assert len(set(run(flat, [row(vocab=100_000) for _ in range(8)]).tokens.tolist())) == 8  # type: ignore[arg-type]


def test_penalties_count_what_was_sampled_before_anybody_read_it() -> None:
    rows = [row(temperature=0.0, frequency_penalty=1.0)]
    logits = mx.array([[0.0] * 20 + [1.5, 1.0] + [0.0] * 18])
    tokens = [run(logits, rows, position).tokens for position in range(4)]  # lazy until here
    assert [token.item() for token in tokens] == [20, 21, 20, 0]
    again = row(temperature=0.0, frequency_penalty=1.0)
    again.rebuild([20, 21])
    assert run(logits, [again], 2).tokens.item() == 20


def test_repetition_penalises_the_prompt_too() -> None:
    logits = mx.array([[0.0, 2.0, 1.9] + [-1.0] * 37])
    assert run(logits, [row(prompt=(1,), temperature=0.0, repetition_penalty=1.2)]).tokens.item() == 2
    assert run(logits, [row(prompt=(5,), temperature=0.0, repetition_penalty=1.2)]).tokens.item() == 1


def test_a_bias_of_a_hundred_decides_and_of_minus_a_hundred_bans() -> None:
    logits = make_logits(1)
    best = mx.argmax(logits).item()
    assert run(logits, [row(logit_bias={9: 100.0})]).tokens.item() == 9
    assert run(logits, [row(temperature=0.0, logit_bias={int(best): -100.0})]).tokens.item() != best


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_only_tokens_that_the_mask_allows_are_sampled(temperature: float) -> None:
    allowed = {3, 31, 32, 39}
    words = [sum(1 << (token % 32) for token in allowed if token // 32 == word) for word in range(2)]
    mask = mx.array([words], dtype=mx.uint32).view(mx.int32)
    tokens = {
        run(make_logits(1, seed=seed), [row(temperature=temperature, seed=seed)], mask=mask).tokens.item()
        for seed in range(30)
    }
    assert tokens <= allowed
    assert len(tokens) > 1


def test_logprobs_are_the_models_own_whatever_shapes_the_draw() -> None:
    logits = make_logits(2)
    settings_of_one = {
        "temperature": 0.3,
        "top_k": 3,
        "logit_bias": {4: 50.0},
        "logprobs": True,
        "top_logprobs": 5,
    }
    result = run(logits, [row(**settings_of_one), row()])
    expected = (logits[0] - mx.logsumexp(logits[0])).tolist()
    entry = result.logprobs(0)
    assert entry is not None
    assert entry.token_id == 4
    assert entry.logprob == pytest.approx(expected[4], abs=1e-5)  # type: ignore[index]
    best = sorted(range(VOCAB), key=lambda token: -expected[token])[:5]  # type: ignore[index]
    assert [token for token, _ in entry.top] == best
    assert [value for _, value in entry.top] == pytest.approx([expected[token] for token in best], abs=1e-5)  # type: ignore[index]
    assert result.logprobs(1) is None


@pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf])
def test_broken_logits_give_an_id_that_exists(bad: float) -> None:
    logits = mx.full((2, VOCAB), bad)
    tokens: Any = run(logits, [row(temperature=0.0), row(top_p=0.5, top_k=4)]).tokens.tolist()
    assert all(0 <= token < VOCAB for token in tokens)
