"""A setting that has no effect together with the others is refused if it was changed, before the model is loaded."""

from __future__ import annotations

from typing import Any

import networkx as nx
import pytest
from pydantic import ValidationError

from kg_edit.errors import ConfigError
from kg_edit.methods import find_method, method_names
from kg_edit.methods.config import MethodConfig
from kg_edit.zoo.ke.network import KeTraining

GRAPH = nx.DiGraph()
GRAPH.add_edge("Rome", "Italy", label="country")
IDLE: list[tuple[str, dict[str, Any], str]] = [
    ("mend", {"untrained": False, "network": "mend/", "blocks": 2}, "setting blocks"),
    ("ke", {"network": "ke/", "edit_lr": 0.5}, "setting edit_lr"),
    ("serac", {"network": "serac/", "layer": 3}, "setting layer"),
    ("alphaedit", {"covariance": {"ridge": 0.5}}, "setting covariance.ridge"),
    ("ike", {"ratio": (1, 3, 0)}, "setting ratio"),
    ("ike", {"seed": 1}, "setting seed"),
    ("ike", {"demonstrations": "train.json", "count": 0, "seed": 1}, "setting seed"),
    ("rag", {"encoder": "e5"}, "setting encoder.*set gate=similarity"),
    ("ike", {"encoder": "e5", "gate": "bm25"}, "setting encoder"),
    ("definition", {"seed": 1}, "setting seed"),
    ("definition", {"insert": "fact", "exclude_answers": True}, "setting exclude_answers"),
    ("defer", {"texts": 0, "gate_weight": 2.0}, "setting gate_weight"),
    ("defer", {"texts": 9, "gate_weight": 0.0}, "setting texts"),
    ("t-patcher", {"memory_weight": 0.0, "hardest": 9}, "setting hardest"),
    ("grace", {"seed": 1}, "setting seed"),
    ("glame-plus", {"ripple_weight": 0.0, "shown": 1}, "set answers.shown"),
    ("glame", {"graph_weight": 1.0}, "setting graph_weight.*graph_rows=0"),
    ("glame-mlp", {"relations": False}, "setting relations"),
    ("rome", {"covariance": {"corpus": "text.txt", "seed": 7}}, r"setting covariance\.seed"),
    ("alphaedit", {"covariance": {"corpus": "text.txt", "seed": 7}}, r"setting covariance\.seed"),
]


def config_of(name: str, settings: dict[str, Any]) -> MethodConfig:
    return find_method(name).config_class.preset("default", settings)


@pytest.mark.parametrize(("name", "settings", "said"), IDLE)
def test_changed_setting_without_effect_is_refused(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config_of(name, settings).refuse_idle()


def test_idle_setting_is_refused_by_check_inputs() -> None:
    chosen = find_method("alphaedit")
    with pytest.raises(ConfigError, match=r"covariance\.ridge.*leave it out"):
        chosen.check_inputs(config_of("alphaedit", {"covariance": {"ridge": 0.5}}), None, ())


@pytest.mark.parametrize("name", method_names())
def test_presets_change_no_idle_setting(name: str) -> None:
    chosen = find_method(name).config_class
    for preset in chosen.preset_names():
        chosen.preset(preset, method=name).refuse_idle()


@pytest.mark.parametrize("setting", ["rank", "normalise_on"])
def test_ke_refuses_settings_of_mend(setting: str) -> None:
    with pytest.raises(ValidationError, match=f"{setting} is a setting of MEND"):
        KeTraining.model_validate({setting: 7})
