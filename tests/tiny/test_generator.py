"""The generator of training text: the same for a seed, right in itself, and apart from what evaluation draws."""

import json
from itertools import islice
from random import Random

import pytest

from basemlx.engine.tiny.training.cases import FIRST_SEED, MOST_TOOLS, ROWS, case
from basemlx.engine.tiny.training.data.dialogue import Call, Sample
from basemlx.engine.tiny.training.data.mixture import samples
from basemlx.engine.tiny.training.data.naming import Namer, is_reserved
from basemlx.engine.tiny.training.judging import is_right, parsed, thinks_rightly


def made(seed: int, count: int) -> list[Sample]:
    return list(islice(samples(seed), count))


def calls_of(sample: Sample) -> list[Call]:
    return [call for turn in sample.turns for call in turn.calls]


@pytest.fixture(scope="module")
def training() -> list[Sample]:
    return made(5, 600)


def test_a_seed_gives_the_same_text_and_another_seed_gives_another() -> None:
    first, again, other = made(3, 40), made(3, 40), made(4, 40)
    texts = [[sample.prompt() + sample.completion() for sample in each] for each in (first, again, other)]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_a_case_is_the_same_each_time_and_asks_the_same_in_both_modes() -> None:
    for row in ROWS:
        off, on = case(row, 7, thinking=False), case(row, 7, thinking=True)
        assert case(row, 7, thinking=False).prompt() == off.prompt()
        assert on.turns[-1].text() == off.turns[-1].text()
        assert on.completion().startswith("<think>\n")
        assert "<think>" not in off.completion()
        assert case(row, 8, thinking=False).prompt() != off.prompt()


def test_words_of_evaluation_are_never_made_in_training() -> None:
    seen, unseen = Namer(Random(1)), Namer(Random(FIRST_SEED), unseen=True)
    trained = {seen.word() for _ in range(20_000)}
    drawn = {unseen.word() for _ in range(5_000)}
    assert len(drawn) > 2_000
    assert not trained & drawn
    assert all(is_reserved(word) for word in drawn)
    assert not any(is_reserved(word) for word in trained)
    assert not any(
        is_reserved(str(number)) for _ in range(2_000) if (number := seen.integer(0, 10**8)) >= 1000
    )


def test_no_tool_name_of_evaluation_comes_up_in_training(training: list[Sample]) -> None:
    trained = {tool["function"]["name"] for sample in training for tool in sample.tools}
    drawn = {tool["function"]["name"] for number in range(60) for tool in case("call", number, False).tools}
    numbered = {name for name in drawn if name.startswith(("fn_", "tool"))}  # names without a word in them
    assert len(drawn - numbered) > 100
    assert not trained & (drawn - numbered)


def test_every_call_is_of_an_offered_tool_with_arguments_that_its_schema_allows(
    training: list[Sample],
) -> None:
    checked = 0
    for sample in training:
        schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in sample.tools}
        for call in calls_of(sample):
            schema = schemas[call.name]
            assert set(schema.get("required", [])) <= set(call.arguments) <= set(schema["properties"])
            for name, value in call.arguments.items():
                assert_fits(value, schema["properties"][name])
            checked += 1
    assert checked > 300


def assert_fits(value: object, schema: dict[str, object]) -> None:
    kinds: dict[str, type | tuple[type, ...]] = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "array": list,
        "object": dict,
    }
    assert isinstance(value, kinds[str(schema["type"])])
    if schema["type"] in ("integer", "number"):
        assert not isinstance(value, bool)
    if "enum" in schema:
        assert value in schema["enum"]  # type: ignore[operator]


def test_a_string_argument_can_be_read_off_the_conversation(training: list[Sample]) -> None:
    for sample in training:
        if sample.task not in ("call", "calls") or not sample.turns[-1].calls:
            continue
        said = " ".join(turn.content for turn in sample.turns if turn.role == "user")
        for call in sample.turns[-1].calls:
            for value in call.arguments.values():
                assert not isinstance(value, str) or value in said


def test_cases_offer_one_to_eight_tools_and_some_fit_none() -> None:
    drawn = [case("call", number, False) for number in range(120)]
    assert {len(sample.tools) for sample in drawn} == set(range(1, MOST_TOOLS + 1))
    fitting = sum(bool(sample.turns[-1].calls) for sample in drawn)
    assert 60 < fitting < 115


def test_json_answers_have_the_keys_that_were_asked_for(training: list[Sample]) -> None:
    answers = [
        sample for sample in training if sample.task == "json" and sample.turns[-1].content.startswith("{")
    ]
    assert len(answers) > 30
    for sample in answers:
        asked = " ".join(turn.content for turn in sample.turns[:-1])
        assert all(key in asked for key in json.loads(sample.turns[-1].content))


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("thinking", [False, True])
def test_the_right_answer_is_judged_right_and_a_near_miss_wrong(row: str, thinking: bool) -> None:
    for number in range(15):
        sample = case(row, number, thinking)
        written = sample.completion().removesuffix("<|im_end|>")
        answer = parsed(written)
        assert is_right(answer, sample)
        assert thinks_rightly(answer, thinking)
        assert not thinks_rightly(answer, not thinking)
        assert not is_right(parsed(written + " And more."), sample)
        if sample.turns[-1].calls:
            assert not is_right(parsed(written.replace('{"name": "', '{"name": "x', 1)), sample)


def test_the_judge_takes_arguments_in_any_order_but_not_of_another_type() -> None:
    sample = next(
        sample
        for number in range(100)
        if (calls := (sample := case("call", number, False)).turns[-1].calls)
        and len(calls[0].arguments) > 1
        and any(type(value) is int for value in calls[0].arguments.values())
    )
    [call] = sample.turns[-1].calls
    turned = Call(call.name, dict(reversed(call.arguments.items())))
    assert is_right(parsed(turned.markup()), sample)
    as_text = {name: str(value) if type(value) is int else value for name, value in call.arguments.items()}
    assert not is_right(parsed(Call(call.name, as_text).markup()), sample)
    assert not is_right(parsed(call.markup() + "\n" + call.markup()), sample)
    assert not is_right(parsed("I will. " + call.markup()), sample)
    assert not is_right(parsed(call.markup().replace("}}", "}")), sample)
