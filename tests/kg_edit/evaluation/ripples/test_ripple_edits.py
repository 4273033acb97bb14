"""Edits drawn from a graph, to train a network on."""

from __future__ import annotations

from pathlib import Path

from kg_edit.evaluation.ripples.ripple_edits import Excluded, training_edits
from tests.kg_edit.evaluation.ripples.toy import table_of

NOTHING = Excluded()


def test_training_edits_are_drawn_from_a_graph(tmp_path: Path) -> None:
    """By hand from the toy graph: cities and the countries in which they do not lie."""
    table = table_of(tmp_path)
    drawn = training_edits(table, ["P17"], n=100, seed=0, excluded=NOTHING)
    countries = {"Q11", "Q12", "Q14", "Q15", "Q16"}  # the Papal States are of the past
    assert {edit.target_new_id for edit in drawn} <= countries
    assert {edit.subject for edit in drawn} >= {"Rome", "Milan", "Osaka", "Kyoto"}
    assert all(edit.target_new_id not in table.objects(edit.subject_id or "", "P17") for edit in drawn)
    assert len({edit.id for edit in drawn}) == len(drawn) == len({edit.subject for edit in drawn})
    assert drawn == training_edits(table, ["P17"], n=100, seed=0, excluded=NOTHING)
    assert drawn != training_edits(table, ["P17"], n=100, seed=1, excluded=NOTHING)


def test_training_edits_leave_out_excluded_things(tmp_path: Path) -> None:
    gone = Excluded(ids=frozenset({"Q12"}), names=frozenset({"milan"}))
    drawn = training_edits(table_of(tmp_path), ["P17"], n=100, seed=0, excluded=gone)
    assert drawn and not {"Q2", "Q12"} & {item for edit in drawn for item in (edit.subject_id, edit.target_new_id)}
