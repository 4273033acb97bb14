from __future__ import annotations

from kg_edit.evaluate import summary


def test_unrelated_prompts() -> None:
    assert summary.unrelated_retention({"a": 1.0, "b": 0.0, "c": None}) == 0.5
    assert summary.unrelated_retention({}) is None


def test_edits_made_so_far_on_the_model_as_it_now_is() -> None:
    """Of three edits the third is still to come; counted as well, it would be 1/3."""
    now = {"first": 1.0, "second": 0.0, "third": 0.0}
    assert summary.edit_retention(now, ["first", "second"]) == 0.5
    assert summary.edit_retention(now, []) is None


def test_what_was_right_before() -> None:
    """Two were right, one still is; one that was wrong and is right now does not count (all four: 2/4)."""
    before = {"a": 1.0, "b": 1.0, "c": 0.0, "d": 0.5}
    now = {"a": 1.0, "b": 0.0, "c": 1.0, "d": 0.0}
    assert summary.accurate_retention(now, before) == 0.5
    assert summary.accurate_retention(now, {"c": 0.0}) is None
