"""Linking a text: homonyms stay a person's choice, every candidate says why, and no text breaks anything."""

from pathlib import Path

import pytest

from tests.wikidata_cache.link_graph import ROWS, homonyms
from wikidata_cache import WikidataCache
from wikidata_cache.errors import AmbiguousLabelError, BadOptionError, UnknownLabelError
from wikidata_cache.linking import candidates
from wikidata_cache.linking.candidates import LEAD, Candidate, LinkResult, Reason
from wikidata_cache.linking.linker import Linker


@pytest.fixture
def linker(tmp_path: Path) -> Linker:
    return homonyms(tmp_path).linker


def ids(linked: LinkResult) -> list[str]:
    return [candidate.id for candidate in linked.candidates]


def said(candidate: Candidate) -> str:
    return " / ".join(map(str, candidate.reasons))


def test_homonyms_are_ambiguous_and_nothing_is_guessed(linker: Linker) -> None:
    linked = linker.link("French")
    assert linked.status == "ambiguous"
    assert ids(linked) == ["Q150", "Q121842"]
    with pytest.raises(AmbiguousLabelError, match=r"2 entities: Q150 \(French: language\); Q121842"):
        linked.only()
    assert linked.only(policy="top").id == "Q150"


def test_scores_are_the_sums_of_their_reasons_counted_by_hand(linker: Linker) -> None:
    best = linker.link("Paris").candidates[0]
    # A label, written exactly so (10), with 10 statements (1 for any, 1 for ten times one).
    wanted = candidates.LABEL + candidates.IN_GRAPH + candidates.TENFOLD
    assert (best.id, best.score) == ("Q90", wanted) == ("Q90", 12.0)
    assert [reason.points for reason in best.reasons] == [10.0, 2.0]
    assert said(best) == "+10.0 its label, exact match / +2.0 10 statements about it"
    assert (best.label, best.description, best.types) == ("Paris", "capital of France", ("city",))


def test_fame_alone_settles_nothing(linker: Linker) -> None:
    # Ten statements against one are worth a point; a lead takes two.
    assert linker.link("Paris").status == "ambiguous"


def test_an_alias_of_one_and_the_label_of_another_do_not_compete(tmp_path: Path) -> None:
    linker = homonyms(tmp_path, ROWS + "Q300 | alias | Earth\n").linker
    linked = linker.link("Earth")
    assert ids(linked) == ["Q2", "Q300"]
    assert linked.candidates[0].score - linked.candidates[1].score == pytest.approx(1.0)
    assert linked.status == "ambiguous"  # Q300 has a statement, Q2 has none: fame and name disagree


def test_the_relation_tells_places_from_people(linker: Linker) -> None:
    linked = linker.link("Paris", relation="P19")
    by_id = {candidate.id: candidate for candidate in linked.candidates}
    assert ids(linked)[:2] == ["Q830149", "Q90"]
    assert "city, like 100% of the values of P19" in said(by_id["Q90"])
    assert "object of P19 in the graph" in said(by_id["Q830149"])
    assert "object of P19" not in said(by_id["Q90"])
    assert by_id["Q90"].score - by_id["Q47899"].score == pytest.approx(4.0)  # 1 for fame, 3 for the type
    anna = linker.link("Anna", relation="P19", role="subject").candidates[0]
    assert anna.score == pytest.approx(18.3)  # 10 name, 1.3 two statements, 3 type, 4 has a place of birth


def test_other_types_speak_against_a_candidate_where_enough_is_known(tmp_path: Path) -> None:
    people = "".join(
        f"Q{n} | P31 | Q5\nQ{n} | P103 | Q{n + 1000}\nQ{n + 1000} | P31 | Q34770\n" for n in range(2001, 2041)
    )
    linker = homonyms(tmp_path, ROWS + people).linker
    linked = linker.link("French", relation="P103")
    assert linked.status == "exact"
    assert linked.only().id == "Q150"
    other = linked.candidates[1]
    assert "-2.0 none of its types is common among the values of P103" in said(other)
    assert not other.can_settle
    alone = linker.link("France", relation="P103")  # a lone candidate of the wrong type does not settle either
    assert (ids(alone), alone.status) == (["Q142"], "ambiguous")


def test_a_relation_that_the_graph_does_not_have_is_said(linker: Linker) -> None:
    linked = linker.link("France", relation="P999")
    assert linked.status == "exact"
    assert linked.notes == ("types were not compared: homonyms.nt has no objects of P999 with a type",)


def test_a_relation_in_words_is_refused(linker: Linker) -> None:
    with pytest.raises(BadOptionError, match="expected a property id such as P551"):
        linker.link("Paris", relation="P19 } UNION { ?s ?p ?e")


def test_pages_of_wikimedia_itself_are_no_candidates(tmp_path: Path) -> None:
    cache = homonyms(tmp_path)
    assert not {"Q200", "Q201"} & set(ids(cache.linker.link("Paris", limit=50)))
    asked_for = Linker(cache.linker.knowledge, cache.facts, internal=())
    assert "Q200" in ids(asked_for.link("Paris", limit=50))
    assert ids(cache.linker.link("Q200"))[0] == "Q200"  # giving the id is asking for it


def test_a_merged_item_leads_to_where_it_went(linker: Linker) -> None:
    by_name = linker.link("Old Paris").candidates[0]
    by_id = linker.link("Q1000").candidates[0]
    assert (by_name.id, by_id.id) == ("Q90", "Q90")
    assert "Q1000 was merged into it" in said(by_name)
    assert "Q1000 was merged into it" in said(by_id)


def test_an_id_is_taken_and_checked_by_its_label(linker: Linker) -> None:
    assert linker.link("Q90").status == "exact"
    for form in ("wd:Q90", "http://www.wikidata.org/entity/Q90", "https://www.wikidata.org/wiki/Q90"):
        assert linker.link(form).only().id == "Q90"
    right = linker.link("Q90", expected_label="paris")
    assert right.status == "exact"
    assert "its label is the expected one" in said(right.only())
    assert "'City of Light' is another name of it" in said(linker.link("Q90", expected_label="City of Light").only())
    wrong = linker.link("Q90", expected_label="Rome")
    assert wrong.status == "ambiguous"
    assert "its label is 'Paris', not 'Rome'" in said(wrong.candidates[0])


def test_an_id_of_which_nothing_is_known_does_not_pass_silently(linker: Linker) -> None:
    linked = linker.link("Q99999999")
    assert linked.status == "ambiguous"
    assert "homonyms.nt has no information about it" in said(linked.candidates[0])


def test_properties(linker: Linker) -> None:
    assert linker.link("place of birth", kind="property").only().id == "P19"
    assert linker.link("Born In", kind="property").only().id == "P19"
    assert ids(linker.link("place", kind="property")) == ["P19", "P20"]
    assert linker.link("place", kind="property").status == "ambiguous"
    assert linker.link("https://www.wikidata.org/wiki/Property:P20", kind="property").only().id == "P20"
    assert linker.link("P20", kind="item").status == "none"


@pytest.mark.parametrize(
    ("text", "entity"),
    [
        ("зенит", "Q29108"),
        ("東京", "Q1490"),
        ("\u200fتيم", "Q80"),
        ("🌍", "Q2"),
        ("  FRANCE ", "Q142"),
        ("Fránce", "Q142"),
    ],
)
def test_case_accents_and_scripts(linker: Linker, text: str, entity: str) -> None:
    linked = linker.link(text)
    assert linked.only().id == entity


def test_a_part_of_a_name_never_settles(linker: Linker) -> None:
    linked = linker.link("South")
    assert ids(linked) == ["Q300"]
    assert linked.status == "ambiguous"
    assert "all words are in its alias 'Paris of the South'" in said(linked.candidates[0])


@pytest.mark.parametrize("text", ["", "  ", "\x00", "Nowhere", "x" * 100_000, "no " * 10_000, "\ud83d"])
def test_nothing_is_none(linker: Linker, text: str) -> None:
    linked = linker.link(text)
    assert (linked.status, linked.candidates) == ("none", ())
    with pytest.raises(UnknownLabelError):
        linked.only(policy="top")


@pytest.mark.parametrize(
    "text",
    [
        '"',
        "Paris*",
        "Paris AND",
        "NEAR(Paris)",
        "'; DROP TABLE names; --",
        "Paris' OR '1'='1",
        'Q90> . } UNION { ?s ?p "',
        "}",
    ],
)
def test_no_text_is_a_command(linker: Linker, text: str) -> None:
    before = linker.link("Paris", relation="P19")
    linker.link(text, relation="P19")
    linker.link(text, expected_label=text)
    linker.link("Q90", expected_label=text)
    assert linker.link("Paris", relation="P19") == before


def test_limit_cuts_the_list_after_ranking(linker: Linker) -> None:
    whole = linker.link("Paris", limit=50)
    assert len(whole.candidates) > 3
    assert linker.link("Paris", limit=2).candidates == whole.candidates[:2]


def test_a_candidate_beyond_the_limit_still_competes(linker: Linker) -> None:
    assert [len(linker.link("French", limit=limit).candidates) for limit in (1, 2)] == [1, 2]
    assert {linker.link("French", limit=limit).status for limit in (1, 2, 10)} == {"ambiguous"}
    assert linker.link("Rome", limit=1).status == "exact"


def test_a_tie_goes_to_no_one() -> None:
    def candidate(entity: str, score: float, can_settle: bool = True) -> Candidate:
        return Candidate(entity, "x", None, (), (Reason(score, "because"),), can_settle)

    assert LinkResult("x", (candidate("Q1", 10.0 + LEAD), candidate("Q2", 10.0)), "g").status == "exact"
    assert LinkResult("x", (candidate("Q1", 2.1 + LEAD), candidate("Q2", 2.1)), "g").status == "exact"  # 4.1 - 2.1 < 2
    assert LinkResult("x", (candidate("Q1", 9.9 + LEAD), candidate("Q2", 10.0)), "g").status == "ambiguous"
    assert LinkResult("x", (candidate("Q1", 99.0, can_settle=False),), "g").status == "ambiguous"


def test_the_packaged_extract(cache: WikidataCache) -> None:
    linked = cache.linker.link("los angeles", relation="P551")
    assert linked.only().id == "Q65"
    assert "city of the United States" in linked.only().types
    assert cache.linker.link("LeBron James", relation="P54", role="subject").only().id == "Q36159"
    assert cache.linker.link("place of birth", kind="property").only().id == "P19"
    assert linked.to_json()["status"] == "exact"
