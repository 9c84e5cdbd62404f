"""What is found on a made-up machine: caches and folders as other programs leave them, whole, broken and hostile."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from basemlx.engine.config import EngineConfig
from basemlx.engine.engine import Engine
from basemlx.engine.environment import Environment
from basemlx.engine.errors import InvalidRequest, ModelNotFound
from basemlx.engine.models import discovery as module
from basemlx.engine.models.catalogue import catalogue, guess, repository_of, suggest
from basemlx.engine.models.discovery import Discovery, ModelPlaces, is_hub_name, lm_studio_folders
from basemlx.engine.models.names import find_model
from basemlx.engine.models.sources import ModelSources
from tests.embeddings.zoo import write_encoder, write_recipe
from tests.models.conftest import put_in_hub_cache

Zoo = Callable[..., Path]


def names(places: ModelPlaces) -> dict[str, str]:
    return {model.name: model.source for model in Discovery(places).scan() if model.problem is None}


def problem(places: ModelPlaces, name: str) -> str:
    model = Discovery(places).find(name)
    assert model is not None
    assert model.problem is not None
    return model.problem


def test_models_of_every_place_are_found_under_one_name_each(places: ModelPlaces, zoo: Zoo) -> None:
    put_in_hub_cache(places.hub_cache, "org/cached", zoo("qwen3"))
    put_in_hub_cache(places.hub_cache, "org/both", zoo("qwen3"))
    shutil.copytree(zoo("llama"), places.lm_studio[0] / "org" / "both")
    shutil.copytree(zoo("llama"), places.lm_studio[0] / "lmstudio-community" / "studio")
    shutil.copytree(zoo("llama"), places.lm_studio[1] / "org" / "old")
    shutil.copytree(zoo("qwen3"), places.folders[0] / "flat")
    shutil.copytree(zoo("qwen3"), places.folders[0] / "me" / "nested")
    assert names(places) == {
        "org/cached": "huggingface",
        "org/both": "huggingface",
        "lmstudio-community/studio": "lmstudio",
        "org/old": "lmstudio",
        "flat": "folder",
        "me/nested": "folder",
    }


def test_a_model_is_described_by_its_files(places: ModelPlaces, zoo: Zoo) -> None:
    put_in_hub_cache(places.hub_cache, "mlx-community/Qwen3-8B-4bit", zoo("qwen3", bits=4))
    [model] = Discovery(places).scan()
    assert (model.quantization, model.context_tokens, model.model_type) == ("4-bit", 2048, "qwen3")
    assert model.capabilities == ("chat", "completion")
    assert model.aliases == ("qwen3-8b",)
    assert model.size_bytes == (zoo("qwen3", bits=4) / "model.safetensors").stat().st_size


def retyped(folder: Path, model_type: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": model_type}))


def test_what_is_listed_as_an_embedder_is_what_would_be_loaded_as_one(places: ModelPlaces, zoo: Zoo) -> None:
    put_in_hub_cache(places.hub_cache, "org/Qwen3-Embedding-tiny", zoo("qwen3"))
    put_in_hub_cache(places.hub_cache, "org/chat", zoo("qwen3"))
    put_in_hub_cache(places.hub_cache, "embedded-lab/Qwen3-chat", zoo("qwen3"))
    write_recipe(
        shutil.copytree(zoo("llama"), places.folders[0] / "with-recipe"),
        {"pooling_mode_lasttoken": True},
        normalize=True,
    )
    write_encoder(places.folders[0] / "encoder")
    for architecture in ("mpnet", "distilbert", "t5"):
        write_encoder(places.folders[0] / architecture)
        retyped(places.folders[0] / architecture, architecture)
    (places.folders[0] / "distilbert" / "modules.json").unlink()
    listed = {model.name: model for model in Discovery(places).scan()}
    embedders = {name for name, model in listed.items() if model.capabilities == ("embedding",)}
    assert embedders == {"org/Qwen3-Embedding-tiny", "with-recipe", "encoder"}
    others = {name for name, model in listed.items() if "chat" in model.capabilities}
    assert others == {"org/chat", "embedded-lab/Qwen3-chat"}
    for name in ("mpnet", "distilbert", "t5"):
        assert listed[name].capabilities == ()
        assert f"The architecture {name!r} is not one" in problem(places, name)
    with Engine(EngineConfig(warm_up=False), discovery=Discovery(places)) as engine:
        for name in embedders:
            assert engine.embed(name, "the fox").vectors.shape[0] == 1
        for name in others:
            with pytest.raises(InvalidRequest, match="was not trained to embed"):
                engine.embed(name, "the fox")


def test_an_embedder_that_pools_as_nobody_here_does_is_listed_with_the_reason_until_it_is_changed(
    places: ModelPlaces, zoo: Zoo
) -> None:
    discovery = Discovery(places)
    for name in ("dense", "mean"):
        folder = shutil.copytree(zoo("llama"), places.folders[0] / name)
        write_recipe(folder, {"pooling_mode_lasttoken": True}, normalize=True)
    modules = places.folders[0] / "dense" / "modules.json"
    steps = json.loads(modules.read_text())
    modules.write_text(
        json.dumps([*steps, {"type": "sentence_transformers.models.Dense", "path": "3_Dense"}])
    )
    pooling = places.folders[0] / "mean" / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    dense, mean = discovery.scan()
    assert "a step 'Dense'" in (dense.problem or "")
    assert "'llama' is none of them" in (mean.problem or "")
    pooling.write_text(json.dumps({"pooling_mode_lasttoken": True}))
    modules.write_text(json.dumps(steps))
    assert [model.problem for model in discovery.scan()] == [None, None]


def test_a_model_that_is_called_like_a_short_name_is_found_by_it(places: ModelPlaces, zoo: Zoo) -> None:
    put_in_hub_cache(places.hub_cache, repository_of("qwen3-8b"), zoo("qwen3"))
    assert find_model("qwen3-8b", Discovery(places), allow_paths=False).name == repository_of("qwen3-8b")
    own = shutil.copytree(zoo("llama"), places.folders[0] / "qwen3-8b")
    machine = Discovery(places)
    assert find_model("qwen3-8b", machine, allow_paths=False).folder == own
    assert ModelSources(machine).name_of("qwen3-8b") == "qwen3-8b"


def test_what_cannot_be_loaded_is_listed_with_the_reason(places: ModelPlaces, zoo: Zoo) -> None:
    sharded = put_in_hub_cache(places.hub_cache, "org/sharded", zoo("qwen3", shards=3))
    (sharded / "model-00002-of-00003.safetensors").unlink()
    dangling = put_in_hub_cache(places.hub_cache, "org/dangling", zoo("qwen3"))
    (dangling / "model.safetensors").resolve().unlink()
    truncated = put_in_hub_cache(places.hub_cache, "org/truncated", zoo("qwen3"))
    weights = (truncated / "model.safetensors").resolve()
    weights.write_bytes(weights.read_bytes()[:-10])
    gguf = places.lm_studio[0] / "org" / "gguf"
    gguf.mkdir(parents=True)
    (gguf / "model-Q4_K_M.gguf").write_bytes(b"GGUF")
    bare = put_in_hub_cache(places.hub_cache, "org/bare", zoo("qwen3"))
    (bare / "tokenizer.json").unlink()
    assert "00002-of-00003" in problem(places, "org/sharded")
    assert "a file is missing" in problem(places, "org/dangling")
    assert "10 bytes are missing" in problem(places, "org/truncated")
    assert "GGUF" in problem(places, "org/gguf")
    assert "no tokenizer.json" in problem(places, "org/bare")
    assert names(places) == {}
    with pytest.raises(ModelNotFound, match=r"on this machine but cannot be loaded.*00002-of-00003"):
        find_model("org/sharded", Discovery(places), allow_paths=False)
    for model in Discovery(places).scan():
        assert str(places.hub_cache.parent) not in (model.problem or "")


def test_a_whole_copy_elsewhere_counts_for_a_broken_one(places: ModelPlaces, zoo: Zoo) -> None:
    broken = put_in_hub_cache(places.hub_cache, "org/both", zoo("qwen3"))
    (broken / "config.json").resolve().unlink()
    shutil.copytree(zoo("llama"), places.lm_studio[0] / "org" / "both")
    assert names(places) == {"org/both": "lmstudio"}


def test_a_link_that_leads_out_of_the_cache_is_refused(places: ModelPlaces, zoo: Zoo) -> None:
    snapshot = put_in_hub_cache(places.hub_cache, "org/evil", zoo("qwen3"))
    secret = places.hub_cache.parent / "secret.json"
    secret.write_text("{}")
    (snapshot / "chat_template.json").symlink_to(secret)
    assert "outside" in problem(places, "org/evil")


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_that_leads_out_from_a_folder_within_is_refused(
    places: ModelPlaces, zoo: Zoo, what: str
) -> None:
    """Models that embed keep settings in folders within."""
    snapshot = put_in_hub_cache(places.hub_cache, "org/embeds", zoo("qwen3"))
    outside = places.hub_cache.parent / "outside"
    outside.mkdir()
    (outside / "config.json").write_text("{}")
    pooling = snapshot / "1_Pooling"
    if what == "folder":
        pooling.symlink_to(outside)
    else:
        pooling.mkdir()
        (snapshot.parents[1] / "blobs" / "pooling").write_text("{}")
        (pooling / "config.json").symlink_to(Path("../../../blobs/pooling"))
        (pooling / "up").symlink_to(snapshot)
        assert names(places) == {"org/embeds": "huggingface"}
        (pooling / "own.json").symlink_to(outside / "config.json")
    assert "outside" in problem(places, "org/embeds")


def denied(monkeypatch: pytest.MonkeyPatch, target: Path, function: str) -> None:
    """`os.stat` or `os.scandir` of one path fails as it does without permission, which root would have."""
    original = getattr(os, function)

    def fail(path: Any, *args: Any, **options: Any) -> Any:
        if Path(os.fspath(path)) == target:
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *args, **options)

    monkeypatch.setattr(os, function, fail)


def everywhere(places: ModelPlaces, zoo: Zoo) -> dict[str, Path]:
    """A model of each place by name."""
    return {
        "org/cached": put_in_hub_cache(places.hub_cache, "org/cached", zoo("qwen3")),
        "org/studio": Path(shutil.copytree(zoo("qwen3"), places.lm_studio[0] / "org" / "studio")),
        "flat": Path(shutil.copytree(zoo("qwen3"), places.folders[0] / "flat")),
        "me/nested": Path(shutil.copytree(zoo("qwen3"), places.folders[0] / "me" / "nested")),
    }


@pytest.mark.parametrize("inside", ["", "config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("name", ["org/cached", "org/studio", "flat", "me/nested"])
def test_what_cannot_be_read_is_listed_so_and_does_not_end_the_scan(
    places: ModelPlaces, zoo: Zoo, monkeypatch: pytest.MonkeyPatch, name: str, inside: str
) -> None:
    folders = everywhere(places, zoo)
    discovery = Discovery(places)
    with monkeypatch.context() as patch:
        denied(patch, folders[name] / inside, "stat" if inside else "scandir")
        found = {model.name: model.problem for model in discovery.scan()}
    assert found.pop(name) == "cannot be read (Permission denied)"
    assert found == dict.fromkeys(set(folders) - {name})
    assert {model.problem for model in discovery.scan()} == {None}, "tried again"


@pytest.mark.parametrize("where", ["folder", "publisher", "note", "snapshots"])
def test_places_that_cannot_be_read_do_not_end_the_scan(
    places: ModelPlaces, zoo: Zoo, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    folders = everywhere(places, zoo)
    target = {
        "folder": places.folders[0] / "config.json",
        "publisher": places.lm_studio[0] / "org",
        "note": folders["org/cached"].parents[1] / ".basemlx.json",
        "snapshots": folders["org/cached"].parent,
    }[where]
    denied(monkeypatch, target, "stat" if target.suffix == ".json" else "scandir")
    found = {model.name: model.problem for model in Discovery(places).scan()}
    lost = {
        "folder": {"flat", "me/nested"},
        "publisher": {"org/studio"},
        "note": set[str](),
        "snapshots": {"org/cached"},
    }[where]
    assert {name for name, problem in found.items() if problem is None} == set(folders) - lost
    assert where != "snapshots" or found["org/cached"] == "cannot be read (Permission denied)"


@pytest.mark.parametrize("gone", ["", "config.json", "model.safetensors"])
def test_what_is_removed_while_it_is_looked_at_does_not_end_the_scan(
    places: ModelPlaces, zoo: Zoo, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    folders = everywhere(places, zoo)
    original = module.check_folder

    def check(folder: Path) -> Any:
        if folder == folders["flat"]:
            (folder / gone).unlink() if gone else shutil.rmtree(folder)
        return original(folder)

    monkeypatch.setattr(module, "check_folder", check)
    found = {model.name: model.problem for model in Discovery(places).scan()}
    assert found.pop("flat", None) is None or gone
    assert found == dict.fromkeys(set(folders) - {"flat"})


def test_data_sets_and_other_folders_are_no_models(places: ModelPlaces, zoo: Zoo) -> None:
    (places.hub_cache / "datasets--org--data" / "snapshots" / "main").mkdir(parents=True)
    (places.hub_cache / "models--org--empty" / "snapshots" / "abc").mkdir(parents=True)
    (places.hub_cache / "models--..--..").mkdir()
    readme = places.hub_cache / "models--org--card" / "snapshots" / "abc"
    readme.mkdir(parents=True)
    (readme / "README.md").write_text("no model")
    assert Discovery(places).scan() == ()


def test_changes_are_noticed_and_a_scan_without_any_reads_nothing(
    places: ModelPlaces, zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    discovery = Discovery(places)
    assert discovery.scan() == ()
    snapshot = put_in_hub_cache(places.hub_cache, "org/a", zoo("qwen3"))
    [model] = discovery.scan()
    read: list[Path] = []
    original = module.check_folder
    monkeypatch.setattr(module, "check_folder", lambda folder: (read.append(folder), original(folder))[1])
    assert discovery.scan() == (model,)
    assert read == []
    config = (snapshot / "config.json").resolve()
    content = json.loads(config.read_text()) | {"max_position_embeddings": 512}
    config.write_text(json.dumps(content))
    assert [found.context_tokens for found in discovery.scan()] == [512]
    assert read == [snapshot]
    shutil.rmtree(places.hub_cache / "models--org--a")
    assert discovery.scan() == ()


def test_one_name_is_found_as_in_a_scan_and_no_other_model_is_looked_into(
    places: ModelPlaces, zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        put_in_hub_cache(places.hub_cache, f"org/m{number}", zoo("qwen3"))
    (put_in_hub_cache(places.hub_cache, "org/both", zoo("qwen3")) / "model.safetensors").resolve().unlink()
    shutil.copytree(zoo("llama"), places.lm_studio[0] / "org" / "both")
    shutil.copytree(zoo("llama"), places.folders[0] / "qwen3-8b")
    shutil.copytree(zoo("qwen3"), places.folders[0] / "me" / "nested")
    looked: list[Path] = []
    signature = module._signature
    monkeypatch.setattr(module, "_signature", lambda folder: (looked.append(folder), signature(folder))[1])
    machine = Discovery(places)
    everything = machine.scan()
    assert len(looked) > len(everything) == 6
    for model in everything:
        looked.clear()
        assert Discovery(places).find(model.name) == machine.find(model.name) == model
        assert len(looked) == (4 if model.name == "org/both" else 2)
    looked.clear()
    assert machine.find("qwen3-0.6b") is None
    assert looked == []


def test_lm_studio_is_looked_for_where_its_settings_say_it_keeps_models(tmp_path: Path) -> None:
    usual = (tmp_path / ".lmstudio" / "models", tmp_path / ".cache" / "lm-studio" / "models")
    assert lm_studio_folders(tmp_path) == usual
    (tmp_path / ".lmstudio").mkdir()
    settings = tmp_path / ".lmstudio" / "settings.json"
    for text, expected in (
        (json.dumps({"downloadsFolder": "/disk/models"}), (Path("/disk/models"), *usual)),
        (json.dumps({"downloadsFolder": "relative"}), usual),
        (json.dumps({"downloadsFolder": 7}), usual),
        ("not json", usual),
    ):
        settings.write_text(text)
        assert lm_studio_folders(tmp_path) == expected
    (tmp_path / ".lmstudio-home-pointer").write_text("/elsewhere/lmstudio\n")
    assert lm_studio_folders(tmp_path)[0] == Path("/elsewhere/lmstudio/models")


def test_folders_of_ones_own_come_from_the_environment() -> None:
    value = os.pathsep.join(["/models", "", "/more"])
    assert Environment.read({"BASEMLX_MODELS": value}).model_folders == (Path("/models"), Path("/more"))
    assert Environment.read({}).model_folders == ()


def test_the_catalogue_is_well_formed() -> None:
    entries = catalogue()
    assert len({entry.name for entry in entries}) == len(entries)
    assert len({entry.repository for entry in entries}) == len(entries)
    assert repository_of("qwen3-4b") == "mlx-community/Qwen3-4B-Instruct-2507-4bit"
    for entry in entries:
        assert is_hub_name(entry.repository)
        assert "/" not in entry.name
        assert entry.name == entry.name.lower()
        assert entry.size_bytes > 10**8
        assert entry.context_tokens >= 4096
        assert set(entry.capabilities) <= {"chat", "tools", "reasoning", "embedding"}
        assert entry.capabilities


def test_a_near_miss_is_suggested_and_never_taken(places: ModelPlaces, zoo: Zoo) -> None:
    put_in_hub_cache(places.hub_cache, "org/Small-Model-4bit", zoo("qwen3"))
    for name in ("org/small-model-4bit", "small-model-4bit", "Small-Model-4Bit"):
        with pytest.raises(ModelNotFound):
            find_model(name, Discovery(places), allow_paths=False)
    with pytest.raises(ModelNotFound, match="Did you mean org/Small-Model-4bit"):
        find_model("smal-model-4bit", Discovery(places), allow_paths=False)
    with pytest.raises(ModelNotFound, match="basemlx pull qwen3-4b"):
        find_model("qwen3-4b", Discovery(places), allow_paths=False)
    assert suggest("qwen3-4", [])[0] == "qwen3-4b"
    assert suggest("nothing at all like that", []) == []


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("Qwen3 4B", "qwen3-4b"),
        ("QWEN3-8B", "qwen3-8b"),
        ("gemma", None),
        ("smollm", "smollm3-3b"),
        ("my-model", "org/My_Model"),
        ("", None),
        ("!!", None),
    ],
)
def test_a_person_may_be_imprecise_where_only_one_can_be_meant(typed: str, meant: str | None) -> None:
    assert guess(typed, ["org/My_Model"]) == meant
