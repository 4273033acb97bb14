"""The locality prompts that MEND, KE and SERAC train on: neighbours, or the locality probes of a record."""

from __future__ import annotations

from pathlib import Path

import pytest

from kg_edit.edits.edit import LocalityPrompt
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.evaluation.datasets.own_edits import record_of
from kg_edit.zoo.cli.training import training_records
from kg_edit.zoo.mend.examples import make_examples
from kg_edit.zoo.serac.examples import ExampleOrder
from kg_edit.zoo.serac.network import SeracTraining
from kg_edit.zoo.trained.edits import TrainingEdit, digest_of, training_edits
from tests.kg_edit.evaluation.datasets.rows import ZSRE, written
from tests.kg_edit.tiny import tiny
from tests.kg_edit.zoo.mend.examples import edits

LOCALITY = ("nq question: who plays the hulk?", "Mark Ruffalo")


@pytest.fixture
def record(tmp_path: Path) -> BenchmarkRecord:
    """A record of zsRE, whose locality question belongs to the record and not to its edit."""
    (zsre_record,) = find_dataset("zsre").read(written(tmp_path, ZSRE)).records
    return zsre_record


def test_locality_prompts_are_neighbours_with_the_old_target() -> None:
    assert training_edits(edits()[:1]) == [
        TrainingEdit(edits()[0], (("The quick brown fox originates from", "France"),))
    ]
    assert training_edits(edits(neighbours=False)[:1])[0].locality == ()


def test_locality_prompts_are_the_records_probes_without_neighbours(record: BenchmarkRecord) -> None:
    assert not record.edits[0].neighborhood
    assert training_edits([record]) == [TrainingEdit(record.edits[0], (LOCALITY,))]


def test_locality_prompts_of_an_edit_are_those_of_its_file() -> None:
    alone = edits(neighbours=False)[0].model_copy(
        update={"locality": (LocalityPrompt(prompt=LOCALITY[0], answer="x"),)}
    )
    assert training_edits([alone]) == training_edits([record_of(alone)]) == [TrainingEdit(alone, ((LOCALITY[0], "x"),))]


def test_edit_with_neighbours_does_not_get_the_probes(record: BenchmarkRecord) -> None:
    both = record.model_copy(update={"edits": (edits()[0],)})
    assert training_edits([both]) == training_edits([edits()[0]])


def test_digest_depends_on_the_locality_prompts(record: BenchmarkRecord) -> None:
    assert digest_of(training_edits(edits()[:3])) == digest_of(training_edits(list(edits()[:3])))
    assert digest_of(training_edits([record])) != digest_of(training_edits(record.edits))


def test_mend_examples_have_the_answer_of_the_probe(record: BenchmarkRecord) -> None:
    model = tiny("llama")
    (example,) = make_examples(model, [record])
    assert example.unrelated == (model.encode(LOCALITY[0], target=LOCALITY[1]),)


def test_serac_texts_out_of_scope_have_the_probe(record: BenchmarkRecord) -> None:
    settings = SeracTraining.preset("default", {"validation": 1, "scope_batch": 2, "batch": 1, "behind": 0.0})
    rows = ExampleOrder([record] * 3, ("so it is",), settings).scope_rows(0)
    assert [text for _, text in rows.outside] == [LOCALITY[0]] * 2


def test_left_out_subject_leaves_the_other_edits_of_its_record(tmp_path: Path) -> None:
    """The command reads records, so that their probes are there, and leaves out edits."""
    data, other = written(tmp_path, ZSRE, {**ZSRE, "subject": "Ada", "src": "Who is Ada?"}), tmp_path / "other.json"
    other.write_text(
        data.read_text(encoding="utf-8").replace("Ada", "Eve").replace(ZSRE["loc"], "nq question: who wrote Dubliners")
    )
    (remaining,) = training_records(data, "zsre", None, [other])
    assert remaining.edits[0].subject == "Ada" and remaining.group("locality")
