"""Headers, estimates and adapters: what is decided from files before anything of a model is in memory."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from basemlx.engine import memory
from basemlx.engine.config import EngineConfig
from basemlx.engine.engine import Engine
from basemlx.engine.errors import InvalidRequest, ModelCorrupt, ModelLoadFailed
from basemlx.engine.models.adapter import check_adapter
from basemlx.engine.models.estimate import estimate_memory
from basemlx.engine.models.folder import check_folder
from basemlx.engine.runtime import mlx_lm_module, mx, tree_flatten
from tests.core.conftest import make_prompt, make_request, take, tokens_of
from tests.embeddings.zoo import write_encoder
from tests.models.mutants import try_mutants

Zoo = Callable[..., Path]


MUTANTS = [
    ("qwen3", 4),
    ("qwen3", None),
    ("llama", 8),
    ("qwen3_moe", 4),
    ("gemma3_text", None),
    ("qwen3_next", 4),
]
MUTANTS += [("lfm2", None), ("mamba2", None)]


@pytest.fixture(scope="module")
def sources(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Models of every architecture there is here, an encoder among them."""
    encoder = tmp_path_factory.mktemp("encoder") / "bert"
    write_encoder(encoder)
    return [*(zoo(kind, bits=bits) for kind, bits in MUTANTS), encoder]


def check_mutants(sources: list[Path], count: int, seed: int) -> None:
    """No mutant ends the process that loads it, and each is refused in words or answers."""
    outcome = try_mutants(sources, seed=seed, count=count)
    assert outcome.deaths == []
    assert outcome.counts.total() == count
    assert set(outcome.counts) == {"refused", "failed", "loaded"}
    assert outcome.counts["refused"] > 0.3 * count
    assert outcome.longest < 500


def test_models_with_mutated_headers_and_configs_never_end_the_process(sources: list[Path]) -> None:
    check_mutants(sources, 120, seed=4)  # unchecked, five of these end the process


@pytest.mark.slow
def test_ten_thousand_models_with_mutated_headers_and_configs_never_end_the_process(
    sources: list[Path],
) -> None:
    with ThreadPoolExecutor() as threads:  # a process each, which share the numbers
        list(threads.map(lambda seed: check_mutants(sources, 5_000, seed), (2, 3)))


def test_what_ends_the_process_is_found_and_the_rest_goes_on(sources: list[Path]) -> None:
    """Else the tests above would pass by seeing nothing."""
    outcome = try_mutants(sources[:1], seed=1, count=6, killed=(2, 5))
    assert [death.partition(":")[0] for death in outcome.deaths] == ["exit -9 at 2", "exit -9 at 5"]
    assert outcome.counts.total() == 4


@pytest.mark.parametrize(("kind", "bits"), [("qwen3", None), ("qwen3", 4), ("llama", 8), ("qwen3_moe", 4)])
def test_estimated_weights_are_what_they_take_in_memory(zoo: Zoo, kind: str, bits: int | None) -> None:
    folder = zoo(kind, bits=bits, dtype="bfloat16")
    estimate = estimate_memory(
        check_folder(folder), precision="dense", context_tokens=256, prefill_chunk_tokens=64
    )
    with Engine(EngineConfig(warm_up=False)) as engine:
        engine.load("model", folder=folder)
        loaded = engine.loaded("model")
        assert loaded.precision == "dense"
        assert loaded.weights_bytes == pytest.approx(estimate.weights_bytes, rel=0.01)


def test_an_answer_of_the_longest_prompt_stays_within_the_estimate(zoo: Zoo) -> None:
    folder = zoo("qwen3")
    config = EngineConfig(max_num_sequences=1, prefix_cache_bytes=0, max_context_tokens=512)
    estimate = estimate_memory(
        check_folder(folder), precision="dense", context_tokens=512, prefill_chunk_tokens=2048
    )
    with Engine(config) as engine:
        before = engine.stats().active_bytes
        engine.load("model", folder=folder)
        memory.reset_peak()
        take(engine.submit(make_request("model", make_prompt(1, 490), max_tokens=8)))
        peak = engine.stats().peak_bytes - before
        assert peak <= estimate.total_bytes * 1.1, f"{peak} against {estimate}"


def write_adapter(folder: Path, source: Path, *, scale: float = 4.0, rank: int = 4) -> Path:
    """A LoRA adapter for the model in `source`, random, as mlx_lm.lora saves it."""
    folder.mkdir()
    parameters = {
        "rank": rank,
        "scale": scale,
        "dropout": 0.0,
        "keys": ["self_attn.q_proj", "self_attn.v_proj"],
    }
    config = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    model, _ = mlx_lm_module("utils").load_model(source)
    mlx_lm_module("tuner.utils").linear_to_lora_layers(model, 2, parameters)
    mx.random.seed(9)
    weights = {
        name: mx.random.normal(value.shape) * 0.3
        for name, value in tree_flatten(model.parameters())
        if name.rpartition(".")[2] in ("lora_a", "lora_b")
    }
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    return folder


@pytest.fixture(params=[None, 4])
def bits(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_an_adapter_changes_what_the_model_says_as_in_mlx_lm(
    zoo: Zoo, tmp_path: Path, bits: int | None
) -> None:
    folder = zoo("qwen3", bits=bits)
    adapter = write_adapter(tmp_path / "adapter", folder)
    prompt = make_prompt(1, 30)
    utils = mlx_lm_module("utils")
    expected = []
    for path in (None, adapter):
        model, _ = utils.load_model(folder)
        if path is not None:
            mlx_lm_module("tuner.utils").load_adapters(model, str(path))
            model.eval()
        tokens = list(prompt)
        for _ in range(6):
            tokens.append(int(mx.argmax(model(mx.array([tokens]))[0, -1]).item()))
        expected.append(tokens[len(prompt) :])
    with Engine(EngineConfig(max_num_sequences=1)) as engine:
        engine.load("plain", folder=folder)
        engine.load("tuned", folder=folder, adapter=adapter)
        found = [
            tokens_of(take(engine.submit(make_request(name, prompt, max_tokens=6))))
            for name in ("plain", "tuned")
        ]
    assert found[0] != found[1]
    assert found == expected


def test_a_loaded_model_is_not_taken_for_one_with_other_files(zoo: Zoo, tmp_path: Path) -> None:
    folder = zoo("qwen3")
    adapter = write_adapter(tmp_path / "adapter", folder)
    with Engine(EngineConfig(warm_up=False)) as engine:
        engine.load("model", folder=folder)
        assert engine.load("model", folder=folder).name == engine.load("model").name
        for options, words in (
            ({"adapter": adapter}, "without that adapter"),
            ({"folder": zoo("llama")}, "from another folder"),
        ):
            with pytest.raises(InvalidRequest, match=words):
                engine.load("model", **options)
        engine.unload("model")
        engine.load("model", folder=folder, adapter=adapter)
        assert engine.load("model", adapter=adapter).loaded


def test_adapters_that_are_none_are_refused_by_name(zoo: Zoo, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", zoo("qwen3"))
    with pytest.raises(ModelLoadFailed, match="not a folder"):
        check_adapter(tmp_path / "nowhere")
    config = json.loads((adapter / "adapter_config.json").read_text())
    for change, words in (
        ({"fine_tune_type": "full"}, "whole fine-tuned model"),
        ({"num_layers": 10**9}, "num_layers"),
        ({"lora_parameters": {"rank": 10**9, "scale": 1.0}}, "rank must be"),
    ):
        (adapter / "adapter_config.json").write_text(json.dumps(config | change))
        with pytest.raises(ModelLoadFailed, match=words):
            check_adapter(adapter)
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with Engine(EngineConfig(warm_up=False)) as engine:
        with pytest.raises(ModelCorrupt, match="does not fit the model"):
            engine.load("other", folder=zoo("qwen3", hidden_size=96), adapter=adapter)
        assert engine.stats().models_loaded == 0
    (adapter / "adapters.safetensors").rename(adapter / "adapter_model.safetensors")
    with pytest.raises(ModelLoadFailed, match="PEFT"):
        check_adapter(adapter)
