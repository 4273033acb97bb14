"""Facts of a subgraph in words: what is worded, how, and what is left out."""

from __future__ import annotations

import networkx as nx
import pytest

from kg_edit.edits.edit import Edit
from kg_edit.graphs.facts import GraphFact, Kind, graph_facts, noun_for, overlaps, target_of
from kg_edit.graphs.source import edit_subgraph
from wikidata_cache import WikidataCache, packaged_extract
from wikidata_cache.subgraphs.options import SubgraphOptions

LEBRON = Edit(
    id="lebron",
    subject="LeBron James",
    prompt="{} plays for the",
    relation="member of sports team",
    target_new="Los Angeles Lakers",
)


def graph(*statements: tuple[str, str], relation: str = "member of sports team") -> nx.MultiDiGraph:
    """LeBron James, his new team, and what is stated of it: (relation, object)."""
    subgraph = nx.MultiDiGraph()
    subgraph.add_node("s", label="LeBron James", role="subject")
    subgraph.add_node("o", label="Los Angeles Lakers", role="target_new")
    subgraph.add_edge("s", "o", key="P54", label=relation, role="edit")
    for number, (label, target) in enumerate(statements):
        subgraph.add_node(f"n{number}", label=target, role="neighbour")
        subgraph.add_edge("o", f"n{number}", key=label, label=label, role="statement")
    return subgraph


def worded(subgraph: nx.MultiDiGraph, edit: Edit = LEBRON, *kinds: Kind) -> list[tuple[str, str]]:
    facts = graph_facts(edit, subgraph, limit=None, seed=0, kinds=kinds or ("statement", "composed"))
    return [(fact.text, fact.object) for fact in facts]


def test_each_kind_has_its_prompt() -> None:
    subgraph = graph(("headquarters location", "Los Angeles"))  # has a template
    assert worded(subgraph, LEBRON, "statement", "composed", "chained") == [
        ("Los Angeles Lakers has its headquarters in", "Los Angeles"),
        ("The sports team of LeBron James has its headquarters in", "Los Angeles"),
        ("LeBron James plays for the Los Angeles Lakers, headquarters location", "Los Angeles"),
    ]


@pytest.mark.parametrize(
    ("relation", "statement", "composed"),
    [
        ("mascot", "The mascot of Los Angeles Lakers is", "The mascot of the sports team of LeBron James is"),
        ("different from", "Los Angeles Lakers is different from", "The sports team of LeBron James is different from"),
        ("has facility", "Los Angeles Lakers has facility", "The sports team of LeBron James has facility"),
        ("located on street", "Los Angeles Lakers is located on street", "The sports team of LeBron James is located"),
    ],
)
def test_relation_without_a_template_is_worded_by_its_label(relation: str, statement: str, composed: str) -> None:
    (first, _), (second, _) = worded(graph((relation, "something")))
    assert first == statement
    assert second.startswith(composed)


def test_edit_without_a_relation_uses_its_prompt() -> None:
    bare = LEBRON.model_copy(update={"relation": None})
    subgraph = graph(("headquarters location", "Los Angeles"), ("mascot", "none"), relation=bare.relation_text)
    assert sorted(worded(subgraph, bare, "composed")) == [
        ("LeBron James plays for the one that has its headquarters in", "Los Angeles"),
        ("LeBron James plays for the one whose mascot is", "none"),
    ]
    assert worded(subgraph, bare.model_copy(update={"relation_id": "P54"}), "composed")[0][0].startswith("The ")


def test_unusable_statements_are_left_out() -> None:
    subgraph = graph(
        ("captain", "LeBron James"),  # s
        ("named after", "los angeles  LAKERS"),  # o*
        ("category", "Q123"),
        ("P999", "something"),
        ("motto", "{} forever"),
        ("nick{}name", "the Lake Show"),
        ("mascot", "none"),
    )
    assert sorted(worded(subgraph, LEBRON, "statement")) == [
        ("The mascot of Los Angeles Lakers is", "none"),
        ("The motto of Los Angeles Lakers is", "{} forever"),
    ]


def test_seed_chooses_the_object_of_a_prompt() -> None:
    borders = graph(*(("shares border with", f"Place {n}") for n in range(9)))
    chosen = {graph_facts(LEBRON, borders, limit=None, seed=seed, kinds=("statement",))[0].object for seed in range(20)}
    assert len(chosen) > 3
    assert len(worded(borders, LEBRON, "statement")) == 1


def test_order_depends_on_the_seed_only_and_fewer_are_the_first_of_more() -> None:
    statements = [(f"relation {n}", f"Place {n}") for n in range(12)]
    forward, backward = graph(*statements), graph(*reversed(statements))
    all_facts = graph_facts(LEBRON, forward, limit=None, seed=3, kinds=("composed",))
    assert all_facts == graph_facts(LEBRON, backward, limit=None, seed=3, kinds=("composed",))
    assert graph_facts(LEBRON, backward, limit=5, seed=3, kinds=("composed",)) == all_facts[:5]
    assert all_facts != graph_facts(LEBRON, forward, limit=None, seed=4, kinds=("composed",))
    assert [fact.object for fact in all_facts] != sorted(fact.object for fact in all_facts)


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ("Italian", "Italian language", True),
        ("Los Angeles", "LOS ÁNGELES Lakers", True),
        ("US", "Russia", False),
        ("US", "the US", True),
        ("England", "Englander", True),
        ("Rome", "Paris", False),
        ("パリ", "バリ", False),
        ("", "Paris", False),
        ("?!", "?!", True),
    ],
)
def test_overlaps_compares_words_without_case_and_accents(one: str, other: str, found: bool) -> None:
    assert overlaps(one, other) is overlaps(other, one) is found


def test_statements_of_neighbours_are_not_used() -> None:
    subgraph = graph(("mascot", "none"))
    subgraph.add_node("far", label="Far", role="neighbour")
    subgraph.add_edge("n0", "far", key="P1", label="colour", role="statement")
    assert [target for _, target in worded(subgraph)] == ["none", "none"]


def test_new_object_without_a_role_is_where_the_edge_of_the_edit_ends() -> None:
    subgraph = graph()
    subgraph.add_node("p", label="Lakers")
    del subgraph.nodes["o"]["role"]
    assert target_of(subgraph) == "o"


def test_fact_as_an_edit() -> None:
    fact = GraphFact(kind="statement", subject="Rome", relation="country", object="Italy", prompt="{} lies in")
    edit = fact.as_edit("x/1")
    assert (edit.id, edit.text, edit.target_new, edit.relation) == ("x/1", "Rome lies in", "Italy", "country")


def test_noun_for_a_relation() -> None:
    relations = ["place of birth", "member of political party", "located in the state", "part of", "has use", "", None]
    assert [noun_for(relation) for relation in relations] == [
        "place of birth",
        "political party",
        "state",
        None,
        None,
        None,
        None,
    ]


def test_facts_of_the_packaged_extract() -> None:
    source = WikidataCache(packaged_extract())
    edit = LEBRON.model_copy(update={"target_new_id": "Q121783", "subject_id": "Q36159", "relation_id": "P54"})
    subgraph = edit_subgraph(source, edit, SubgraphOptions(hops=2, per_node=20, seed=0))
    facts = graph_facts(edit, subgraph, limit=None, seed=0)
    sentences = {f"{fact.text} {fact.object}" for fact in facts}
    assert "The sports team of LeBron James has its headquarters in Los Angeles" in sentences
    assert "Los Angeles Lakers plays in the league called National Basketball Association" in sentences
    kinds = [fact.kind for fact in facts]
    assert kinds == sorted(kinds, reverse=True) and kinds.count("statement") == kinds.count("composed")
