"""A setting that has no effect together with the others is refused if it was changed, before the model is loaded."""

from __future__ import annotations

from typing import Any

import networkx as nx
import pytest

from kg_edit.methods import find_method, method_names
from kg_edit.methods.config import MethodConfig

GRAPH = nx.DiGraph()
GRAPH.add_edge("Rome", "Italy", label="country")


def config_of(name: str, settings: dict[str, Any]) -> MethodConfig:
    return find_method(name).config_class.preset("default", settings)


@pytest.mark.parametrize("name", method_names())
def test_presets_change_no_idle_setting(name: str) -> None:
    chosen = find_method(name).config_class
    for preset in chosen.preset_names():
        chosen.preset(preset, method=name).refuse_idle()
