"""Linking a text: homonyms stay ambiguous, every candidate has reasons, and no text breaks anything."""

from pathlib import Path

import pytest

from tests.wikidata_cache.link_graph import ROWS, homonyms, only
from tests.wikidata_cache.wikidata_helpers import facts
from wikidata_cache import WikidataCache
from wikidata_cache.linking import candidates
from wikidata_cache.linking.candidates import LEAD, Candidate, LinkResult, Reason
from wikidata_cache.linking.knowledge import EntityInfo
from wikidata_cache.linking.linker import Linker


@pytest.fixture
def linker(tmp_path: Path) -> Linker:
    return homonyms(tmp_path).linker


def ids(linked: LinkResult) -> list[str]:
    return [candidate.id for candidate in linked.candidates]


def reasons(candidate: Candidate) -> str:
    return " / ".join(map(str, candidate.reasons))


def test_link_of_homonyms_is_ambiguous(linker: Linker) -> None:
    linked = linker.link("French")
    assert linked.status == "ambiguous"
    assert ids(linked) == ["Q150", "Q121842"]


def test_score_is_the_sum_of_the_reasons(linker: Linker) -> None:
    best = linker.link("Paris").candidates[0]
    # A label, written exactly so (10), with 10 statements (1 for any, 1 for ten times one).
    expected = candidates.LABEL + candidates.IN_GRAPH + candidates.TENFOLD
    assert (best.id, best.score) == ("Q90", expected) == ("Q90", 12.0)
    assert [reason.points for reason in best.reasons] == [10.0, 2.0]
    assert reasons(best) == "+10.0 its label, exact match / +2.0 10 statements about it"
    assert (best.info.label, best.info.description, best.type_labels) == ("Paris", "capital of France", ("city",))
    # Ten statements against one are worth a point; a lead takes two.
    assert linker.link("Paris").status == "ambiguous"


def test_link_ranks_a_label_before_an_alias(tmp_path: Path) -> None:
    linker = homonyms(tmp_path, ROWS + "Q300 | alias | Earth\n").linker
    linked = linker.link("Earth")
    assert ids(linked) == ["Q2", "Q300"]
    assert linked.candidates[0].score - linked.candidates[1].score == pytest.approx(1.0)
    assert linked.status == "ambiguous"  # Q300 has a statement, Q2 has none: fame and name disagree


def test_relation_gives_points_to_types_at_its_end(linker: Linker) -> None:
    linked = linker.link("Paris", relation="P19")
    by_id = {candidate.id: candidate for candidate in linked.candidates}
    assert ids(linked)[:2] == ["Q830149", "Q90"]
    assert "city, like 100% of the values of P19" in reasons(by_id["Q90"])
    assert "object of P19 in the graph" in reasons(by_id["Q830149"])
    assert "object of P19" not in reasons(by_id["Q90"])
    assert by_id["Q90"].score - by_id["Q47899"].score == pytest.approx(4.0)  # 1 for fame, 3 for the type
    anna = linker.link("Anna", relation="P19", role="subject").candidates[0]
    assert anna.score == pytest.approx(18.3)  # 10 name, 1.3 two statements, 3 type, 4 has a place of birth


def test_relation_takes_points_from_other_types(tmp_path: Path) -> None:
    people = "".join(
        f"Q{n} | P31 | Q5\nQ{n} | P103 | Q{n + 1000}\nQ{n + 1000} | P31 | Q34770\n" for n in range(2001, 2041)
    )
    linker = homonyms(tmp_path, ROWS + people).linker
    linked = linker.link("French", relation="P103")
    assert only(linked).id == "Q150"
    other = linked.candidates[1]
    assert "-2.0 none of its types is common among the values of P103" in reasons(other)
    assert not other.can_settle
    alone = linker.link("France", relation="P103")  # a lone candidate of the wrong type does not settle either
    assert (ids(alone), alone.status) == (["Q142"], "ambiguous")


def test_relation_that_the_graph_lacks_is_noted(linker: Linker) -> None:
    linked = linker.link("France", relation="P999")
    assert linked.status == "exact"
    assert linked.notes == ("types were not compared: homonyms.nt has no objects of P999 with a type",)


def test_link_leaves_out_wikimedia_pages(tmp_path: Path) -> None:
    cache = homonyms(tmp_path)
    assert not {"Q200", "Q201"} & set(ids(cache.linker.link("Paris", limit=50)))
    asked_for = Linker(cache.linker.knowledge, facts(cache.source))
    assert "Q200" in ids(asked_for.link("Paris", limit=50))
    assert ids(cache.linker.link("Q200"))[0] == "Q200"  # giving the id is asking for it


def test_link_follows_merged_items(linker: Linker) -> None:
    by_name = linker.link("Old Paris").candidates[0]
    by_id = linker.link("Q1000").candidates[0]
    assert (by_name.id, by_id.id) == ("Q90", "Q90")
    assert "Q1000 was merged into it" in reasons(by_name)
    assert "Q1000 was merged into it" in reasons(by_id)


def test_link_of_an_id_checks_the_expected_label(linker: Linker) -> None:
    assert linker.link("Q90").status == "exact"
    for form in ("wd:Q90", "http://www.wikidata.org/entity/Q90", "https://www.wikidata.org/wiki/Q90"):
        assert only(linker.link(form)).id == "Q90"
    right = linker.link("Q90", expected_label="paris")
    assert "its label is the expected one" in reasons(only(right))
    assert "'City of Light' is another name of it" in reasons(only(linker.link("Q90", expected_label="City of Light")))
    wrong = linker.link("Q90", expected_label="Rome")
    assert wrong.status == "ambiguous"
    assert "its label is 'Paris', not 'Rome'" in reasons(wrong.candidates[0])


def test_link_of_an_unknown_id_is_ambiguous(linker: Linker) -> None:
    linked = linker.link("Q99999999")
    assert linked.status == "ambiguous"
    assert "homonyms.nt has no information about it" in reasons(linked.candidates[0])


def test_link_finds_properties(linker: Linker) -> None:
    assert only(linker.link("place of birth", kind="property")).id == "P19"
    assert only(linker.link("Born In", kind="property")).id == "P19"
    assert ids(linker.link("place", kind="property")) == ["P19", "P20"]
    assert linker.link("place", kind="property").status == "ambiguous"
    assert only(linker.link("https://www.wikidata.org/wiki/Property:P20", kind="property")).id == "P20"
    assert linker.link("P20", kind="item").status == "none"


def test_link_by_part_of_a_name_is_ambiguous(linker: Linker) -> None:
    linked = linker.link("South")
    assert ids(linked) == ["Q300"]
    assert linked.status == "ambiguous"
    assert "all words are in its alias 'Paris of the South'" in reasons(linked.candidates[0])


@pytest.mark.parametrize("text", ["", "  ", "\x00", "Nowhere", "x" * 100_000, "no " * 10_000, "\ud83d"])
def test_link_of_no_name_is_none(linker: Linker, text: str) -> None:
    linked = linker.link(text)
    assert (linked.status, linked.candidates) == ("none", ())


def test_limit_cuts_the_list_after_ranking(linker: Linker) -> None:
    full = linker.link("Paris", limit=50)
    assert len(full.candidates) > 3
    assert linker.link("Paris", limit=2).candidates == full.candidates[:2]


def test_a_candidate_beyond_the_limit_still_competes(linker: Linker) -> None:
    assert [len(linker.link("French", limit=limit).candidates) for limit in (1, 2)] == [1, 2]
    assert {linker.link("French", limit=limit).status for limit in (1, 2, 10)} == {"ambiguous"}
    assert linker.link("Rome", limit=1).status == "exact"


def test_status_is_exact_only_with_a_lead() -> None:
    def candidate(entity: str, score: float, can_settle: bool = True) -> Candidate:
        return Candidate(entity, EntityInfo("x"), [Reason(score, "because")], has_full_name=can_settle)

    assert LinkResult("x", (candidate("Q1", 10.0 + LEAD), candidate("Q2", 10.0)), "g").status == "exact"
    assert LinkResult("x", (candidate("Q1", 2.1 + LEAD), candidate("Q2", 2.1)), "g").status == "exact"  # 4.1 - 2.1 < 2
    assert LinkResult("x", (candidate("Q1", 9.9 + LEAD), candidate("Q2", 10.0)), "g").status == "ambiguous"
    assert LinkResult("x", (candidate("Q1", 99.0, can_settle=False),), "g").status == "ambiguous"


def test_link_in_the_packaged_extract(cache: WikidataCache) -> None:
    linked = cache.linker.link("los angeles", relation="P551")
    assert only(linked).id == "Q65"
    assert "city of the United States" in only(linked).type_labels
    assert only(cache.linker.link("LeBron James", relation="P54", role="subject")).id == "Q36159"
    assert only(cache.linker.link("place of birth", kind="property")).id == "P19"
