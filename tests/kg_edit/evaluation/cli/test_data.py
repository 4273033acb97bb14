"""`kg-edit data check` and `kg-edit metrics`, through `main`."""

from __future__ import annotations

import json
from pathlib import Path

from kg_edit.edits.files import read_edits
from kg_edit.evaluation.records import Entry, RunFolder, Section
from tests.kg_edit.command_line import Run, cache, kg_edit, place, tiny_folder
from tests.kg_edit.evaluation.datasets.rows import COUNTERFACT, FLAT, MQUAKE, POPQA, QUESTION, written
from tests.kg_edit.evaluation.ripples.toy import graph_file
from tests.kg_edit.evaluation.test_judge import Server, server

__all__ = ["cache", "kg_edit", "place", "server", "tiny_folder"]  # fixtures


def test_check_of_a_clean_file_exits_with_0(kg_edit: Run, tmp_path: Path) -> None:
    result = kg_edit("data", "check", written(tmp_path, MQUAKE))
    assert result.code == 0
    assert result.out.strip().endswith("records.json: 1 record of mquake, no faults")


def test_check_prints_faults_and_exits_with_1(kg_edit: Run, tmp_path: Path) -> None:
    rows = [{**FLAT, "case_id": number, "target_new": "mother tongue"} for number in range(5)]
    result = kg_edit("data", "check", written(tmp_path, *rows), "--dataset", "counterfact")
    assert result.code == 1
    assert result.out.count("'mother tongue' in") == 3
    assert "and 2 more (--all lists them)" in result.out
    assert "5 records of counterfact, 5 faults" in result.out
    assert kg_edit("data", "check", tmp_path / "records.json", "--all").out.count("'mother tongue' in") == 5


def test_check_names_the_benchmark_that_a_file_looks_like(kg_edit: Run, tmp_path: Path) -> None:
    file = written(tmp_path, MQUAKE)
    result = kg_edit("data", "check", file, "--dataset", "zsre")
    assert result.code == 1 and "looks like mquake" in result.out and "--dataset mquake" in result.out
    assert json.loads(kg_edit("data", "check", file, "--dataset", "zsre", "--json").out)["looks_like"] == "mquake"
    assert "looks like" not in kg_edit("data", "check", file, "--dataset", "mquake").out


def test_check_prints_json(kg_edit: Run, tmp_path: Path) -> None:
    result = kg_edit("data", "check", written(tmp_path, {**FLAT, "subject": "Ada"}, FLAT | {"case_id": 4}), "--json")
    report = json.loads(result.out)
    assert result.code == 1
    assert (report["dataset"], report["records"]) == ("counterfact", 1)
    assert [(finding["kind"], finding["id"]) for finding in report["findings"]] == [("missing-subject", "3")]


def test_check_reads_labels_of_the_graph(kg_edit: Run, place: Path, tmp_path: Path) -> None:
    (place / "labels.tsv").write_text("subject\tproperty\tobject\nQ82955\tlabel\tpolitician\nQ82955\tP31\tQ1\n")
    result = kg_edit("data", "check", written(tmp_path, POPQA), "--graph", "labels.tsv", "--json")
    assert [finding["message"] for finding in json.loads(result.out)["findings"]] == [
        "the graph has no label for Q5543720"
    ]


def test_wrong_arguments_are_one_message(kg_edit: Run, tmp_path: Path) -> None:
    result = kg_edit("data", "check", written(tmp_path, MQUAKE), "--dataset", "mquak")
    assert (result.code, "did you mean 'mquake'" in result.err) == (2, True)
    assert kg_edit("data", "check", tmp_path / "absent.json").code == 2


def test_metrics_are_listed(kg_edit: Run) -> None:
    assert "multihop.any_of_3" in kg_edit("metrics").out
    assert kg_edit("metrics", "--markdown").out.startswith("<!-- Written by")


def test_judge_judges_the_answers_of_a_run(kg_edit: Run, server: Server, tmp_path: Path) -> None:
    data = written(tmp_path, {**COUNTERFACT, "portability": QUESTION})
    section = Section(scores={}, nll={}, texts={QUESTION["New Question"]: " Florida"})
    run = tmp_path / "run"
    run.mkdir()
    RunFolder(run).append([Entry(id="7", phase="edited", sha256="0", sections={"edited": section})])
    result = kg_edit("judge", run, "--data", data, "--judge", server.url, "--judge-model", "m")
    assert (result.code, len(server.asked)) == (0, 1)
    assert "edited  portability.judge  1.000" in result.out
    other = kg_edit("judge", run, "--data", data, "--dataset", "zsre", "--judge", server.url)
    assert (other.code, "looks like counterfact" in other.err, len(server.asked)) == (
        2,
        True,
        1,
    )


def test_drawn_edits_are_written_with_questions(kg_edit: Run, place: Path) -> None:
    graph_file(place)
    options = ("data", "edits", "--graph", "toy.nt", "--relations", "P17", "--n", "20")
    result = kg_edit(*options, "--questions", "--out", "drawn.jsonl")
    assert result.code == 0, result.err
    edits = read_edits(place / "drawn.jsonl").edits
    questions = {
        (edit.target_new, q.question.partition(" of the ")[0], q.answer) for edit in edits for q in edit.portability
    }
    assert ("Japan", "What is the capital", "Tokyo") in questions
    of = {edit.subject: edit for edit in edits}
    assert of["Osaka"].target_true == "Japan"
    assert set(of["Osaka"].neighborhood) == {"Kyoto lies in the country of", "Tokyo lies in the country of"}
    assert of["Oslo"].target_true == "Norway" and of["Oslo"].neighborhood == (), "no other city of Norway"
    assert f"{len(edits)} edits, {sum(len(edit.portability) for edit in edits)} questions" in result.out
    assert kg_edit(*options, "--out", "plain.jsonl").code == 0
    assert not any(edit.portability for edit in read_edits(place / "plain.jsonl").edits)
    refused = kg_edit(*options, "--out", "drawn.json")
    assert refused.code == 2 and "ends in .jsonl" in refused.err
    excluded = (place / "edits.jsonl").read_text()
    refused = kg_edit(*options, "--exclude", "edits.jsonl", "--out", "edits.jsonl")
    assert refused.code == 2 and "--out edits.jsonl is the input file itself" in refused.err
    assert (place / "edits.jsonl").read_text() == excluded
