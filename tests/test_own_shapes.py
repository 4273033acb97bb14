"""The measurement of edits of unusual shapes takes methods that read a graph, and those that read none."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from kg_edit.edits.edit import Edit
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.tiny import tiny

SCRIPT = Path(__file__).parents[1] / "bench" / "own_shapes.py"


@pytest.mark.parametrize("method", ["ft-m", "glame-mlp"])
def test_method_is_measured_with_a_graph_only_if_it_reads_one(method: str) -> None:
    edit = Edit(id="start-1", subject="Ada", prompt="{} was born in", target_new="Rome", target_true="Paris")
    result: dict[str, Any] = runpy.run_path(str(SCRIPT))["measured"](
        tiny("llama"), method, [edit], settings=QUICK[method], together=False
    )
    assert "error" not in result and result["failed"] == 0
