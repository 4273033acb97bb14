"""`kg-edit evaluate`, `merge` and `compare` as a user types them, on a tiny model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from kg_edit.edits.record import BenchmarkRecord
from kg_edit.errors import ConfigError, EditFileError
from kg_edit.evaluation.cli.evaluation import EvaluateOptions
from kg_edit.evaluation.datasets.lint import lint
from kg_edit.evaluation.quick_tasks import QuickTasks
from kg_edit.evaluation.ripples import known_only
from kg_edit.evaluation.ripples.known_only import KnownOnly
from tests.kg_edit.command_line import QUICK, TRIPLET, Result, Run, kg_edit, place, tiny_folder
from tests.kg_edit.evaluation.conftest import CITIES
from tests.kg_edit.tiny import tiny

__all__ = ["kg_edit", "place", "tiny_folder"]  # fixtures


def row(number: int, city: str) -> dict[str, object]:
    return {
        "case_id": number,
        "requested_rewrite": {
            "prompt": "{} plays for the",
            "relation_id": "P54",
            "target_new": {"str": "Miami Heat", "id": "Q169138"},
            "target_true": {"str": "Los Angeles Lakers", "id": "Q121783"},
            "subject": f"Player {number}",
        },
        "paraphrase_prompts": [f"The team of player {number} is"],
        "neighborhood_prompts": ["LeBron James plays for the"],
        "portability": {"New Question": f"Where does player {number} live?", "New Answer": city},
    }


@pytest.fixture
def evaluate(kg_edit: Run, place: Path, tiny_folder: Path) -> Run:
    """`kg-edit evaluate` on the first four records."""
    (place / "data.json").write_text(json.dumps([row(number, city) for number, city in enumerate(CITIES[:4])]))
    (place / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 5)
    fixed = ("--data", "data.json", "--method", "rome", "--set", "steps=2", *QUICK)

    def run(*arguments: str | Path) -> Result:
        return kg_edit("evaluate", *fixed, "--model", tiny_folder, *arguments)

    return run


@pytest.mark.slow
def test_sequence_in_two_shards_merged_and_compared(evaluate: Run, kg_edit: Run, place: Path) -> None:
    options = ("--schedule", "batch:1, sequential:2", "--evaluate-every", "1", "--general", "text.txt")
    for part in ("0", "1"):
        shard = evaluate(*options, "--shard", f"{part}/2", "--out", f"shard-{part}")
        assert shard.code == 0, shard.err
    assert "the edits of 2 records made on top of earlier ones, the model is reset after 2" in " ".join(
        shard.out.split()
    )
    merged = kg_edit("merge", "whole", "shard-1", "shard-0")
    assert merged.code == 0, merged.err
    assert "curve.svg" in merged.out
    again = evaluate(*options, "--out", "whole")
    assert again.code == 0, again.err
    assert json.loads((place / "whole" / "run.json").read_text())["schedule"] == "sequential:2"
    assert json.loads((place / "whole" / "summary.json").read_text())["n"] == 4
    compared = kg_edit("compare", "whole", "--out", "found.md", "--out", "found.png", "--metric", "portability.nll,")
    assert compared.code == 0, compared.err
    assert (place / "found.md").read_text().startswith("| metric | n | unedited | whole | whole - unedited | p |")


def test_shard_without_a_record_has_not_failed(evaluate: Run) -> None:
    result = evaluate("--limit", "1", "--shard", "1/2", "--out", "empty")
    assert (result.code, "edits of 0 records" in " ".join(result.out.split())) == (0, True), result.err


@pytest.mark.slow
def test_row_that_cannot_be_read_ends_the_run_or_is_skipped_and_counted(evaluate: Run, place: Path) -> None:
    rows = json.loads((place / "data.json").read_text())
    rows[1]["requested_rewrite"]["prompt"] = "He plays for the"  # the subject is absent
    (place / "data.json").write_text(json.dumps(rows))
    refused = evaluate("--out", "out")
    assert refused.code == 2
    assert "has no {}" in refused.err
    assert not (place / "out").exists()
    result = evaluate("--out", "out", "--keep-going")
    assert result.code == 0, result.err
    summary = json.loads((place / "out" / "summary.json").read_text())
    (skipped,) = summary["provenance"]["data"]["skipped"]
    assert summary["n"] == 3
    assert f"skipped 1 row of the whole file that can't be read: {skipped}\n" in result.err


def test_ids_of_judged_records_get_their_labels(kg_edit: Run, place: Path) -> None:
    questions = [{"question": "Where is the team?", "answer": "Los Angeles"}]
    (place / "own.jsonl").write_text(json.dumps({**TRIPLET, "portability": questions}))
    options = ("--dataset", "edits", "--data", "own.jsonl", "--graph", "graph.tsv", "--judge", "http://127.0.0.1:9/v1")
    (place / "run").mkdir()
    (place / "run" / "records.jsonl").write_text("")
    read = kg_edit("judge", "run", *options)
    assert (read.code, "no record of this run is in the data" in read.err) == (2, True), read.err


@pytest.mark.parametrize("wrong", [("--ray",), ("--model", "none/such"), ("--general-limit", "5")])
def test_run_is_not_deleted_by_a_command_that_is_refused(wrong: tuple[str, ...], evaluate: Run, place: Path) -> None:
    (place / "out").mkdir()
    (place / "out" / "run.json").write_text('{"job": "evaluate"}')
    assert evaluate("--out", "out", "--overwrite", *wrong).code == 2
    assert (place / "out" / "run.json").read_text() == '{"job": "evaluate"}'


def test_limit_of_documents_needs_tasks(evaluate: Run) -> None:
    result = evaluate("--general", "text.txt", "--general-limit", "5", "--out", "out")
    assert (result.code, "name some with --general" in result.err) == (2, True)


@pytest.mark.slow
def test_quick_sets_are_drawn_by_seed_and_limit(evaluate: Run, place: Path) -> None:
    rows = (json.dumps({"sentence": f"a film of {number} hours", "label": number % 2}) for number in range(9))
    (place / "sets").mkdir()
    (place / "sets" / "sst2.jsonl").write_text("\n".join(rows))
    options = (
        "--schedule",
        "batch:4",
        "--general",
        "quick:sets",
        "--general-limit",
        "4",
        "--seed",
        "5",
        "--out",
        "out",
    )
    result = evaluate(*options)
    assert result.code == 0, result.err
    assert "sets has no mrpc.jsonl" in " ".join(result.err.split())
    assert "quick.sst2.acc" in result.out
    assert json.loads((place / "out" / "summary.json").read_text())["general"]["general.quick.sst2.acc"]["n"] == 4
    drawn = QuickTasks.open(place / "sets", seed=5, rows=4).settings
    assert json.loads((place / "out" / "run.json").read_text())["general_quick"] == drawn


def test_ceilings_need_questions(evaluate: Run, place: Path) -> None:
    bare = {name: value for name, value in row(1, CITIES[0]).items() if name != "portability"}
    (place / "data.json").write_text(json.dumps([bare, row(2, CITIES[1])]))
    none = evaluate("--dataset", "counterfact", "--ceilings", "--limit", "1", "--out", "out")
    assert none.code == 2 and "no record has portability questions or recalled facts; leave it out" in none.err
    assert not (place / "out").exists()


@pytest.mark.slow
def test_skipped_records_are_not_scored(evaluate: Run, place: Path) -> None:
    result = evaluate("--skip", "2", "--limit", "1", "--out", "out")
    assert result.code == 0, result.err
    scored = [json.loads(line)["id"] for line in (place / "out" / "records.jsonl").read_text().splitlines()]
    assert set(scored) == {"2"}
    assert json.loads((place / "out" / "summary.json").read_text())["peak_memory"] > 1e8
    # A fault before the used records is no matter, and moves none of them.
    rows = json.loads((place / "data.json").read_text())
    rows[1]["requested_rewrite"]["prompt"] = "He plays for the"  # the subject is absent
    (place / "data.json").write_text(json.dumps(rows))
    again = evaluate("--skip", "2", "--limit", "1", "--out", "again")
    assert again.code == 0, again.err
    assert "skipped" not in again.err
    assert json.loads((place / "again" / "run.json").read_text())["ids"] == ["2"]
    none = evaluate("--skip", "4", "--out", "none")
    assert none.code == 2
    assert "--skip 4 leaves no record: data.json has 3; skip fewer" in " ".join(none.err.split())


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_limit_and_skip_share_no_record(wrong: int, place: Path) -> None:
    """Also of a file with a row that can't be read: settings are chosen on the first records, and tested on others."""
    rows = [row(number, city) for number, city in enumerate(CITIES[:4])]
    rows[wrong] = {"case_id": wrong}
    (place / "data.json").write_text(json.dumps(rows))
    ids = []
    for part in ({"limit": 2}, {"skip": 2}):
        evaluation = EvaluateOptions(data=place / "data.json", dataset="counterfact", keep_going=True, **part)
        content = evaluation.read()
        ids += [record.id for record in content.records[evaluation.span(content)]]
    assert ids == [str(number) for number in range(4) if number != wrong]


def test_skip_and_faults_of_a_table_count_rows(place: Path) -> None:
    """A table's first row is in its second line; a fault names the line."""
    rows = ["subject,prompt,target_new", "Ann,{} is", *(f"{name},{{}} lives in,Rome" for name in ("Bo", "Cy", "Di"))]
    (place / "own.csv").write_text("\n".join(rows))
    evaluation = EvaluateOptions(data=place / "own.csv", dataset="edits", skip=1, limit=2)
    content = evaluation.read()
    assert [record.id for record in content.records[evaluation.span(content)]] == ["row-2", "row-3"]
    assert [finding.message[:7] for finding in lint(content)] == ["line 2,"]
    with pytest.raises(EditFileError, match=r"own\.csv, line 2, found 2 cells"):
        replace(evaluation, skip=0, limit=1).read()


def test_skip_beyond_the_known_records_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "data.json").write_text(json.dumps([row(number, city) for number, city in enumerate(CITIES[:4])]))
    evaluation = EvaluateOptions(data=place / "data.json", dataset="counterfact", known_only=True, skip=2)
    content = evaluation.read()
    selected = KnownOnly(tuple(content.records[:2]), 2, 4)
    monkeypatch.setattr(known_only, "known_only", lambda *_, **__: selected)
    with pytest.raises(ConfigError, match="--skip 2 leaves none of the 2 records that --known-only leaves; skip fewer"):
        evaluation._select_known(tiny("llama"), content)


def test_known_only_may_use_any_row_so_each_must_be_readable(place: Path) -> None:
    rows = [row(number, city) for number, city in enumerate(CITIES[:3])]
    (place / "data.json").write_text(json.dumps([rows[0], {**rows[1], "requested_rewrite": 7}, rows[2]]))
    first = EvaluateOptions(data=place / "data.json", dataset="counterfact", limit=1)
    assert len(first.read().records) == 2
    with pytest.raises(EditFileError, match="record 2"):
        replace(first, known_only=True).read()


@pytest.mark.slow
def test_records_that_are_not_scored_need_no_chat_template(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    edits = [{"subject": "Paris", "prompt": "{} is", "target_new": "Lakers", "chat": chat} for chat in (False, True)]
    (place / "own.jsonl").write_text("".join(f"{json.dumps(edit)}\n" for edit in edits))
    run = ("evaluate", "--data", "own.jsonl", "--dataset", "edits", "--method", "ike", "--model", tiny_folder)
    refused, first = kg_edit(*run, "--out", "all"), kg_edit(*run, "--limit", "1", "--out", "one")
    assert refused.code == 2 and "chat template" in refused.err
    assert first.code == 0, first.err


def test_limit_asks_no_more_records_than_it_needs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "data.json").write_text(json.dumps([row(number, city) for number, city in enumerate(CITIES[:4])]))
    evaluation = EvaluateOptions(data=place / "data.json", dataset="counterfact", known_only=True, skip=1, limit=2)
    most = list[int]()

    def known(_: object, records: tuple[BenchmarkRecord, ...], **options: object) -> KnownOnly:
        most.append(cast(int, options["most"]))
        return KnownOnly(records, 4, 4)

    monkeypatch.setattr(known_only, "known_only", known)
    evaluation._select_known(tiny("llama"), evaluation.read())
    assert most == [3]


@pytest.mark.slow
def test_paragraphs_are_edited(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    """By `kg-edit edit` and `evaluate`."""
    edit = {"prompt": "Where is Paris?", "target_text": "Paris is the capital of France.\nThe fox jumps there."}
    (place / "texts.jsonl").write_text(json.dumps(edit))
    data = ("--data", "texts.jsonl", "--dataset", "edits")
    tuned = ("--method", "ft-m", "--set", "steps=3", "--model", tiny_folder)
    run = kg_edit("evaluate", *data, *tuned, "--out", "scores")
    assert run.code == 0, run.err
    edited = json.loads((place / "scores" / "summary.json").read_text())["edited"]
    assert all(edited[f"unstructured.{name}.greedy"]["mean"] is not None for name in ("rouge_l", "hidden_cosine"))
    edit_run = kg_edit("edit", "texts.jsonl", *tuned, "--no-locality-check", "--out", "made")
    assert edit_run.code == 0, edit_run.err
    assert "Where is Paris?" in (place / "made" / "report.md").read_text()


@pytest.mark.slow
def test_chat_form_is_named_where_a_chat_model_generates_nothing(kg_edit: Run, place: Path) -> None:
    text = {"prompt": "What is the capital of France?", "target_text": "Lyon is the capital of France."}
    (place / "texts.jsonl").write_text(json.dumps(text))
    command = ("evaluate", "--dataset", "edits", "--data", "texts.jsonl", "--method", "rag")
    plain = kg_edit(*command, "--out", "plain")
    chat = kg_edit(*command, "--edit-chat", "--chat", "--out", "chat")
    assert (plain.code, chat.code) == (0, 0), plain.err + chat.err
    assert "--edit-chat --chat edits and asks in chat form" in plain.err
    assert "in chat form" not in chat.err


@pytest.mark.slow
def test_own_edit_succeeds_in_evaluate_if_it_does_in_edit(kg_edit: Run, place: Path) -> None:
    """Also of a one-token subject at the start of a text, and of a CSV file."""
    (place / "own.csv").write_text(
        "subject,prompt,target_true,target_new\nGoogle,{} was founded by,Larry Page,Ada Lovelace\n"
    )
    method = ("--method", "rome", "--preset", "fast")
    edit_run = kg_edit("edit", "own.csv", *method, "--no-locality-check", "--out", "made")
    scored = kg_edit("evaluate", "--dataset", "edits", "--data", "own.csv", *method, "--out", "scored")
    assert (edit_run.code, scored.code) == (0, 0), edit_run.err + scored.err
    edited = json.loads((place / "scored" / "summary.json").read_text())["edited"]
    assert "1 of 1 edits succeeded" in edit_run.out and edited["efficacy.greedy"]["mean"] == 1
