"""Facts to trace: from edits, from the published list, and what is wrong with a list."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.errors import EditError, EditFileError
from kg_edit.evaluation.tracing.trace import TracedFact, facts_of, read_known

ROW = {"known_id": 3, "subject": "Beats Music", "prompt": "Beats Music is owned by", "attribute": "Apple"}


def written(folder: Path, *rows: object) -> Path:
    path = folder / "known.json"
    path.write_text(json.dumps(rows))
    return path


def test_facts_of_edits_have_the_old_object() -> None:
    edit = Edit(id="1", subject="France", prompt="In {}, the capital is", target_new="Rome", target_true="Paris")
    (fact,) = facts_of([edit])
    assert fact == TracedFact(id="1", subject="France", prompt="In {}, the capital is", answer="Paris")
    assert fact.text == "In France, the capital is"


def test_edit_without_a_subject_is_named() -> None:
    edit = Edit(id="ada", prompt="What did Ada do?", target_text="Ada wrote notes.")
    with pytest.raises(EditError, match="edit 'ada' has no subject"):
        facts_of([edit])


def test_read_known_replaces_the_subject_once(tmp_path: Path) -> None:
    twice = {"subject": "Apple", "prompt": "Apple, which is not Apple Records, is", "attribute": "a company"}
    facts = read_known(written(tmp_path, ROW, twice))
    assert facts[0] == TracedFact(id="known-3", subject="Beats Music", prompt="{} is owned by", answer="Apple")
    assert (facts[1].id, facts[1].text) == ("known-2", twice["prompt"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((), "found no rows; expected one known fact in each row"),
        ((ROW, ["x"]), "record 2, found a list; expected an object"),
        ((ROW, {**ROW, "subject": 7}), "record 2, field subject: found the number 7"),
        (
            (ROW, {**ROW, "prompt": "It is owned by"}),
            "record 2, field prompt: 'It is owned by' does not contain the subject",
        ),
        ((ROW, {**ROW, "atribute": "x"}), "field atribute: unknown field, did you mean 'attribute'"),
    ],
)
def test_read_known_error_names_file_record_and_field(tmp_path: Path, rows: tuple[object, ...], message: str) -> None:
    with pytest.raises(EditFileError, match=message) as caught:
        read_known(written(tmp_path, *rows))
    assert "known.json" in str(caught.value)


def test_read_known_reads_the_published_list(shared: Path) -> None:
    """Meng et al. 2022 take 1,209 facts; each prompt gives back its text."""
    file = shared / "known_1000.json"
    facts, rows = read_known(file), json.loads(file.read_text())
    assert len(facts) == len({fact.id for fact in facts}) == 1209
    assert [fact.text for fact in facts] == [row["prompt"] for row in rows]
    assert (facts[0].prompt, facts[0].answer) == ("{} is located in the continent of", "Antarctica")


@pytest.mark.parametrize("name", ["known.csv", "known.toml"])
def test_file_with_another_ending_is_no_list_of_known_facts(name: str, tmp_path: Path) -> None:
    """A table was read as one of edits, whose columns the message listed; other messages listed its ending."""
    (tmp_path / name).write_text("subject,prompt,attribute\nBerlin,Berlin is the capital of,Germany\n")
    with pytest.raises(EditFileError, match=r"expected \.json or \.jsonl, with rows of subject, prompt, attribute$"):
        read_known(tmp_path / name)
