"""docs/files.md names every field of a row, and its examples are read."""

from __future__ import annotations

import re
from pathlib import Path

from kg_edit.edits.aliases import ALIASES
from kg_edit.edits.edit import Edit, Question
from kg_edit.edits.files import read_edits
from kg_edit.edits.rows import FIELDS
from wikidata_cache import WikidataCache, packaged_extract

EXTRACT = WikidataCache(packaged_extract())
PAGE = (Path(__file__).resolve().parents[1] / "docs" / "files.md").read_text(encoding="utf-8")


def test_every_field_and_every_other_name_is_there() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE, re.MULTILINE))
    assert set(rows) == set(Edit.model_fields)
    assert {field for name, field in ALIASES.items() if f"`{name}`" in rows[field]} == set(ALIASES.values())
    assert [name for name, field in ALIASES.items() if f"`{name}`" not in rows[field]] == []
    assert [name for name in (*FIELDS, *Question.model_fields, "candidates") if f"`{name}`" not in PAGE] == []


def test_ids_are_in_the_packaged_graph() -> None:
    """So that the examples run as they are printed."""
    ids = set(re.findall(r"\b[QP][0-9]+\b", PAGE))
    assert len(ids) > 5 and ids == EXTRACT.labels(ids).keys()


def test_the_examples_are_read(tmp_path: Path) -> None:
    edits: list[Edit] = []
    for number, block in enumerate(re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(block, encoding="utf-8")
        edits += read_edits(path, labels=EXTRACT).edits
    complete = edits[1]
    assert len(edits) == 7
    named = {name for name, value in complete if value}
    assert named == set(Edit.model_fields) - {"target_text"}, "the second one has every field of an edit of one fact"
    assert edits[2].target_text and not edits[2].subject
    assert edits[6].neighborhood == ("In Peru, the language spoken is",)
