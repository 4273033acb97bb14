"""A run on a record of each data set, from its file to its summary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from kg_edit.datasets import find_dataset
from kg_edit.edits.edit import Edit
from kg_edit.evaluate import evaluate
from kg_edit.evaluate.case import Case
from kg_edit.evaluate.metrics.catalogue import metrics_for
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from tests.kg_edit.datasets.rows import written
from tests.kg_edit.datasets.test_reading import ROWS
from tests.kg_edit.evaluate.conftest import Nudge


class NudgeForEach(Nudge):
    """The fixed change, as often as there are edits."""

    def update(self, edits: Sequence[Edit], *, before: Patch | None = None) -> Patch:
        first, *others = (super(NudgeForEach, self).update([edit], before=before) for edit in edits)
        return sum(others, first)


@pytest.mark.parametrize("name", ROWS)
def test_a_run_on_each_data_set(name: str, model: LanguageModel, tmp_path: Path) -> None:
    records = find_dataset(name)(written(tmp_path, ROWS[name]))
    out, method = tmp_path / "run", NudgeForEach(model)
    summary = evaluate(method, model, records, out=out, cache=tmp_path / "cache", progress=False)
    assert (summary.n, summary.provenance["failed"]) == (1, 0)
    assert method.calls == [edit.id for edit in records[0].edits]
    metrics = metrics_for(Case.of(records[0]))
    assert set(metrics) <= set(summary.edited)
    assert all(summary.edited[name].mean is not None for name in metrics if name.endswith(".unchanged"))
    again = evaluate(method, model, records, out=out, cache=tmp_path / "cache", progress=False)
    assert again == summary
