"""Facts to trace: from edits, from the published list, and what is wrong with a list."""

from __future__ import annotations

import json
from pathlib import Path

from kg_edit.edits.edit import Edit
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


def test_read_known_replaces_the_subject_once(tmp_path: Path) -> None:
    twice = {"subject": "Apple", "prompt": "Apple, which is not Apple Records, is", "attribute": "a company"}
    facts = read_known(written(tmp_path, ROW, twice))
    assert facts[0] == TracedFact(id="known-3", subject="Beats Music", prompt="{} is owned by", answer="Apple")
    assert (facts[1].id, facts[1].text) == ("known-2", twice["prompt"])


def test_read_known_reads_the_published_list(shared: Path) -> None:
    """Meng et al. 2022 take 1,209 facts; each prompt gives back its text."""
    file = shared / "known_1000.json"
    facts, rows = read_known(file), json.loads(file.read_text())
    assert len(facts) == len({fact.id for fact in facts}) == 1209
    assert [fact.text for fact in facts] == [row["prompt"] for row in rows]
    assert (facts[0].prompt, facts[0].answer) == ("{} is located in the continent of", "Antarctica")
