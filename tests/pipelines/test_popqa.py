"""`popqa.py` asks with and without a paragraph."""

from __future__ import annotations

import json
from pathlib import Path

from tests.kg_edit.datasets.rows import POPQA
from tests.pipelines.scripts import Script, first_cells


def test_popqa_with_and_without_a_paragraph(script: Script, tmp_path: Path, tiny_folder: Path) -> None:
    """Run twice: the second run computes nothing, and writes the same."""
    rows = [
        {**POPQA, "id": n, "subj": name, "s_uri": f"http://www.wikidata.org/entity/Q{n}", "s_pop": 10 * n}
        | {"question": f"What is {name}'s occupation?", "paragraphs": str([{"title": name, "text": "politician"}])}
        for n, name in enumerate(("Ann", "Ben", "Cid", "Dan", "Eve"), 1)
    ]
    (tmp_path / "popqa.json").write_text(json.dumps(rows))
    command = ("popqa", "popqa.json", "--model", tiny_folder, "--out", "out", "--picture", "out/popularity.png")
    assert script(*command) == 0
    text, lines = (tmp_path / "out" / "table.md").read_text(), (tmp_path / "out" / "always" / "records.jsonl")
    assert "Limits from 2 questions: occupation " in text and "3 questions." in text
    assert len(first_cells(text)) == 6 and first_cells(text)[-1] == "all", "a row for each of three questions"
    assert (tmp_path / "out" / "popularity.png").stat().st_size > 5000
    before = lines.read_bytes()
    assert script(*command) == 0
    assert lines.read_bytes() == before and (tmp_path / "out" / "table.md").read_text() == text
    assert script(*command[:2], "--train", 0, "--model", tiny_folder, "--out", "none") == 2
    assert not (tmp_path / "none").exists(), "a part without questions is refused before any work"
