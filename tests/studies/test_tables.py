"""The tables of the README and the pages are those of results/*.csv, and a finished run becomes rows there."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import pytest

from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.evaluation.run import evaluate
from kg_edit.methods import method_names
from kg_edit.models.language_model import LanguageModel
from tests.kg_edit.evaluation.conftest import Nudge
from tests.pages import ROOT
from tests.pipelines.scripts import Script, module


@pytest.fixture
def tables() -> ModuleType:
    """`tables.py` as a module."""
    return module("tables")


def test_pages_agree_with_the_measured_numbers(tables: ModuleType) -> None:
    """After a measurement: python studies/tables.py."""
    assert not tables.outdated(tables.Results())


def test_numbers_are_numbers(tables: ModuleType) -> None:
    numbers = [number for table in tables.Results().tables.values() for number in table]
    assert len(numbers) > 3000
    for number in numbers:
        assert number.mean or number.note, number
        low, mean, high = (float(value) if value else None for value in (number.low, number.mean, number.high))
        assert low is None or high is None or mean is None or low <= mean <= high, number
        assert "nan" not in number.mean and not number.mean.startswith("."), number
    keys = [(number.table, number.row, number.metric) for number in numbers]
    assert len(keys) == len(set(keys)), "a number is there twice"


def test_every_method_was_measured(tables: ModuleType) -> None:
    results = tables.Results()
    measured = {
        number.method
        for name in ("single", "ripples", "batches-1000", "malmen-batches", "eamet", "restrained", "lasting-300")
        for number in results.tables[name]
    }
    assert set(method_names()) <= measured


@pytest.mark.parametrize("view", ["readme", "follows", "single-main", "knowedit-main", "zsre-main", "mquake-main"])
def test_the_retrieval_baseline_is_in_the_table(view: str, tables: ModuleType) -> None:
    assert "\n| rag |" in tables.Results().markdown(view)


def test_differences_that_decide_the_goal_of_a_thousand_edits_are_rows(tables: ModuleType) -> None:
    """docs/results.md, Many edits in one model: neighbours within 5 points."""
    tabled = tables.Results().tables
    for name, methods in (
        ("batches-1000", {"rag", "ft-augmented"}),
        ("lasting-models", {"memit"}),
        ("lasting-qwen", {"memit"}),
    ):
        rows = [number for number in tabled[name] if number.metric == "neighborhood, difference" and number.low]
        assert methods <= {number.method for number in rows}, name


def test_csv_files_survive_reading_and_writing(tables: ModuleType, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "results", tmp_path / "results")
    tables.Results(tmp_path / "results").save()
    for file in (ROOT / "results").glob("*.csv"):
        assert (tmp_path / "results" / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize(
    ("given", "options", "shown"),
    [
        ({"mean": "0.97", "low": "0.93", "high": "1.00"}, {}, "0.97 [0.93, 1.00]"),
        ({"mean": "0.97", "low": "0.93", "high": "1.00"}, {"percent": True}, "97 [93, 100]"),
        ({"mean": "0.97", "low": "0.93", "high": "1.00"}, {"intervals": False}, "0.97"),
        ({"mean": "+0.10", "p": "0.003"}, {}, "+0.10, p 0.003"),
        ({"mean": "374242"}, {}, "374,242"),
        ({"mean": "20", "note": "of 20"}, {}, "20 of 20"),
        ({"note": "0.88 to 0.94"}, {}, "0.88 to 0.94"),
    ],
)
def test_a_number_is_shown(given: dict[str, str], options: dict[str, bool], shown: str, tables: ModuleType) -> None:
    number = tables.Number(table="t", data="d", n="1", method="rome", settings="", metric="m", **given)
    assert tables.shown_text(number, **options) == shown


def test_the_appendix_shows_chosen_columns_and_rows(tables: ModuleType) -> None:
    results = tables.Results()
    table = results.words["tables"]["zsre"]
    table |= {"appendix": True, "appendix_columns": ["efficacy, greedy"], "appendix_without": ["rome"]}
    header, _, *rows = results.markdown("zsre", intervals=False, short=True).splitlines()
    assert header == "|  | efficacy, greedy |"
    assert len(rows) == len({number.row for number in results.tables["zsre"]}) - 1
    assert not any(row.startswith("| rome |") for row in rows)
    assert "| rome |" in results.markdown("zsre")
    assert f"\n{header}\n" in results.appendix()
    table["appendix_without"] = ["rom"]
    with pytest.raises(ValueError, match="no row 'rom' in zsre"):
        results.appendix()


def test_a_page_with_an_edited_number_is_found(tables: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    results = tables.Results()
    (tmp_path / "docs" / "measurements.md").write_text(results.appendix())
    (tmp_path / "docs" / "claims.md").write_text(tables.claims_page(results))
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- results: readme -->\n<!-- /results -->\nafter\n")
    page.write_text(tables.rendered(results, tmp_path)[page])
    assert not tables.outdated(results, tmp_path)
    assert "before\n<!-- results: readme -->\n|  | the edit |" in page.read_text()
    page.write_text(page.read_text().replace("| rome |", "| rome | 1"))
    assert [*tables.outdated(results, tmp_path)] == [page]


@pytest.mark.parametrize(
    ("difference", "error", "rest", "verdict"),
    [
        (0.20, 0.05, {"expect": "more"}, "reproduced"),
        (0.20, 0.05, {"expect": "more", "differs": "50 edits"}, "direction (50 edits)"),
        (-0.20, 0.05, {"expect": "less"}, "reproduced"),
        (-0.20, 0.05, {"expect": "more"}, "contradicted"),
        (0.02, 0.05, {"expect": "more", "effect": 0.03}, "not seen, needs 14, theirs 3"),
        (0.02, 0.05, {"expect": "more", "effect": 0.40}, "contradicted"),
        (0.01, 0.01, {"expect": "same"}, "reproduced"),
        (-0.20, 0.05, {"expect": "same"}, "contradicted"),
        (0.01, 0.05, {"expect": "same"}, "not seen, needs 14"),
        (-0.01, 0.01, {"expect": "at least"}, "reproduced"),
        (-0.72, 0.05, {"expect": "at least"}, "contradicted"),
    ],
)
def test_a_verdict_follows_the_rule(
    difference: float, error: float, rest: dict[str, str], verdict: str, tables: ModuleType
) -> None:
    assert tables.verdict_of(difference, error, **rest) == verdict


def test_a_claim_needs_numbers_with_an_error(tables: ModuleType) -> None:
    results = tables.Results()
    claim = {"table": "single", "metric": "efficacy", "row": "rome, fast", "level": 0.9, "expect": "at least"}
    *_, measured, verdict = tables.claim_cells(results, claim)
    assert (measured, verdict) == ("`single`: efficacy", "reproduced")
    *_, measured, _ = tables.claim_cells(results, claim | {"table": "ripples", "metric": "the edit", "row": "rome"})
    assert measured == "`ripples`: the edit; n 30"
    with pytest.raises(ValueError, match="no number 'efficacy' of 'rom' in single"):
        tables.claim_cells(results, claim | {"row": "rom"})
    with pytest.raises(ValueError, match="verdict is by hand"):
        tables.claim_cells(results, claim | {"table": "sequence-300", "metric": "perplexity", "row": "rome, 300 edits"})


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["single", "sequential:2"])
def test_a_finished_run_becomes_rows(
    schedule: str, tables: ModuleType, script: Script, tmp_path: Path, tiny_folder: Path
) -> None:
    model = LanguageModel.load(str(tiny_folder))
    records = find_dataset("counterfact-plus")(Path("data.json"))
    text = None if schedule == "single" else "The quick brown fox jumps over the lazy dog."
    config = EvalConfig(schedule=schedule, ceilings=True, general=text, time_answers=schedule == "single")
    run = evaluate(Nudge(model), model, records, out=tmp_path / "run", config=config)
    results = tables.Results()
    of_model = {"n": "2", "model": str(tiny_folder)}
    results.tables["single"] = [number._replace(**of_model) for number in results.tables["single"]]
    before = [number for number in results.tables["single"] if number.method == "rome"]
    results.add(tables.of_run(results, "single", run, "nudge", "fast"))
    by_metric = {number.metric: number for number in results.tables["single"] if number.row == "nudge, fast"}
    assert {number.model for number in by_metric.values()} == {str(tiny_folder)}
    score = run.edited["portability.nll"]
    ends = (score.mean, score.ci95_low, score.ci95_high)
    assert by_metric["portability, nll"][6:9] == tuple(f"{value:.1f}" for value in ends)
    assert [number for number in results.tables["single"] if number.method == "rome"] == before
    unedited = {number.row: number for number in results.tables["single"] if number.metric == "portability, greedy"}
    assert unedited["unedited, the fact in the prompt"].mean == f"{run.fact_in_prompt['portability.greedy'].mean:.2f}"
    rates = [*tables.of_run(results, "retention", run, "nudge")]
    assert any(number.metric == "ERR" for number in rates) == (schedule != "single")
    last = run.curve[-1].general["general.perplexity"] if text else None
    assert [tables.value_of(run, "edited", name)[0] for name in ("general.perplexity", "perplexity")] == [last] * 2
    times = run.seconds_per_answer
    share = None if times is None else times["edited"] / times["base"]
    assert tables.value_of(run, "edited", "answer")[0] == share and (share is None) == (schedule != "single")
    assert tables.value_of(run, "base", "answer")[0] is None
    batch_rows = {number.row for number in tables.of_run(results, "batches-1000", run, "nudge")}
    assert batch_rows == {f"{row}, 2 records, {tiny_folder}" for row in ("unedited", "nudge")}, "the table has others"
    rows = {number.row for number in tables.of_run(results, "models", run, "nudge")}
    assert all(row.endswith(f", {tiny_folder}") for row in rows), "a row of each model"
