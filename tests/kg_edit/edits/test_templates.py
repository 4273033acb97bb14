"""The packaged relation templates, and a user's own on top of them."""

import json
from pathlib import Path

import pytest

from kg_edit.edits import templates
from kg_edit.edits.inputs import as_edits
from kg_edit.edits.templates import RelationTemplates
from kg_edit.evaluation.datasets.own_edits import OWN_EDITS
from tests.conftest import SHARED

COUNTERFACT = SHARED / "counterfact_plus" / "dev.json"
HEADER = "property\tlabel\ttemplate\n"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return tmp_path / "own.tsv"


def test_packaged_templates_cover_counterfact() -> None:
    if not COUNTERFACT.exists():
        pytest.skip(f"needs CounterFactPlus records in {COUNTERFACT}")
    records = json.loads(COUNTERFACT.read_text(encoding="utf-8"))
    templates = RelationTemplates.load()
    ids = {record["requested_rewrite"]["relation_id"] for record in records}
    assert len(ids) == 34
    assert not [id_ for id_ in ids if templates.find(id_) is None]


def test_packaged_templates_end_before_the_object() -> None:
    for row in RelationTemplates.load().english_by_name.values():
        assert row.template.count("{}") == 1
        assert not row.template.endswith(("{}", ".", "?", " ")), row


def test_find_accepts_id_and_label_in_any_case() -> None:
    templates = RelationTemplates.load()
    row = templates.find("P54")
    assert row is not None
    assert row.template == "{} plays for"
    assert templates.find(" Member of Sports Team ") == row
    assert templates.find("p54") == row
    assert templates.find("P999999") is templates.find(None) is templates.find("") is None


def test_own_templates_replace_the_packaged_ones(own: Path) -> None:
    own.write_text(
        f"# ours\n{HEADER}P54\tplays for\t{{}} is a player of\n\n\tpet\tThe pet of {{}} is a\n",
        encoding="utf-8-sig",
    )
    templates = RelationTemplates.load(own)
    row = templates.find("P54")
    assert row is not None
    assert row.template == "{} is a player of"
    assert templates.find("plays for") == templates.find("member of sports team") == row
    pet = templates.find("pet")
    assert pet is not None
    assert pet.property_id == ""
    assert templates.find("P19") == RelationTemplates.load().find("P19")


def test_quotes_of_a_spreadsheet_are_not_part_of_a_template(own: Path) -> None:
    """A spreadsheet's text file has quotes around a cell with a comma, and writes a quote inside twice."""
    own.write_text(f'{HEADER}P36\tcapital\t"In {{}}, the ""capital"" is"\n')
    row = RelationTemplates.load(own).find("P36")
    assert row is not None and row.template == 'In {}, the "capital" is'


def test_table_is_read_once_for_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    tables, read = list[Path](), templates._read_table
    monkeypatch.setattr(templates, "_read_table", lambda *cells: tables.append(cells[0]) or read(*cells))
    rows = [{"subject": name, "relation": "P54", "new_object": "Miami Heat"} for name in ("LeBron James", "Shaq")]
    assert {edit.prompt for edit in as_edits(rows)} == {"{} plays for"}
    assert len(tables) == 1
    parse = OWN_EDITS.parser()
    assert [parse(row, row["subject"]).edits[0].subject for row in rows] == ["LeBron James", "Shaq"]
    assert len(tables) == 2
