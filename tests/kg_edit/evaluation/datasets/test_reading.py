from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from kg_edit.edits.files import read_edits
from kg_edit.edits.record import as_record
from kg_edit.errors import EditFileError
from kg_edit.evaluation.datasets import find_dataset, guess_dataset, known_datasets, read_dataset
from tests.kg_edit.edit_rows import Labels
from tests.kg_edit.evaluation.datasets.rows import (
    AKEW,
    COUNTERFACT,
    ENTITY,
    FACT,
    HALLUEDIT,
    MQUAKE,
    POPQA,
    QAEDIT,
    QUESTION,
    RIPPLE,
    RIPPLES,
    UNKE,
    WIKIBIO,
    ZSRE,
    written,
)

MISSING = "is missing; expected o*, what the edited model should predict"
ROWS: dict[str, dict[str, Any]] = {
    "counterfact": COUNTERFACT,
    "counterfact-plus": {**COUNTERFACT, "portability": QUESTION},
    "mquake": MQUAKE,
    "zsre": ZSRE,
    "zsre-alt": ZSRE,
    "ripple-edits": RIPPLE,
    "ripples": RIPPLES,
    "knowedit": FACT,
    "wikibio": WIKIBIO,
    "popqa": POPQA,
    "entity-inferences": ENTITY,
    "halluedit": HALLUEDIT,
    "qaedit": QAEDIT,
    "unke": UNKE,
    "akew": AKEW,
    "edits": {"id": "a", "subject": "Ada", "prompt": "{} is", "target_new": "old"},
}


@pytest.mark.parametrize("name", known_datasets())
def test_unknown_field_is_named_with_file_and_record(name: str, tmp_path: Path) -> None:
    row = {**ROWS[name], "subjet": "x"}
    file = written(tmp_path, row)
    with pytest.raises(EditFileError) as error:
        find_dataset(name)(file)
    assert str(error.value).startswith(f"{file}, record 1, field subjet: unknown field")


@pytest.mark.parametrize("name", known_datasets())
def test_declared_measures_cover_the_record(name: str, tmp_path: Path) -> None:
    (record,) = find_dataset(name)(written(tmp_path, ROWS[name]))
    dataset = known_datasets()[name]
    assert {probe.measures for probe in record.probes} <= set(dataset.measures)
    parts = {"target_true": "target_true", "paraphrases": "paraphrases", "neighborhood": "neighborhood"}
    parts |= {"portability": "questions"}
    has = {part for field, part in parts.items() for edit in record.edits if getattr(edit, field)}
    assert has <= set(dataset.edits_have)


@pytest.mark.parametrize("name", ["ripples", "edits"])
def test_path_may_be_a_text(name: str, tmp_path: Path) -> None:
    file = written(tmp_path, ROWS[name])
    assert find_dataset(name)(str(file)) == find_dataset(name)(file) != ()
    for missing in ("nope", "../t3/contra2.jsonl"):
        with pytest.raises(EditFileError, match="no such file"):
            find_dataset(name)(missing)


def test_json_lines_and_single_records_are_read(tmp_path: Path) -> None:
    lines, alone = tmp_path / "lines.json", tmp_path / "alone.json"
    lines.write_text(json.dumps(ENTITY) + "\n\n" + json.dumps({**ENTITY, "ex_id": "b"}) + "\n")
    alone.write_text(json.dumps(ENTITY))
    assert [record.id for record in find_dataset("entity-inferences")(lines)] == ["disaster_0", "b"]
    assert len(find_dataset("entity-inferences")(alone)) == 1


def test_limit_counts_rows(tmp_path: Path) -> None:
    reading = find_dataset("zsre").read(written(tmp_path, {}, ZSRE, ZSRE), limit=2)
    assert [record.id for record in reading.records] == ["row-2"]
    assert {problem.row for problem in reading.problems} == {1}


def test_as_record_wraps_an_edit(tmp_path: Path) -> None:
    (record,) = find_dataset("edits")(written(tmp_path, ROWS["edits"]))
    assert as_record(record.edits[0]) == record.model_copy(update={"form": "", "probes": ()})
    assert as_record(record) is record


def test_own_edits_are_read_as_edit_reads_them(tmp_path: Path) -> None:
    """In each format, with the same ids, labels and lines."""
    row = {"subject": "Ada", "prompt": "{} is", "target_new": "old", "locality": "Snow is", "locality_answer": "white"}
    table = [",".join(row), ",".join(row.values()), "Bob,{} is,,,"]
    contents = {
        "a.jsonl": json.dumps(row) + "\n" + json.dumps({"subject": "Bob", "prompt": "{} is"}) + "\n",
        "a.json": json.dumps([row, {"subject": "Bob", "prompt": "{} is"}]),
        "a.csv": "\n".join(table),
        "a.tsv": "\n".join(table).replace(",", "\t"),
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
        for reading in (
            find_dataset("edits").read(tmp_path / name),
            guess_dataset(tmp_path / name).read(tmp_path / name),
        ):
            (record,) = reading.records
            assert record.edits == read_edits(tmp_path / name, keep_going=True).edits
            (probe,) = record.group("locality")
            assert (probe.queries[0].prompt, probe.queries[0].answers) == ("Snow is", (("white",),))
            where = {"a.jsonl": "line 2", "a.json": "record 2"}.get(name, "line 3")
            assert [str(p) for p in reading.problems] == [f"{tmp_path / name}, {where}, field target_new: {MISSING}"]


def test_ids_of_own_edits_get_their_labels(tmp_path: Path) -> None:
    file = written(tmp_path, {"subject": "Q36159", "relation": "P54", "new_object": "Q121783"})
    assert "for which there is no label" in str(find_dataset("edits").read(file).problems[0])
    (record,) = find_dataset("edits")(file, labels=Labels())
    assert (record.edits[0].subject, record.edits[0].target_new) == ("LeBron James", "Los Angeles Lakers")


@pytest.mark.parametrize("keep_going", [False, True])
def test_file_of_another_benchmark_is_named(tmp_path: Path, keep_going: bool) -> None:
    file = written(tmp_path, ZSRE)
    with pytest.raises(EditFileError) as caught:
        read_dataset("counterfact", file, keep_going=keep_going)
    first, fault, *_, last = str(caught.value).splitlines()
    assert first == f"{file} looks like zsre: --dataset zsre. Its faults as counterfact:"
    assert "record 1, field case_id: is missing" in fault
    assert re.fullmatch(r"and \d+ more faults?; 1 record has faults", last)
    with pytest.raises(EditFileError, match=r"looks like zsre: find_dataset\('zsre'\) reads it"):
        find_dataset("counterfact")(file)
    faulty = written(tmp_path, ZSRE, {**ZSRE, "subject": ""})
    if keep_going:
        assert len(read_dataset("zsre", faulty, keep_going=True).records) == 1
        return
    with pytest.raises(EditFileError, match="record 2, field subject") as caught:
        read_dataset("zsre", faulty)
    assert "looks like" not in str(caught.value)


def test_fault_beyond_the_rows_that_are_used_is_only_reported(tmp_path: Path) -> None:
    file = written(tmp_path, ZSRE, {**ZSRE, "subject": ""})
    reading = read_dataset("zsre", file, used=slice(0, 1))
    assert (len(reading.records), [problem.row for problem in reading.problems]) == (1, [2])
    with pytest.raises(EditFileError, match=r"record 2, field subject.*\n.*--keep-going"):
        read_dataset("zsre", file, used=slice(1, 2), hint="use --keep-going")
    earlier = written(tmp_path, {**ZSRE, "subject": ""}, ZSRE)
    assert len(read_dataset("zsre", earlier, used=slice(1, None)).records) == 1


def test_reading_that_asks_the_files_questions_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_dataset("zsre", written(tmp_path, ZSRE))
    assert not caplog.messages
    file = written(tmp_path, {**ZSRE, "inverse question": "Who is Marian Clairmont's sister?"})
    read_dataset("zsre", file)
    assert "--dataset zsre-alt, which asks them" in caplog.text


def test_hub_data_set_is_read_from_a_folder(tmp_path: Path) -> None:
    """Rows of a hub's table have each field; what a row lacks is null there."""
    pytest.importorskip("datasets", reason="the extra kg-edit[hf] is not installed")
    folder = tmp_path / "hub"
    folder.mkdir()
    lines = (json.dumps(row) + "\n" for row in (ZSRE, {**ZSRE, "portability": QUESTION}))
    (folder / "train.jsonl").write_text("".join(lines))
    records = find_dataset("zsre-alt")(Path(f"hf:{folder}"))
    assert [len(record.edits[0].portability) for record in records] == [0, 1]
    assert len(find_dataset("zsre-alt")(Path(f"hf:{folder}::train[:1]"))) == 1
