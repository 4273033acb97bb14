"""Unstructured edits: a paragraph as the target, without a subject, or with one that stands in the prompt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kg_edit.edits.edit import Edit, parse_record
from kg_edit.edits.files import read_edits, write_edits
from kg_edit.edits.inputs import as_edits
from kg_edit.errors import EditError

TEXT = "Ada wrote notes on an engine. They were long."


def test_paragraph_is_the_new_target(tmp_path: Path) -> None:
    edit = parse_record(Edit, {"prompt": "What did Ada do?", "target_text": TEXT.replace("engine. ", "engine.\n\n")})
    assert (edit.target_new, edit.target_text, edit.subject, edit.text) == (TEXT, TEXT, "", "What did Ada do?")
    assert edit.id.startswith("what-did-ada-do-")
    path = tmp_path / "edits.jsonl"
    write_edits(path, [edit])
    assert read_edits(path).edits == (edit,), "what is written has both fields"
    row = {"prompt": "What did Ada do?", "target_text": TEXT, "subject": "Ada"}
    assert as_edits(row)[0].text == "What did Ada do?"
    path.write_text(json.dumps({**row, "prompt": "What did {} do?"}) + "\n", encoding="utf-8")
    assert read_edits(path).edits[0].text == "What did Ada do?"
    table = tmp_path / "edits.csv"
    table.write_text(f'prompt,target_text\nWhat did Ada do?,"{TEXT}"\n', encoding="utf-8")
    assert read_edits(table).edits[0].target_new == TEXT


def test_subject_none_is_no_subject() -> None:
    assert Edit(subject=None, prompt="Who?", target_text=TEXT) == Edit(prompt="Who?", target_text=TEXT)


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        (
            {"prompt": "Who is {}?", "target_text": TEXT},
            "prompt",
            "has a place {} for a subject, and the edit has none",
        ),
        ({"prompt": "Who?", "target_text": TEXT, "target_new": "old"}, "target_text", "has a target_new too; keep one"),
        ({"prompt": "{} is", "target_new": "old"}, "subject", "is missing; expected s"),
        ({"prompt": "Who?", "target_text": " "}, "target_text", "is empty; expected a paragraph"),
        ({"prompt": "Who?", "subject": "Ada", "target_text": TEXT}, "prompt", "'Ada' does not occur in it"),
    ],
)
def test_fault_names_the_way_out(fields: dict[str, object], field: str, message: str) -> None:
    with pytest.raises(EditError) as raised:
        parse_record(Edit, fields)
    assert [fault.message for fault in raised.value.faults if fault.field == field and message in fault.message]
