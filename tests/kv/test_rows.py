"""KV rows against mlx-lm's own generation: rows that join, leave, fork and come back must not change any token."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from basemlx.engine.kv.checkpointed import CheckpointedRows
from basemlx.engine.kv.choose import choose_rows
from basemlx.engine.kv.ragged import RaggedRows
from basemlx.engine.kv.rows import KVRows
from basemlx.engine.runtime import mlx_lm_module, mx
from tests.model_zoo import VOCAB_SIZE

KINDS = ["qwen3", "llama", "qwen3_moe", "gemma3_text", "qwen3_next", "lfm2", "mamba2"]
PROMPTS = [[3 + (7 * i + 5 * row) % 250 for i in range(length)] for row, length in enumerate((5, 40, 17, 70))]


def load(folder: Path) -> Any:
    model, _ = mlx_lm_module("utils").load_model(folder)
    return model


def rows_of(model: Any) -> KVRows:
    make_cache = mlx_lm_module("models.cache").make_prompt_cache
    return choose_rows(model, lambda: make_cache(model), VOCAB_SIZE)


def reference(model: Any, prompt: list[int], count: int) -> list[int]:
    step = mlx_lm_module("generate").generate_step
    return [int(token) for token, _ in step(mx.array(prompt), model, max_tokens=count)]


class Driver:
    """Greedy decoding over rows, as the runner does it but in lockstep."""

    def __init__(self, model: Any, rows: KVRows) -> None:
        self.model, self.rows = model, rows
        self.tokens: dict[int, list[int]] = {}

    def join(self, key: int, prompt: list[int], chunk: int = 16) -> None:
        self.rows.open(key, [], len(prompt))
        self.prefill(key, prompt, 0, chunk)

    def prefill(self, key: int, prompt: list[int], start: int, chunk: int = 16) -> None:
        for at in range(start, len(prompt) - 1, chunk):
            part = prompt[at : min(at + chunk, len(prompt) - 1)]
            self.rows.prefill(self.model, [key], mx.array([part]), [len(part)])
            mx.eval(self.rows.layers([key]))
        self.tokens[key] = list(prompt)

    def step(self) -> None:
        keys = self.rows.decode_order(list(self.tokens))
        logits = self.rows.decode(
            self.model, keys, mx.array([[self.tokens[key][-1]] for key in keys]), [1] * len(keys)
        )
        for key, token in zip(keys, mx.argmax(logits[:, -1], axis=-1).tolist(), strict=True):
            self.tokens[key].append(token)

    def leave(self, key: int) -> list[int]:
        self.rows.close(key)
        return self.tokens.pop(key)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_join_and_leave_give_the_tokens_each_gives_alone(
    zoo: Callable[..., Path], kind: str
) -> None:
    model = load(zoo(kind))
    expected = [prompt + reference(model, prompt, 24) for prompt in PROMPTS]
    driver = Driver(model, rows_of(model))
    for key, prompt in enumerate(PROMPTS):  # each joins three steps after the one before
        driver.join(key, prompt)
        for _ in range(3):
            driver.step()
    finished = [driver.leave(1)]
    for _ in range(9):
        driver.step()
    finished = [driver.leave(0), *finished, driver.leave(2), driver.leave(3)]
    for got, prompt, want in zip(finished, PROMPTS, expected, strict=True):
        assert len(got) > len(prompt)
        assert got == want[: len(got)]
    driver.rows.check_integrity()
    assert driver.rows.num_rows == 0


def test_only_models_that_keep_every_position_get_ragged_rows(zoo: Callable[..., Path]) -> None:
    assert {kind: type(rows_of(load(zoo(kind)))) for kind in KINDS} == {
        kind: RaggedRows if kind in ("qwen3", "llama", "qwen3_moe") else CheckpointedRows for kind in KINDS
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_filled_from_a_snapshot_goes_on_as_the_original(zoo: Callable[..., Path], kind: str) -> None:
    model = load(zoo(kind))
    prompt = PROMPTS[3]
    driver = Driver(model, rows_of(model))
    driver.join(1, prompt[:41])
    kept = driver.rows.snapshot(1, 0, 40)
    driver.step()  # the original changes after the snapshot was taken
    driver.rows.open(2, [(kept, 40)], len(prompt))
    assert driver.rows.length(2) == 40
    driver.prefill(2, prompt, 40)
    del driver.tokens[1]
    driver.rows.close(1)
    for _ in range(12):
        driver.step()
    assert driver.leave(2) == prompt + reference(model, prompt, 12)


@pytest.mark.parametrize("kind", ["qwen3", "gemma3_text", "qwen3_next"])
def test_forked_rows_each_go_on_alone(zoo: Callable[..., Path], kind: str) -> None:
    model = load(zoo(kind))
    prompt = PROMPTS[1]
    driver = Driver(model, rows_of(model))
    driver.join(1, prompt)
    driver.rows.fork(1, [2, 3])
    other = [*prompt[:-1], 9]  # a fork that is given another next token
    driver.tokens |= {2: list(prompt), 3: list(other)}
    for _ in range(10):
        driver.step()
    assert driver.tokens[1] == driver.tokens[2] == prompt + reference(model, prompt, 10)
    assert driver.tokens[3] == other + reference(model, other, 10)


def test_spans_of_several_tokens_with_rollback_give_the_same_tokens(zoo: Callable[..., Path]) -> None:
    """What speculation needs of ragged rows: a span of one true and two wrong tokens, cut back after each step."""
    model = load(zoo("qwen3"))
    rows = rows_of(model)
    driver = Driver(model, rows)
    for key, prompt in enumerate(PROMPTS):
        driver.join(key, prompt)
    for _ in range(8):
        keys = rows.decode_order(list(driver.tokens))
        spans = mx.array([[driver.tokens[key][-1], 7, 8] for key in keys])
        chosen = mx.argmax(rows.decode(model, keys, spans, [3] * len(keys)), axis=-1).tolist()
        for key, tokens in zip(keys, chosen, strict=True):
            rows.truncate(key, rows.length(key) - 2)
            driver.tokens[key].append(tokens[0])
    for key, prompt in enumerate(PROMPTS):
        assert driver.tokens[key] == prompt + reference(model, prompt, 8)


def test_several_prompts_share_one_padded_prefill(zoo: Callable[..., Path]) -> None:
    model = load(zoo("llama"))
    driver = Driver(model, rows_of(model))
    prompts = PROMPTS[:3]
    for key, prompt in enumerate(prompts):
        driver.rows.open(key, [], len(prompt))
    keys = driver.rows.group([0, 1, 2])
    assert keys == [0, 1, 2]
    counts = [len(prompt) - 1 for prompt in prompts]
    padded = [prompt[:-1] + [0] * (max(counts) - len(prompt) + 1) for prompt in prompts]
    driver.rows.prefill(model, keys, mx.array(padded), counts)
    mx.eval(driver.rows.layers(keys))
    driver.tokens = {key: list(prompt) for key, prompt in enumerate(prompts)}
    for _ in range(8):
        driver.step()
    for key, prompt in enumerate(prompts):
        assert driver.tokens[key] == prompt + reference(model, prompt, 8)


@pytest.mark.parametrize("kind", ["qwen3", "gemma3_text"])
def test_a_prompt_is_computed_layer_by_layer_while_other_rows_decode(
    zoo: Callable[..., Path], kind: str
) -> None:
    model = load(zoo(kind))
    expected = PROMPTS[3] + reference(model, PROMPTS[3], 6)
    driver = Driver(model, rows_of(model))
    driver.join(1, PROMPTS[0])
    driver.step()
    driver.rows.open(2, [], len(PROMPTS[3]))
    driver.rows.prefill(model, [2], mx.array([PROMPTS[3][:-1]]), [len(PROMPTS[3]) - 1])
    for layer in range(driver.rows.num_layers):
        mx.eval(driver.rows.layers([2])[layer])
        driver.step()
    driver.tokens[2] = list(PROMPTS[3])
    for _ in range(6):
        driver.step()
    assert driver.tokens[2] == expected
    count = len(driver.tokens[1]) - len(PROMPTS[0])
    assert driver.tokens[1] == PROMPTS[0] + reference(model, PROMPTS[0], count)


def test_a_decode_step_waits_for_no_prompt_and_a_layer_for_none_behind_it(zoo: Callable[..., Path]) -> None:
    """Seen by the memory: a rectangle has none before something of it is computed."""
    model = load(zoo("qwen3"))
    driver = Driver(model, rows_of(model))
    driver.join(1, PROMPTS[0])
    driver.step()
    driver.rows.open(2, [], 16384)
    driver.rows.prefill(model, [2], mx.array([PROMPTS[3]]), [len(PROMPTS[3])])
    start = mx.get_active_memory()
    layer_bytes = driver.rows.bytes_for(1, 16384) / driver.rows.num_layers
    driver.step()
    assert mx.get_active_memory() - start < 0.5 * layer_bytes
    for computed, layer in enumerate(driver.rows.layers([2])):
        mx.eval(layer)
        assert computed + 0.5 < (mx.get_active_memory() - start) / layer_bytes < computed + 1.5


class Forgetful:
    """A model that gives every row of a ragged forward the first one's position, or no answer for the last."""

    def __init__(self, model: Any, fault: str) -> None:
        self.model, self.fault, self.layers = model, fault, model.layers

    def __call__(self, tokens: mx.array, cache: Any) -> mx.array:
        geometry = getattr(cache[0], "geometry", None)
        if geometry is None or geometry.uniform:
            return self.model(tokens, cache=cache)
        if self.fault == "position":
            geometry.offset = geometry.lengths[0]
        logits = self.model(tokens, cache=cache)
        if self.fault == "nan":
            logits[-1] = float("nan")
        return logits


@pytest.mark.parametrize("fault", ["position", "nan"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_that_cannot_tell_rows_apart_gets_its_own_caches(
    zoo: Callable[..., Path], fault: str, dtype: str
) -> None:
    model = load(zoo("qwen3", dtype=dtype))
    assert isinstance(rows_of(model), RaggedRows)
    assert isinstance(rows_of(Forgetful(model, fault)), CheckpointedRows)


def test_prompts_that_are_ready_together_change_over_without_a_copy(zoo: Callable[..., Path]) -> None:
    model = load(zoo("qwen3"))
    driver = Driver(model, rows_of(model))
    for key, prompt in enumerate(PROMPTS):
        driver.join(key, prompt)
    held, start = driver.rows.nbytes, mx.get_active_memory()
    mx.reset_peak_memory()
    assert sorted(driver.rows.decode_order(list(driver.tokens))) == [0, 1, 2, 3]
    assert driver.rows.nbytes == held
    assert mx.get_peak_memory() - start < held / 4


def test_two_rectangles_hold_little_more_than_the_rows_in_them(zoo: Callable[..., Path]) -> None:
    model = load(zoo("qwen3"))
    rows = rows_of(model)
    driver = Driver(model, rows)
    for key in range(8):
        driver.join(key, [3 + key] * 600)
    waiting = driver.tokens.pop(7)
    driver.step()  # seven go over, one prompt stays behind
    assert rows.nbytes <= 1.2 * rows.bytes_for(8, 601)
    driver.tokens[7] = waiting
    driver.step()
    assert rows.nbytes <= 1.2 * rows.bytes_for(8, 601)
