"""With an odd value in any place, a row is read, or its fault is named; nothing else is ever raised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kg_edit.evaluation.datasets import known_datasets
from kg_edit.evaluation.datasets.lint import lint
from tests.everyday import keep_first
from tests.kg_edit.evaluation.datasets.rows import FLAT, MQUAKE_REMASTERED, written
from tests.kg_edit.evaluation.datasets.test_reading import ROWS
from tests.kg_edit.evaluation.datasets.test_zsre import EASY_EDIT
from tests.kg_edit.json_places import places, replaced

MORE: dict[str, list[dict[str, Any]]] = {
    "counterfact": [FLAT],
    "mquake": [MQUAKE_REMASTERED],
    "zsre": [EASY_EDIT],
    "knowedit": [
        {"ent": "E", "pos": ["a"], "neg": ["b"]},
        {"concept": "c", "text": "c is", "labels": "d"},
        {"question": "Q?", "ground_truth": "a", "target_new": "b"},
    ],
}
ODD = (None, 3, "", [], [None], {"a": 1}, [["x"], 3], "\ud800")


@pytest.mark.parametrize("every", keep_first([3, 1]))
@pytest.mark.parametrize("name", known_datasets())
def test_odd_value_is_read_or_named(name: str, every: int, tmp_path: Path) -> None:
    """Every day with each third value, which are others in each data set."""
    good = written(tmp_path, ROWS[name])
    assert known_datasets()[name].read(good).records
    refused = 0
    for row in (ROWS[name], *MORE.get(name, [])):
        rows = [replaced(row, path, value) for path in places(row) for value in ODD]
        for odd in rows[::every]:
            good.write_text(json.dumps([odd]))
            reading = known_datasets()[name].read(good)
            assert len(reading.records) + bool(reading.problems) == 1
            assert all(problem.fault.message for problem in reading.problems)
            lint(reading)
            refused += bool(reading.problems)
    assert refused > 10 / every
