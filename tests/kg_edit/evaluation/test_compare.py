"""Runs compared: what is found, what is not, what is refused."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from rich.console import Console

from kg_edit.errors import ConfigError
from kg_edit.evaluation import comparison_report
from kg_edit.evaluation.comparison import compare
from kg_edit.evaluation.comparison_report import caption, latex, markdown, rich_comparison, write_comparison
from kg_edit.graphs.controls import NoGraph, ShuffledObjects, WithoutAnswers, WrongGraph
from kg_edit.graphs.source import graph_identity

RECORDS = 60
METRICS = ("efficacy.prob", "paraphrase.prob", "neighborhood.prob", "portability.greedy", "portability.nll")
# How likely each metric is right before and after an edit.
RATES = {"base": (0.2, 0.2, 0.8, 0.1), "edited": (0.95, 0.9, 0.7, 0.4)}

Run = Callable[..., Path]


def write_run(
    parent: Path, name: str, *, seed: int, records: int = RECORDS, lines: int | None = None, **settings: Any
) -> Path:
    """A run's folder: scores drawn with ``seed``, and these settings."""
    folder = parent / name
    folder.mkdir()
    written = {
        "job": "evaluate",
        "schedule": "single",
        "method": "rome",
        "config": {"seed": seed},
        "model": {"name": "tiny", "fingerprint": "f", "dtype": "torch.float32"},
        "tokenizer_sha256": "t",
        "protocol": 1,
        "question_form_sha256": "q",
        "data": {"dataset": "counterfact-plus", "sha256": "d"},
        "ids": [f"case-{number}" for number in range(records)],
        "ceilings": False,
        "seed": 0,
        "kg_edit": "1",
    }
    (folder / "run.json").write_text(json.dumps(written | settings))
    phases = [line for number in range(records) for line in record(number, seed)][:lines]
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in phases))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`write_run` into the test's folder."""
    return partial(write_run, tmp_path)


def record(number: int, seed: int) -> list[dict[str, Any]]:
    """The phases of a record: before the edit the same for every seed, after it almost."""
    shared = {"id": f"case-{number}", "sha256": f"s{number}"}
    return [
        {**shared, "phase": "base", "sections": {"base": section("base", number, 0)}},
        {**shared, "phase": "edit", "seconds": 1.0},
        {**shared, "phase": "edited", "sections": {"edited": section("edited", number, seed)}},
    ]


def section(name: str, number: int, seed: int) -> dict[str, Any]:
    rng, other = np.random.default_rng(number), np.random.default_rng([number, seed])
    right = [float(draw < rate) for draw, rate in zip(rng.uniform(size=4), RATES[name], strict=True)]
    if other.uniform() < 0.1:  # one of ten records comes out otherwise with another seed
        right[int(other.integers(4))] = float(other.integers(2))
    nll = 4.0 - 2.0 * (name == "edited") + float(rng.normal(scale=0.3)) + float(other.normal(scale=0.05))
    scores = dict(zip(METRICS, [*right, nll], strict=True))
    return {"scores": {**scores, "missing": None}, "nll": {}, "texts": {}}


@pytest.mark.slow
def test_picture_with_schedules_ends_inside_its_edges(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [run("memit-single", seed=1), run("memit-in-one-batch-of-all", seed=2, schedule="batch:60")]
    drawn: list[Figure] = []
    monkeypatch.setattr(comparison_report, "save_figure", lambda figure, path: drawn.append(figure))
    write_comparison(compare(folders), tmp_path / "found.png")
    drawn[0].canvas.draw()
    (caption,) = [text for text in drawn[0].findobj(Text) if "Different schedules" in text.get_text()]
    box, outer = caption.get_window_extent(), drawn[0].bbox
    assert outer.x0 <= box.x0 and box.x1 <= outer.x1


def test_long_comparison_tells_how_far_it_is(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("kg_common.progress._LINE_S", 1e-6)
    caplog.set_level("INFO")
    compare([run("one", seed=1, records=8), run("two", seed=2, records=8)])
    assert any(line.startswith("comparing: 1 of 7 metrics") for line in caplog.messages), caplog.messages


def test_two_seeds_of_one_method_do_not_differ(run: Run) -> None:
    comparison = compare([run("first", seed=1), run("second", seed=2)])
    assert [row.metric for row in comparison.rows] == [*METRICS, "editing_score"]
    assert not any(row.differences["second"].is_found for row in comparison.rows)
    assert any(row.differences["second"].mean for row in comparison.rows)
    assert all(row.n == RECORDS for row in comparison.rows)


def test_edited_model_differs_from_the_unedited_one(run: Run) -> None:
    comparison = compare([run("first", seed=1)])
    assert comparison.sides == ("unedited", "first")
    by_name = {row.metric: row.differences["first"] for row in comparison.rows}
    assert by_name["efficacy.prob"].is_found
    assert by_name["editing_score"].is_found
    assert by_name["portability.nll"].is_found
    assert by_name["portability.nll"].mean == pytest.approx(-2, abs=0.1)
    assert by_name["efficacy.prob"].mean > 0.5
    assert (by_name["efficacy.prob"].test, by_name["portability.nll"].test) == ("McNemar", "sign flips")


def test_several_runs_against_one_of_them_or_the_unedited_model(run: Run) -> None:
    folders = [run("first", seed=1), run("second", seed=2)]
    assert compare(folders, against=str(folders[1])).sides == ("second", "first")
    assert compare(folders, against="unedited").sides == ("unedited", "first", "second")
    assert compare(folders, against="second").sides == ("second", "first")


@pytest.mark.slow
def test_run_whose_folder_is_called_unedited(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [Path(run("unedited", seed=1).name), Path(run("second", seed=2).name)]
    monkeypatch.chdir(run("here", seed=3).parent)
    assert compare(folders).sides == ("./unedited", "second")
    assert compare(folders, against="./unedited").sides == ("./unedited", "second")
    assert compare(folders, against="unedited").sides == ("unedited", "./unedited", "second")
    assert compare(folders[:1]).sides == ("unedited", "./unedited")


def test_note_says_when_the_models_have_different_edits(run: Run) -> None:
    for schedule, noted in (("batch:100", True), ("single", False)):  # the same, but the shorter run has fewer edits
        long = run(f"long-{schedule}", seed=1, schedule=schedule)
        short = run(f"short-{schedule}", seed=2, schedule=schedule, records=20)
        notes = compare([long, short], common=True).notes
        assert any("different edits in a model" in note for note in notes) is noted
    assert not any("different edits" in note for note in compare([short, run("third", seed=3, records=20)]).notes)


def test_single_edits_are_compared_with_edits_together(run: Run) -> None:
    alone = run("alone", seed=1)
    result = compare([alone, run("batch", seed=2, schedule="batch:100")])
    assert result.schedule is None
    line = "alone (each record edited alone), batch (after all 60 edits of the batch)."
    assert line in result.schedules_line and line in latex(result)
    assert markdown(result).startswith("Different schedules: alone")
    assert any("too narrow" in note for note in result.notes) and not any("different edits" in n for n in result.notes)
    same = compare([alone, run("third", seed=3)])
    assert (same.schedule, same.schedules_line) == ("single", "") and not any("narrow" in note for note in same.notes)


@pytest.mark.slow
def test_runs_of_two_models_are_paired_and_the_table_names_the_models(run: Run) -> None:
    small = run("small", seed=1)
    large = run(
        "large",
        seed=2,
        model={"name": "gpt-j", "fingerprint": "g", "dtype": "torch.bfloat16"},
        tokenizer_sha256="other",
    )
    base = small / "records.jsonl"  # the small model knew less before its edits
    base.write_text(re.sub(r'("base": {"scores": {"efficacy.prob": )1.0', r"\g<1>0.0", base.read_text()))
    result = compare([small, large])
    line = "Different models: small (tiny, float32), large (gpt-j, bfloat16)."
    assert result.model is None and result.lines == (line,)
    assert markdown(result).startswith(line) and line in latex(result)
    assert result.records == RECORDS and result.shown == ("unedited (small)", "unedited (large)", "small", "large")
    means = {side: estimate.mean or 0.0 for side, estimate in result.rows[0].means.items()}
    assert means["unedited (small)"] == 0.0 < means["unedited (large)"]
    assert any("nats" in note for note in result.notes)
    retrained = run("retrained", seed=3, model={"name": "tiny", "fingerprint": "h", "dtype": "torch.float32"})
    assert "weights f" in compare([small, retrained]).models_line
    assert compare([small, run("again", seed=4)]).lines == ()


def test_latex_table_marks_worse_means_with_a_dagger(run: Run) -> None:
    first, second = run("first", seed=1), run("second", seed=2)
    file = second / "records.jsonl"
    file.write_text(file.read_text().replace('"efficacy.prob": 1.0', '"efficacy.prob": 0.0'))
    chosen = compare([first, second], metrics=["efficacy.prob"])
    assert compare([first, second], metrics="efficacy.prob") == chosen
    text = latex(chosen)
    (row,) = [line for line in text.splitlines() if line.strip().startswith(r"\quad second &")]
    assert r"$^{\dagger}$" in row and "textbf" not in row and r"$^{\dagger}$: worse" in text


def test_presets_are_in_the_notes(run: Run) -> None:
    runs = [run("first", seed=1), run("second", seed=2, preset="long")]
    assert "first: preset default, second: preset long" in compare(runs).notes
    assert not any("preset" in note for note in compare([runs[0], run("third", seed=3, preset="default")]).notes)


def test_control_graphs_are_in_the_notes(run: Run) -> None:
    source: Any = object()
    controls = {"wrong": WrongGraph(source, ()), "shuffled": ShuffledObjects(source), "none": NoGraph(source)}
    graphs = {name: graph_identity(WithoutAnswers(graph, names={})) for name, graph in controls.items()}
    runs = [run(f"glame-{name}", seed=1, records=3, method="glame", graph=graph) for name, graph in graphs.items()]
    right = [run("glame", seed=1, records=3, graph=graph_identity(source)), run("rome", seed=2, records=3)]
    named = "glame: rome, glame-wrong: glame (--control wrong), glame-shuffled: glame (--control shuffled), "
    assert named + "glame-none: glame (--control none)" in compare([right[0], *runs]).notes
    assert not any("control" in note for note in compare(right).notes)


def test_metric_named_twice_is_one_test(run: Run) -> None:
    runs = [run("rome", seed=1), run("glame", seed=2)]
    once, twice = (compare(runs, metrics=["portability.nll"] * times) for times in (1, 2))
    assert once == twice and once.rows[0].differences["glame"].p < 1


def test_name_of_a_folder_is_whole_in_every_table(run: Run) -> None:
    comparison = compare([run("rome[red]", seed=1), run("a|b\\c", seed=2)])
    console = Console(file=io.StringIO(), record=True, width=120)
    console.print(rich_comparison(comparison))
    text = console.export_text()
    assert "- rome[red]" in text.splitlines()[0] and "Differences to rome[red] are paired" in " ".join(text.split())
    own = comparison.rows[0].model_copy(update={"metric": "portability.a|b.greedy"})
    table = markdown(comparison.model_copy(update={"rows": (own,)})).splitlines()[:3]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {8} and "b.greedy ↑" in table[2]
    assert "a$|$b\\textbackslash{}c & " in latex(comparison)


@pytest.mark.slow
def test_name_of_a_folder_is_whole_in_the_picture(run: Run, tmp_path: Path) -> None:
    comparison = compare([run("$\\frac$", seed=1), run("_rome", seed=2), run("a$b$c", seed=3)])
    drawn = write_comparison(comparison, tmp_path / "picture.svg").read_text()
    assert all(name in drawn for name in ("difference to $\\frac$", "_rome<", "a$b$c<"))
    group = comparison.rows[0].model_copy(update={"metric": "locality.a$^$b.greedy"})
    svg = write_comparison(comparison.model_copy(update={"rows": (group,)}), tmp_path / "own.svg").read_text()
    assert "locality.a$^$b.greedy" in svg, "the group of a user's own probes"


def test_difference_is_that_of_the_means(run: Run) -> None:
    first, second = run("first", seed=1), run("second", seed=2)
    lines = (second / "records.jsonl").read_text().splitlines()
    failed = {**json.loads(lines[2]), "error": "ModelError: broken"}
    del failed["sections"]
    (second / "records.jsonl").write_text("\n".join([*lines[:2], json.dumps(failed), *lines[3:]]) + "\n")
    comparison = compare([first, second], metrics=["portability.nll", "editing_score"])
    for row in comparison.rows:
        assert row.n == RECORDS - 1
        means = [row.means[side].mean or 0.0 for side in ("first", "second")]
        assert row.differences["second"].mean == pytest.approx(means[1] - means[0])
    assert "second: rome broke the model of 1, whose shares count as 0" in comparison.notes


def test_failed_record_is_named_with_its_reason(run: Run) -> None:
    first, second = run("first", seed=1), run("second", seed=2)
    lines = [json.loads(line) for line in (second / "records.jsonl").read_text().splitlines()]
    for line in (lines[1], lines[4]):
        line["error"] = "GraphError: 'Naples' names 2 entities"
    (second / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "second: 2 failed; case-0: GraphError: 'Naples' names 2 entities" in compare([first, second]).notes


def test_editing_score_counts_the_records_of_its_rarest_part(run: Run) -> None:
    first, second = run("first", seed=1), run("second", seed=2)
    lines = [json.loads(line) for line in (second / "records.jsonl").read_text().splitlines()]
    for line in lines[2 : 3 * 40 : 3]:  # 40 records as edited
        line["sections"]["edited"]["scores"]["paraphrase.prob"] = None
    (second / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    comparison = compare([first, second])
    n = {row.metric: row.n for row in comparison.rows}
    assert (n["efficacy.prob"], n["paraphrase.prob"], n["editing_score"]) == (RECORDS, 20, 20)
    for folder in (first, second):
        lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
        for scores in (part["scores"] for line in lines for part in line.get("sections", {}).values()):
            scores["portability.greedy"] = None
        (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert {row.metric: row.n for row in compare([first, second]).rows}["editing_score"] == 20, "without questions"
    assert r"{efficacy.prob $\uparrow$}" in latex(comparison)
    assert r"{paraphrase.prob $\uparrow$ (n = 20)}" in latex(comparison)


def test_model_is_identified_by_its_content(run: Run) -> None:
    other = {"name": "./elsewhere", "fingerprint": "f", "dtype": "torch.float32"}
    assert compare([run("first", seed=1), run("second", seed=2, model=other)]).records == RECORDS


@pytest.mark.slow
def test_caption_says_what_could_have_been_found(run: Run) -> None:
    comparison = compare([run("first", seed=1), run("second", seed=2)])
    widths = {row.metric: row.differences["second"] for row in comparison.rows}
    sentence = r"With 60 records a true difference of ([\d.]+) in (\S+), the least certain"
    smallest, share = re.search(sentence, caption(comparison)).groups()  # type: ignore[union-attr]
    difference = widths[share]
    assert difference.ci95_low is not None and difference.ci95_high is not None
    assert float(smallest) == pytest.approx(1.43 * (difference.ci95_high - difference.ci95_low) / 2, abs=1e-3)
    assert "least certain" not in caption(compare([run("third", seed=1), run("fourth", seed=1)])), (
        "no difference at all"
    )
    few = caption(compare([run("fifth", seed=1, records=5), run("sixth", seed=2, records=5)]))
    assert "fewer than 6 records no difference" in few and "least certain" not in few


def test_records_of_no_known_file_are_compared_by_their_hashes(run: Run) -> None:
    """`evaluate` of Python has the records and not always their file."""
    assert compare([run("first", seed=1), run("second", seed=2, data=None)]).records == RECORDS


def test_other_records_are_left_out_on_request(run: Run) -> None:
    folders = [run("first", seed=1), run("second", seed=2, records=40)]
    comparison = compare(folders, common=True)
    assert comparison.records == 40
    assert "only the 40 records that all runs have (first has 60, second has 40)" in comparison.notes


def test_record_that_was_changed_is_another_one(run: Run) -> None:
    first, second = run("first", seed=1), run("second", seed=2)
    file = second / "records.jsonl"
    file.write_text(file.read_text().replace('"s7"', '"changed"'))
    assert compare([first, second], common=True).records == RECORDS - 1


def test_unfinished_run_is_cut_on_request(run: Run) -> None:
    folders = [run("first", seed=1), run("second", seed=2, lines=3 * 5 + 1)]
    assert compare(folders, common=True).records == 5


def test_metric_that_no_record_has_is_noted(run: Run) -> None:
    first = run("first", seed=1)
    assert "no record has missing on each side" in compare([first], metrics=["efficacy.prob", "missing"]).notes


@pytest.mark.slow
def test_table_has_every_format(run: Run, tmp_path: Path) -> None:
    comparison = compare([run("a_b", seed=1), run("second", seed=2)], against="unedited")
    text = markdown(comparison)
    header, _, first, *_ = text.splitlines()
    assert header == "| metric | n | unedited | a_b | second | a_b - unedited | p | second - unedited | p |"
    assert first.startswith("| efficacy.prob ↑ | 60 | 0.")
    assert "| **+0." in first
    assert "| <.001 |" in first
    assert "McNemar" in text
    for ending in ("md", "tex", "csv", "json", "png", "svg"):
        assert write_comparison(comparison, tmp_path / f"out.{ending}").stat().st_size > 500
    assert json.loads((tmp_path / "out.json").read_text())["rows"][0]["metric"] == "efficacy.prob"
    before = (tmp_path / "out.svg").read_bytes()
    write_comparison(comparison, tmp_path / "out.svg")
    assert (tmp_path / "out.svg").read_bytes() == before
    with pytest.raises(ConfigError, match=r"expected a file name that ends in \.md"):
        write_comparison(comparison, tmp_path / "out.docx")


def test_table_names_the_runs_and_the_better_direction(run: Run) -> None:
    comparison = compare([run("first", seed=1), run("second", seed=2)])
    assert (comparison.model, comparison.data, comparison.schedule) == ("tiny", "counterfact-plus", "single")
    text = markdown(comparison)
    assert "60 records of counterfact-plus on tiny under the schedule single. ↑: higher is better, ↓: lower." in text
    assert "| efficacy.prob ↑ |" in text and "| portability.nll ↓ |" in text


def test_latex_table_has_a_line_for_each_metric_and_run(run: Run) -> None:
    folders = [run("a_b", seed=1), run("second", seed=2)]
    result = compare(folders, metrics=["portability.nll", "efficacy.prob"], against="unedited")
    text = latex(result)
    _, nll, *rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert nll == r"\multicolumn{4}{l}{portability.nll $\downarrow$} \\"
    assert [row.split(" & ")[0] for row in rows[:3]] == [r"\quad unedited", r"\quad a\_b", r"\quad second"]
    low, high = result.rows[0].means["second"].ci95_low, result.rows[0].means["second"].ci95_high
    assert rf"& \textbf{{{result.rows[0].means['second'].mean:.3f}}} {{\scriptsize [{low:.3f}, {high:.3f}]}}" in rows[2]
    assert "textbf" not in rows[0]
    assert text.count(r"\begin{table}") == text.count(r"\caption") == 1


def test_several_runs_are_shown_beside_the_unedited_model_which_is_not_tested(run: Run, tmp_path: Path) -> None:
    folders = [run("first", seed=1), run("second", seed=2)]
    result = compare(folders, metrics=["efficacy.prob"])
    alone = compare(folders, metrics=["efficacy.prob"], against="unedited")
    assert result.sides == ("first", "second") and result.shown == alone.sides == ("unedited", "first", "second")
    assert result.rows[0].means == alone.rows[0].means
    assert list(result.rows[0].differences) == ["second"]
    assert markdown(result).startswith("| metric | n | unedited | first | second | second - first | p |")
    with write_comparison(result, tmp_path / "out.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["side"] for row in rows] == ["unedited", "first", "second"]
    assert [row["difference"] for row in rows[:2]] == ["", ""] and float(rows[2]["p"]) > 0
    assert result.to_frame().to_dict("records")[2]["mean"] == float(rows[2]["mean"])
    assert repr(result).startswith("Comparison(first, second: ") and "<td>efficacy.prob</td>" in result._repr_html_()


def test_metric_without_the_unedited_model_has_no_cell_for_it(run: Run) -> None:
    folders = [run("first", seed=1), run("second", seed=2)]
    for folder in folders:
        lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
        lines[0]["sections"]["base"]["scores"]["efficacy.prob"] = None
        (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    comparison = compare(folders, metrics=["efficacy.prob", "paraphrase.prob"])
    assert [("unedited" in row.means, row.n) for row in comparison.rows] == [(False, RECORDS), (True, RECORDS)]
    assert f"| efficacy.prob ↑ | {RECORDS} |  | " in markdown(comparison)


def test_terminals_table_fits_80_columns_without_broken_words(run: Run) -> None:
    names = ("ripples-smollm2-rome", "ripples-smollm2-glame-plus", "third")
    comparison = compare([run(name, seed=seed) for seed, name in enumerate(names)])
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(rich_comparison(comparison))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    (metric,) = [index for index, line in enumerate(lines) if line.startswith("efficacy.prob ↑")]
    assert "n=60" in lines[metric]
    assert [line.split()[0] for line in lines[metric + 1 : metric + 5]] == ["unedited", *names]
    assert lines[metric + 3].count("[") == 1 and "…" not in "".join(lines)


def test_one_record_has_no_interval(run: Run, tmp_path: Path) -> None:
    comparison = compare([run("first", seed=1, records=1), run("second", seed=2, records=1)])
    assert {row[end] for row in comparison.table for end in ("ci95_low", "difference_low", "difference_high")} == {None}
    assert write_comparison(comparison, tmp_path / "table.png").stat().st_size > 0
    assert "[" not in latex(comparison)
    text = markdown(comparison)
    assert "[" not in "".join(line for line in text.splitlines() if line.startswith("| efficacy.prob"))
    assert "1 record of counterfact-plus" in text


def test_latex_is_one_tabular_with_every_metric_difference_and_p(run: Run) -> None:
    comparison = compare([run("first", seed=1), run("second", seed=2)])
    text = latex(comparison)
    assert text.count(r"\begin{tabular}") == 1
    lines = [line for line in text.splitlines() if r"\quad second &" in line]
    assert len(lines) == len(comparison.rows)
    for line, row in zip(lines, comparison.rows, strict=True):
        _, mean, difference, p = line.removesuffix(r" \\").split(" & ")
        change = row.differences["second"]
        assert f"{row.means['second'].mean:.3f}" in mean
        shown = float(difference.split()[0].replace("$-$", "-"))
        assert shown == pytest.approx(change.mean, abs=5e-4)
        assert p == ("$<$.001" if change.p < 0.001 else f"{change.p:.3f}")


def test_what_rounding_leaves_is_shown_as_zero(run: Run) -> None:
    comparison = compare([run("first", seed=1), run("second", seed=2)])
    (row, *_) = comparison.rows
    change = row.differences["second"].model_copy(update={"ci95_low": -6.9e-18, "mean": 0.4, "ci95_high": 0.792})
    rounded = comparison.model_copy(update={"rows": (row.model_copy(update={"differences": {"second": change}}),)})
    for text in (markdown(rounded), latex(rounded)):
        assert "e-18" not in text and "+0.400" in text and "[+0.000, +0.792]" in text
