"""Constrained rows in the step, with a grammar that is a set of token sequences: small, exact, and easy to check."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from basemlx.engine.config import EngineConfig
from basemlx.engine.core.constraint import Mask, only_token
from basemlx.engine.engine import Engine
from basemlx.engine.errors import GenerationFailed
from basemlx.engine.types import GenerationRequest, SamplingParams
from tests.core.conftest import make_prompt, take, tokens_of
from tests.model_zoo import VOCAB_SIZE

END = 2  # <|im_end|> of the zoo's tokenizer
SENTENCES = (
    [10, 11, 12, 13, 14, 15, 16, 17, 20],
    [10, 11, 12, 30],
    [40, 41, 42, 43, 44, 45],
    [50, 60],
    [50, 61, 62],
)


class OneOf:
    """A constraint: one of the sequences, then the end."""

    def __init__(self, sequences: Sequence[Sequence[int]], *, free_tokens: int = 0) -> None:
        self.sequences = [[*sequence, END] for sequence in sequences]
        self.free_tokens = free_tokens

    def matcher(self) -> "OneOfMatcher":
        return OneOfMatcher(self)


class OneOfMatcher:
    """The first `free_tokens` may be anything."""

    def __init__(self, constraint: OneOf) -> None:
        self._constraint = constraint
        self._left = [list(sequence) for sequence in constraint.sequences]
        self._free = constraint.free_tokens
        self.is_terminated = False

    def fill(self, mask: Mask) -> bool:
        if self._free:
            return False
        mask.fill(0)
        for sequence in self._left:
            mask.view(np.uint32)[sequence[0] // 32] |= np.uint32(1 << (sequence[0] % 32))
        return True

    def accept(self, token_id: int) -> bool:
        if self._free:
            self._free -= 1
            return True
        self._left = [sequence[1:] for sequence in self._left if sequence[0] == token_id]
        self.is_terminated = any(not sequence for sequence in self._left)
        return bool(self._left)


def request(
    name: str, model: str, prompt: list[int], constraint: OneOf | None = None, **sampling: object
) -> GenerationRequest:
    options = {"max_tokens": 24, "temperature": 1.0, "seed": 1} | sampling
    return GenerationRequest(
        name,
        model,
        tuple(prompt),
        SamplingParams(**options),
        constraint=constraint,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def engine(zoo: Callable[..., Path]) -> Iterator[Engine]:
    with Engine(EngineConfig(max_num_sequences=8)) as engine:
        for kind in ("qwen3", "gemma3_text"):
            engine.load(kind, folder=zoo(kind))
        yield engine
        engine.check_integrity()


@pytest.mark.parametrize("model", ["qwen3", "gemma3_text"])
def test_every_constrained_answer_is_of_the_grammar_and_ends_with_it(engine: Engine, model: str) -> None:
    seen = set()
    for seed in range(12):
        deltas = take(
            engine.submit(request(f"c{model}{seed}", model, make_prompt(1, 9), OneOf(SENTENCES), seed=seed))
        )
        assert tokens_of(deltas) in [list(sentence) for sentence in SENTENCES]
        assert deltas[-1].finish_reason == "stop"
        seen.add(tuple(tokens_of(deltas)))
    assert len(seen) > 1


def test_forced_tokens_are_computed_in_spans_and_change_no_token(engine: Engine) -> None:
    """With log-probabilities every token is sampled; without, forced ones are taken from the grammar."""
    for seed in range(8):
        sampled, jumped = (
            engine.submit(
                request(
                    f"j{logprobs}{seed}",
                    "qwen3",
                    make_prompt(seed, 7),
                    OneOf(SENTENCES),
                    seed=seed,
                    logprobs=logprobs,
                )
            )
            for logprobs in (True, False)
        )
        with_logprobs = take(sampled)
        assert [len(delta.logprobs) for delta in with_logprobs[:-1]] == [1] * (len(with_logprobs) - 1)
        assert tokens_of(take(jumped)) == tokens_of(with_logprobs)
    steps = []
    for sentences in (SENTENCES[:1], [[*SENTENCES[0][:at], 99 + at] for at in range(9)] + [SENTENCES[0]]):
        before = engine.stats().steps
        deltas = take(
            engine.submit(
                request(
                    f"s{len(sentences)}",
                    "qwen3",
                    make_prompt(3, 7),
                    OneOf(sentences),
                    logit_bias=dict.fromkeys(SENTENCES[0], 100),
                )
            )
        )
        assert tokens_of(deltas) == list(SENTENCES[0])
        steps.append(engine.stats().steps - before)
    forced, chosen = steps
    assert forced < chosen - 5


def test_a_matcher_is_asked_for_each_mask_once(engine: Engine) -> None:
    """Also where forced tokens end and something is to be chosen."""
    asked: list[tuple[int, ...]] = []

    class Recording(OneOfMatcher):
        def __init__(self, constraint: OneOf) -> None:
            super().__init__(constraint)
            self._so_far: tuple[int, ...] = ()

        def fill(self, mask: Mask) -> bool:
            asked.append(self._so_far)
            return super().fill(mask)

        def accept(self, token_id: int) -> bool:
            self._so_far += (token_id,)
            return super().accept(token_id)

    class Recorded(OneOf):
        def matcher(self) -> OneOfMatcher:
            return Recording(self)

    sentences = [[10, 11, 12, *middle, 15, 16, last] for middle in ([20, 21], [22]) for last in (30, 31)]
    for seed in range(4):
        asked.clear()
        tokens = tokens_of(
            take(
                engine.submit(
                    request(f"once{seed}", "qwen3", make_prompt(4, 9), Recorded(sentences), seed=seed)
                )
            )
        )
        assert tokens in sentences
        assert asked == [tuple(tokens[:count]) for count in range(len(tokens) + 1)]


def test_penalties_and_seeds_see_forced_tokens(engine: Engine) -> None:
    """A row's random numbers and penalties count every token, forced or sampled."""
    sentences = [[10, 11, 12, 13, last] for last in range(70, 90)]
    for seed in range(6):
        options = {"seed": seed, "frequency_penalty": 1.5, "repetition_penalty": 1.3}
        answers = [
            tokens_of(
                take(
                    engine.submit(
                        request(
                            f"p{logprobs}{seed}",
                            "qwen3",
                            make_prompt(2, 12),
                            OneOf(sentences),
                            logprobs=logprobs,
                            **options,
                        )
                    )
                )
            )
            for logprobs in (True, False)
        ]
        assert answers[0] == answers[1]


def test_free_and_constrained_rows_share_a_batch_and_each_is_as_it_is_alone(engine: Engine) -> None:
    def requests(tag: str) -> list[GenerationRequest]:
        constraints = [OneOf(SENTENCES), None, OneOf(SENTENCES, free_tokens=5), None, OneOf([[9] * 20]), None]
        return [
            request(f"{tag}{row}", "qwen3", make_prompt(row, 6 + 5 * row), constraint, seed=row)
            for row, constraint in enumerate(constraints)
        ]

    alone = [tokens_of(take(engine.submit(each))) for each in requests("a")]
    streams = [engine.submit(each) for each in requests("b")]
    assert [tokens_of(take(stream)) for stream in streams] == alone
    assert len(alone[2]) > 5
    assert alone[2][5:] in [list(sentence) for sentence in SENTENCES]
    assert alone[4] == [9] * 20


def test_each_choice_walks_the_grammar_by_itself(engine: Engine) -> None:
    deltas = take(engine.submit(request("n", "qwen3", make_prompt(5, 9), OneOf(SENTENCES), n=6)))
    answers = [tokens_of(deltas, index) for index in range(6)]
    assert all(answer in [list(sentence) for sentence in SENTENCES] for answer in answers)
    assert len({tuple(answer) for answer in answers}) > 1


def test_a_limit_cuts_forced_tokens_as_any_others(engine: Engine) -> None:
    deltas = take(engine.submit(request("l", "qwen3", make_prompt(1, 5), OneOf([[7] * 40]), max_tokens=11)))
    assert tokens_of(deltas) == [7] * 11
    assert deltas[-1].finish_reason == "length"


def test_a_grammar_that_allows_nothing_fails_its_own_request_only(engine: Engine) -> None:
    class Nothing(OneOf):
        def matcher(self) -> OneOfMatcher:
            matcher = OneOfMatcher(self)
            matcher._left = []
            return matcher

    free = engine.submit(request("free", "qwen3", make_prompt(1, 5), max_tokens=12, ignore_eos=True))
    with pytest.raises(GenerationFailed) as raised:
        take(engine.submit(request("dead", "qwen3", make_prompt(2, 5), Nothing([]))))
    assert raised.value.code == "grammar_dead_end"
    assert len(tokens_of(take(free))) == 12


@pytest.mark.parametrize("method", ["fill", "accept"])
def test_a_grammar_engine_that_gives_up_fails_its_own_request_only(engine: Engine, method: str) -> None:
    class GivesUp(OneOf):
        def matcher(self) -> OneOfMatcher:
            matcher = OneOfMatcher(self)
            usual, calls = getattr(matcher, method), iter(range(100))

            def second_time(argument: Any) -> bool:
                if next(calls) == 1:
                    raise GenerationFailed("The grammar engine gave up.", code="grammar_error")
                return bool(usual(argument))

            setattr(matcher, method, second_time)
            return matcher

    free = engine.submit(request("free2", "qwen3", make_prompt(1, 5), max_tokens=12, ignore_eos=True))
    sequences = [[5, 7, 9, 11], [6, 8, 10, 12]]
    with pytest.raises(GenerationFailed, match="gave up"):
        take(engine.submit(request("up", "qwen3", make_prompt(2, 5), GivesUp(sequences))))
    assert len(tokens_of(take(free))) == 12
    engine.check_integrity()


def test_a_preempted_row_goes_on_within_its_grammar(zoo: Callable[..., Path]) -> None:
    """Two long rows that do not fit the KV budget together."""
    letters = [[5 + (3 * i + row) % 200 for i in range(300)] for row in range(2)]
    with Engine(EngineConfig(max_num_sequences=4, kv_budget_bytes=900_000, prefix_cache_bytes=0)) as engine:
        engine.load("qwen3", folder=zoo("qwen3"))
        streams = [
            engine.submit(
                request(f"v{row}", "qwen3", make_prompt(row, 200), OneOf([letters[row]]), max_tokens=400)
            )
            for row in range(2)
        ]
        assert [tokens_of(take(stream)) for stream in streams] == letters
        engine.check_integrity()


def test_the_only_token_of_a_mask_is_found() -> None:
    for token in (0, 31, 32, 63, 200):
        mask = np.zeros(-(-VOCAB_SIZE // 32), dtype=np.int32)
        mask.view(np.uint32)[token // 32] = np.uint32(1 << (token % 32))
        assert only_token(mask) == token
        mask.view(np.uint32)[5] |= np.uint32(1 << 7)
        assert only_token(mask) is None
    assert only_token(np.zeros(3, dtype=np.int32)) is None
