"""Current facts of a graph, and the names of things."""

from __future__ import annotations

from pathlib import Path

from kg_edit.evaluation.ripples.edits import find_candidates, split_of
from kg_edit.evaluation.ripples.questions import find_fact
from kg_edit.evaluation.ripples.words import RippleWords
from tests.kg_edit.evaluation.ripples.toy import table_of


def test_current_object_is_not_of_the_past(tmp_path: Path) -> None:
    table = table_of(tmp_path)
    assert set(table.objects("Q1", "P17")) == {"Q11", "Q13"}
    assert table.current("Q1", "P17") == "Q11"
    assert table.current("Q1", "P36") is None
    table.relations("Q2")
    assert table.leads_to("Q1") == [("P36", "Q11")]


def test_names_are_usable_aliases(tmp_path: Path) -> None:
    table = table_of(tmp_path)
    assert table.names("Q21") == ("Tokyo",)  # Edo has three letters
    assert table.names("Q12") == ("Japan", "JP")
    assert table.names("Q1") == ("Rome", "Eternal City")


def test_fact_of_has_names(tmp_path: Path) -> None:
    table = table_of(tmp_path)
    fact = find_fact(table, "Q12", "P36")
    assert fact is not None
    assert (fact.thing, fact.object, fact.relation) == ("Japan", "Tokyo", "P36")
    assert find_fact(table, "Q4", "P36") is None


def test_candidates_are_subjects_and_objects_of_the_class(tmp_path: Path) -> None:
    drawn = find_candidates(table_of(tmp_path), "P17", seed=0)
    assert drawn.subjects["Q1"] == "Q11"
    assert set(drawn.targets) == {"Q11", "Q12", "Q14", "Q15", "Q16"}  # the Papal States are of the past


def test_split_has_a_third_for_development() -> None:
    share = sum(split_of(f"Q{number}") == "dev" for number in range(3000)) / 3000
    assert 0.3 < share < 0.37


def test_own_words_replace_the_packaged_ones(tmp_path: Path) -> None:
    file = tmp_path / "words.toml"
    file.write_text('asked = ["P36"]\n[nouns]\nP36 = "seat of government"\n')
    words = RippleWords.load(file)
    assert words.asked == ("P36",)
    assert (words.nouns["P36"], words.nouns["P17"]) == ("seat of government", "country")
    assert words.knowledge == RippleWords.load().knowledge
