"""The packaged model, through the engine and, side by side, through mlx-lm."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from basemlx.engine.chat.template import ChatTemplate
from basemlx.engine.config import EngineConfig
from basemlx.engine.engine import Engine
from basemlx.engine.runtime import mlx_lm_module, mx
from basemlx.engine.text.tokenizer import Tokenizer
from basemlx.engine.tiny import MODEL_DIR
from basemlx.engine.tiny.training.cases import ROWS
from basemlx.engine.tiny.training.evaluate import BARS, Asked, Row, Writer, asked, measured, table
from basemlx.engine.tiny.training.judging import repeats
from basemlx.engine.tiny.training.prompts import GET_WEATHER
from basemlx.engine.tiny.training.rendering import render_prompt

CASES = 2
QWEN3 = Path(__file__).resolve().parents[3] / "shared" / "data" / "tokenizers" / "qwen3"


@pytest.fixture(scope="module")
def writer() -> Iterator[Writer]:
    with Engine(EngineConfig(max_num_sequences=16, max_waiting=64)) as engine:
        yield Writer(engine, engine.load("tiny").name)
        engine.check_integrity()


@pytest.fixture(scope="module")
def answers(writer: Writer) -> list[Asked]:
    return asked(writer, modes=(False,))


def test_it_answers_on_names_it_never_saw(writer: Writer) -> None:
    """A smoke test of the abilities: a model that meets its bars fails one of these now and then, not three of ten."""
    found = measured(writer, list(ROWS), CASES)
    assert {name: row.cases for name, row in found.items()} == dict.fromkeys(ROWS, CASES) | {
        "thinks": 5 * CASES
    }
    assert sum(row.right for name, row in found.items() if name in ROWS) >= 5 * CASES - 2, table(found)
    assert found["thinks"].right == 5 * CASES


def test_it_answers_the_named_prompts_sensibly(answers: list[Asked]) -> None:
    assert [(one.prompt, one.written) for one in answers if not one.sensible] == []


def test_it_never_repeats_itself_endlessly_on_the_named_prompts(answers: list[Asked]) -> None:
    assert [(one.prompt, one.written) for one in answers if one.repeats] == []


@pytest.mark.slow
def test_it_does_what_its_card_says(writer: Writer) -> None:
    """Some way below the bars: forty cases of a row scatter by a few."""
    found = measured(writer, list(ROWS), 40)
    assert all(row.share >= BARS[name] - 0.05 for name, row in found.items()), table(found)


@pytest.mark.slow
def test_it_answers_the_named_prompts_sensibly_when_thinking(writer: Writer) -> None:
    assert [(one.prompt, one.written) for one in asked(writer, modes=(True,)) if not one.ok] == []


def test_repetition_is_noticed_where_there_is_some() -> None:
    assert repeats("and so on and on it went again " * 4)
    assert not repeats("one two three four five six seven eight " * 2)


def test_a_row_below_its_bar_is_named_in_the_table() -> None:
    row = Row()
    for number in range(100):
        row.count(number >= 12, said=[])
    assert row.share == 0.88
    low, high = row.interval()
    assert 0.80 < low < 0.88 < high < 0.94
    assert "below" in table({"json": row})
    assert BARS["json"] == 0.90


def conversations() -> list[tuple[str, list[dict[str, Any]], list[dict[str, Any]] | None]]:
    call = {"type": "function", "function": {"name": "get_weather", "arguments": {"location": "Köln"}}}
    thought = {"role": "assistant", "content": "Hi!", "reasoning_content": "They greet."}
    return [
        ("a question", [{"role": "user", "content": "Hi"}], None),
        (
            "a system prompt",
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
            None,
        ),
        ("tools", [{"role": "user", "content": "Weather?"}], [GET_WEATHER]),
        (
            "tools and a system prompt",
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Weather?"}],
            [GET_WEATHER],
        ),
        (
            "earlier turns",
            [{"role": "user", "content": "Hi"}, thought, {"role": "user", "content": "And?"}],
            None,
        ),
        (
            "a call and two results",
            [
                {"role": "user", "content": "Weather?"},
                {"role": "assistant", "content": "", "tool_calls": [call, call]},
                {"role": "tool", "content": "sunny"},
                {"role": "tool", "content": '{"degrees": 3}'},
            ],
            [GET_WEATHER],
        ),
        (
            "a tool loop with thoughts",
            [
                {"role": "user", "content": "Weather?"},
                {"role": "assistant", "content": "", "reasoning_content": "I look.", "tool_calls": [call]},
                {"role": "tool", "content": "sunny"},
            ],
            [GET_WEATHER],
        ),
    ]


@pytest.mark.skipif(not QWEN3.is_dir(), reason="Qwen3's own template is not on this machine")
@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize(
    ("messages", "tools"), [case[1:] for case in conversations()], ids=[case[0] for case in conversations()]
)
def test_its_template_renders_what_qwen3s_does(
    messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, thinking: bool
) -> None:
    theirs = ChatTemplate.from_folder(QWEN3, Tokenizer.from_folder(QWEN3))
    assert theirs is not None
    wanted = theirs.render(with_json_arguments(messages), tools=tools, enable_thinking=thinking)
    assert render_prompt(messages, tools, thinking) == wanted
    ours = ChatTemplate.from_folder(MODEL_DIR, Tokenizer.from_folder(MODEL_DIR))
    assert ours is not None
    assert ours.render(with_json_arguments(messages), tools=tools, enable_thinking=thinking) == wanted


def with_json_arguments(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As they come in over the API: arguments as a JSON text."""
    made = json.loads(json.dumps(messages))
    for message in made:
        for call in message.get("tool_calls", []):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return list(made)


def test_mlx_lm_reads_the_folder_and_computes_what_the_unpacked_weights_give() -> None:
    """The packed matrices against the same matrices unpacked to floats, in one forward each."""
    model, described = mlx_lm_module("utils").load_model(MODEL_DIR)
    ids = mx.array(
        [Tokenizer.from_folder(MODEL_DIR).encode("<|im_start|>user\nList three primes.<|im_end|>\n")]
    )
    model.set_dtype(mx.float32)
    packed = np.array(model(ids))
    qwen3 = mlx_lm_module("models.qwen3")
    plain = qwen3.Model(qwen3.ModelArgs.from_dict(described))
    stored: Any = mx.load(str(MODEL_DIR / "model.safetensors"))
    weights = []
    for name, array in stored.items():
        stem = name.removesuffix("weight")
        if name.endswith("weight") and stem + "scales" in stored:
            scales, biases = (stored[stem + part].astype(mx.float32) for part in ("scales", "biases"))
            array = mx.dequantize(array, scales, biases, group_size=64, bits=4)
        if not name.endswith(("scales", "biases")):
            weights.append((name, array.astype(mx.float32)))
    plain.load_weights(weights)
    unpacked = np.array(plain(ids))
    assert np.abs(packed - unpacked).max() < 1e-2
    assert (packed.argmax(-1) == unpacked.argmax(-1)).all()
