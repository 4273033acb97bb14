from __future__ import annotations

import io

from rich.console import Console

from kg_edit.evaluation.reports import render, rich_table
from kg_edit.evaluation.statistics import Estimate
from kg_edit.evaluation.summary import Summary

SUMMARY = Summary(
    n=2,
    base={"efficacy.prob": Estimate(mean=0.5, ci95_low=0, ci95_high=1)},
    edited={
        "efficacy.prob": Estimate(mean=None, ci95_low=None, ci95_high=None),
        "portability.nll": Estimate(mean=2, ci95_low=None, ci95_high=None),
    },
    seconds_per_edit=1.25,
    provenance={
        "method": "nudge",
        "model": {"name": "tiny"},
        "failed": 1,
        "counts": {"base": {"efficacy.prob": 2}, "edited": {"efficacy.prob": 0, "portability.nll": 1}},
    },
)


def test_markdown_table_has_intervals_and_numbers_of_records() -> None:
    text = render(SUMMARY)
    assert text.splitlines()[:3] == [
        "| metric | unedited | edited |",
        "| --- | ---: | ---: |",
        "| efficacy.prob | 0.500 [0.000, 1.000] |  |",
    ]
    assert "| portability.nll |  | 2.000 (n = 1) |" in text
    assert (
        "nudge on tiny: the edits of 2 records made one at a time, 1 failed and count as the model before the edit, "
        "1.2 s" in text
    )
    wrong = {**SUMMARY.provenance, "graph": {"kind": "wrong graph", "right": {"kind": "extract"}}}
    assert "nudge (--control wrong) on tiny: " in render(SUMMARY.model_copy(update={"provenance": wrong}))
    console = Console(file=io.StringIO(), record=True, width=100)
    console.print(rich_table(SUMMARY))
    assert "0.500 [0.000, 1.000]" in console.export_text()


def test_names_of_metrics_are_whole_at_80_columns() -> None:
    names = [f"ripples-unknown.withheld.{end}" for end in ("greedy", "greedy_old", "choice")]
    means = {name: Estimate(mean=0.5, ci95_low=0.25, ci95_high=0.75) for name in names}
    counts = {section: dict.fromkeys(names, 2) for section in ("base", "just_edited", "edited")}
    summary = Summary(
        n=2,
        base=means,
        just_edited=means,
        edited=means,
        seconds_per_edit=1.0,
        provenance={**SUMMARY.provenance, "counts": counts},
    )
    console = Console(file=io.StringIO(), record=True, width=80)
    console.print(rich_table(summary))
    cells = [line.split("│")[1].strip() for line in console.export_text().splitlines() if line.startswith("│")]
    assert "".join(cells) == "".join(names)


def test_metric_that_no_record_has_is_left_out() -> None:
    lone = SUMMARY.model_copy(update={"base": {"efficacy.prob": Estimate(mean=None, ci95_low=None, ci95_high=None)}})
    assert "efficacy.prob" not in render(lone)
