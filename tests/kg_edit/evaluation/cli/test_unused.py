"""Options that would have no effect are refused before any file is read, with the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from kg_edit.evaluation.cli.evaluation import EvaluateOptions
from kg_edit.evaluation.config import EvalConfig
from tests.kg_edit.command_line import GOOD, cache, kg_edit, place, rows

__all__ = ["cache", "kg_edit", "place"]  # fixtures


def test_probes_without_effect_are_named_if_others_have_one(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    edits, probes = place / "edits.jsonl", ("negation", "reversed", "elsewhere")
    EvaluateOptions(data=edits, dataset="edits", config=EvalConfig(probes=probes)).read()
    assert not caplog.messages
    EvaluateOptions(data=edits, dataset="edits", skip=1, config=EvalConfig(probes=probes)).read()
    assert caplog.messages == [
        "--probes negation,elsewhere has no effect, because no record has neighborhood or target_true"
    ]
    # with an old target, as MQuAKE's
    edits.write_bytes(rows({**GOOD, "target_true": "Oslo"}))
    EvaluateOptions(
        data=edits, dataset="edits", config=EvalConfig(probes=("negation", "distracting", "elsewhere"))
    ).read()
    assert caplog.messages[1:] == ["--probes distracting,elsewhere has no effect, because no record has neighborhood"]
