"""What the trained networks (MEND, KE, SERAC) learn to keep: neighbours, or the locality probes of a record."""

from __future__ import annotations

from pathlib import Path

import pytest

from kg_edit.cli.training import training_records
from kg_edit.datasets import find_dataset
from kg_edit.datasets.record import BenchmarkRecord
from kg_edit.methods.mend.examples import make_examples
from kg_edit.methods.serac.examples import ExampleOrder
from kg_edit.methods.serac.network import SeracTraining
from kg_edit.methods.trained.lessons import Lesson, digest_of, lessons_of
from kg_edit.storage.run_folder import digest
from tests.kg_edit.datasets.rows import ZSRE, written
from tests.kg_edit.methods.mend.examples import edits
from tests.kg_edit.tiny import tiny

KEPT = ("nq question: who plays the hulk?", "Mark Ruffalo")


@pytest.fixture
def record(tmp_path: Path) -> BenchmarkRecord:
    """A record of zsRE, whose locality question belongs to the record and not to its edit."""
    (found,) = find_dataset("zsre").read(written(tmp_path, ZSRE)).records
    return found


def test_an_edit_keeps_its_neighbours_with_the_old_target() -> None:
    assert lessons_of(edits()[:1]) == [Lesson(edits()[0], (("The quick brown fox originates from", "France"),))]
    assert lessons_of(edits(neighbours=False)[:1])[0].kept == ()


def test_without_neighbours_the_records_locality_probes_are_kept(record: BenchmarkRecord) -> None:
    assert not record.edits[0].neighborhood
    assert lessons_of([record]) == [Lesson(record.edits[0], (KEPT,))]


def test_an_edit_with_neighbours_does_not_take_the_probes(record: BenchmarkRecord) -> None:
    both = record.model_copy(update={"edits": (edits()[0],)})
    assert lessons_of([both]) == lessons_of([edits()[0]])


def test_the_digest_tells_what_is_kept(record: BenchmarkRecord) -> None:
    some = edits()[:3]
    dumped = [edit.model_dump(mode="json", exclude_defaults=True) for edit in some]
    assert digest_of(lessons_of(some)) == digest(dumped), "as in the runs before records were read"
    assert digest_of(lessons_of([record])) != digest_of(lessons_of(record.edits))


def test_mend_and_ke_keep_the_answer_of_the_probe(record: BenchmarkRecord) -> None:
    model = tiny("llama")
    (example,) = make_examples(model, [record])
    assert example.unrelated == (model.encode(KEPT[0], target=KEPT[1]),)


def test_serac_reads_the_probe_as_out_of_scope(record: BenchmarkRecord) -> None:
    settings = SeracTraining.preset("default", {"validation": 1, "scope_batch": 2, "batch": 1, "behind": 0.0})
    rows = ExampleOrder([record] * 3, ("so it is",), settings).scope_rows(0)
    assert [text for _, text in rows.outside] == [KEPT[0]] * 2


def test_a_subject_that_is_left_out_leaves_the_others_of_its_record(tmp_path: Path) -> None:
    """The command reads records, so that their probes are there, and leaves out edits."""
    data, other = written(tmp_path, ZSRE, {**ZSRE, "subject": "Ada", "src": "Who is Ada?"}), tmp_path / "other.json"
    other.write_text(
        data.read_text(encoding="utf-8").replace("Ada", "Eve").replace(ZSRE["loc"], "nq question: who wrote Dubliners")
    )
    (left,) = training_records(data, "zsre", None, [other])
    assert left.edits[0].subject == "Ada" and left.group("locality")
