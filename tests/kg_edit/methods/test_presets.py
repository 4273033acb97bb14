"""Every published setting: it is read as it stands, fits its model, and makes an edit on a tiny model of the family."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import networkx as nx
import pytest

from kg_edit.edits.edit import Edit
from kg_edit.methods import find_method
from kg_edit.methods.presets import list_presets, list_published_models, published_settings, read_presets
from kg_edit.planning.shape import ModelShape, shape_of
from tests.everyday import keep_first
from tests.kg_edit.command_line import EDITS, Run, cache, kg_edit, place, tiny_folder
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.tiny import tiny

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures

EVERY = [(model, key) for model in list_published_models() for key in read_presets(model).methods]
PARAMETERS = {  # as their authors count them
    "gemma-3-27b": 27_009_346_304,
    "gemma-3-4b": 3_880_263_168,
    "gpt-j": 6_050_882_784,
    "gpt2-xl": 1_557_611_200,
    "llama-2-7b": 6_738_415_616,
    "llama-3-8b": 8_030_261_248,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "mistral-7b": 7_241_732_096,
    "olmo-2-7b": 7_298_617_344,
    "phi-4": 14_659_507_200,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "smollm2-135m": 134_515_008,
}
EDIT = Edit(
    id="lebron",
    subject="LeBron James",
    prompt="{} plays for",
    target_new="Miami Heat",
    target_new_id="Q2",
    target_true="Los Angeles Lakers",
)
every = pytest.mark.parametrize(("model", "key"), EVERY, ids=[f"{model}-{key}" for model, key in EVERY])
first_of_each_model = pytest.mark.parametrize(  # the others are slow
    ("model", "key"),
    [
        pytest.param(model, key, id=f"{model}-{key}", marks=() if index == 0 else pytest.mark.slow)
        for model in list_published_models()
        for index, key in enumerate(read_presets(model).methods)
    ],
)

# One model a family of ours, and one method for each: the others run the same code
EVERYDAY = {"gemma-3-4b-rome", "gpt2-xl-rome", "llama-3.1-8b-alphaedit"}
one_of_each_family = pytest.mark.parametrize(
    ("model", "key"),
    [
        pytest.param(model, key, id=f"{model}-{key}", marks=() if f"{model}-{key}" in EVERYDAY else pytest.mark.slow)
        for model, key in EVERY
    ],
)


def names(model: str, key: str) -> tuple[str, str]:
    """The method and the preset's name of a table."""
    method, colon, variant = key.partition(":")
    return method, f"{model}{colon}{variant}"


def graph() -> nx.MultiDiGraph:
    subgraph = nx.MultiDiGraph()
    subgraph.add_node("Q2", label="Miami Heat")
    subgraph.add_node("Q3", label="Miami")
    subgraph.add_edge("Q2", "Q3", label="headquarters location")
    return subgraph


def test_every_promised_model_has_a_file() -> None:
    assert set(list_published_models()) == set(PARAMETERS)


@functools.cache
def published_shape(model: str) -> ModelShape:
    return shape_of(model)


@pytest.mark.parametrize("model", keep_first(PARAMETERS, keep=2))
def test_config_of_a_preset_has_the_size_of_its_model(model: str) -> None:
    assert published_shape(model).parameters == PARAMETERS[model]


@every
def test_preset_is_read_as_it_is_written(model: str, key: str) -> None:
    method, preset = names(model, key)
    table = read_presets(model).methods[key]
    kind = find_method(method).config_class
    read = json.loads(kind.preset(preset, method=method).model_dump_json())
    for name, value in table.settings.items():
        read_value = {field: read[name][field] for field in value} if isinstance(value, dict) else read[name]
        assert read_value == value, name
    assert table.source.strip()


@pytest.mark.parametrize("method", ["lora", "adalora", "ext-sub"])
def test_published_low_rank_training_makes_all_its_updates(method: str) -> None:
    """EasyEdit's program and Ext-Sub's stop at no loss; a rate of 5e-3 is below 0.01 long before 70 updates."""
    kind = find_method(method).config_class
    for preset in ("paper", *list_presets(method)):
        assert kind.preset(preset, method=method).model_dump()["stop_below"] == 0.0, preset


@pytest.mark.parametrize("key", read_presets("smollm2-135m").methods)
def test_smollm2_preset_is_the_default_with_its_layers(key: str) -> None:
    kind = find_method(key).config_class
    preset, default = kind.preset("smollm2-135m", method=key).model_dump(), kind.preset("default").model_dump()
    differ = {name for name in preset.keys() | default.keys() if preset.get(name) != default.get(name)}
    assert differ <= {"layer", "representation_layer"}


@first_of_each_model
def test_layers_of_a_preset_are_layers_of_its_model(model: str, key: str) -> None:
    method, preset = names(model, key)
    depth = published_shape(model).layers
    for name, value in published_settings(preset, method, config_presets={}).items():
        if name.rpartition("_")[2] in ("layer", "layers"):
            assert all(0 <= layer < depth for layer in (value if isinstance(value, list) else [value])), name


@one_of_each_family
def test_preset_makes_an_edit_on_a_tiny_model_of_its_family(
    model: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With what makes it quick, and layers that a tiny model has, in the place of the published values."""
    monkeypatch.setenv("KG_EDIT_CACHE", str(tmp_path))
    method, preset = names(model, key)
    chosen = find_method(method)
    config = chosen.config_class.preset(preset, {**shallow(preset, method), **QUICK[method]}, method=method)
    family = read_presets(model).config["model_type"]
    patch = chosen(tiny(family), config, graph=graph()).edit([EDIT])
    (warned,) = [line for line in caplog.messages if "is published for" in line]
    assert f"the preset {preset} is published for {read_presets(model).about} (" in warned
    patch.check_finite()
    assert not patch.is_empty
    assert [record["method"] for record in patch.edits] == [method]


def shallow(preset: str, method: str) -> dict[str, Any]:
    """What fits a tiny model, in the place of the settings that name layers or an eigenvalue of C."""
    settings = published_settings(preset, method, config_presets={})
    single = {name: 1 for name in settings if name == "layer" or name.endswith("_layer")}
    free = {"threshold": 1.0, "relative": True} if method == "alphaedit" else {}
    lists: dict[str, Any] = {"layers": [1, 2], "weights": []}
    return single | free | {name: lists[name] for name in settings if name in lists}


def test_presets_are_of_their_methods() -> None:
    assert "qwen2.5-7b" in list_presets("rome")
    assert "qwen2.5-7b" not in list_presets("glame")


@pytest.mark.slow
def test_command_line_takes_a_preset_and_settings_over_it(kg_edit: Run, tiny_folder: Path) -> None:
    Path("edits.jsonl").write_text(EDITS.splitlines()[0])
    options = ("--layer", "1", "--corpus", "self", "--set", "covariance.tokens=500", "--set", "context_lengths=[[5,2]]")
    result = kg_edit(
        *("edit", "edits.jsonl", "--method", "rome", "--model", tiny_folder, "--preset", "gpt2-xl"),
        *options,
        "--out",
        "out",
    )
    assert result.code == 0, result.err
    config = json.loads(Path("out/run.json").read_text())["config"]
    assert (config["layer"], config["steps"], config["learning_rate"], config["clamp_norm_factor"]) == (1, 20, 0.5, 4.0)


@pytest.mark.parametrize("name", ["glame", "glame-mlp"])
def test_the_command_methods_lists_published_presets(name: str, kg_edit: Run) -> None:
    output = kg_edit("methods", name).out
    assert "gpt2-xl:mquake" in output.replace("\n", "")
    assert "qwen2.5-7b" not in output
