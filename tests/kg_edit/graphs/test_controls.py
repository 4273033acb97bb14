"""Controls of a graph method: bare, with others' objects, without what is withheld."""

from __future__ import annotations

from dataclasses import replace

import networkx as nx
import pytest

from kg_edit.edits.edit import Edit
from kg_edit.graphs.controls import NoGraph, ShuffledObjects, Withheld
from kg_edit.graphs.source import PrivateGraph, check_graph
from wikidata_cache.subgraphs.options import Leakage, SubgraphOptions

FACTS = [
    ("Japan", "capital", "Tokyo"),
    ("Japan", "currency", "yen"),
    ("Tokyo", "river", "Sumida"),
    ("France", "capital", "Paris"),
    ("France", "currency", "euro"),
    ("Kenya", "capital", "Nairobi"),
]


def edit(target: str, name: str = "1") -> Edit:
    return Edit(id=name, subject="Rome", prompt="{} lies in", relation="country", target_new=target)


@pytest.fixture
def graph() -> PrivateGraph:
    made = nx.MultiDiGraph()
    for start, label, end in FACTS:
        made.add_edge(start, end, label=label)
    return PrivateGraph(made)


def said(graph: nx.MultiDiGraph) -> set[tuple[str, str, str]]:
    check_graph(graph)
    label = dict(graph.nodes(data="label"))
    return {(label[s], name, label[o]) for s, o, name in graph.edges(data="label")}


OWN = ("Rome", "country", "Japan")


def test_no_graph_has_only_the_edits_edge(graph: PrivateGraph) -> None:
    assert said(NoGraph(graph).subgraph(edit("Japan"), SubgraphOptions(hops=3))) == {OWN}


def test_shuffled_objects_have_the_same_relations(graph: PrivateGraph) -> None:
    pool = tuple(edit(name, name) for name in ("Japan", "France", "Kenya"))
    found = said(ShuffledObjects(graph, pool=pool).subgraph(edit("Japan"), SubgraphOptions(hops=3)))
    objects = {relation: target for _, relation, target in found - {OWN}}
    assert len(found) == 3 and objects["currency"] == "euro"
    assert objects["capital"] in ("Paris", "Nairobi")  # which of the two is drawn
    alone = ShuffledObjects(graph, pool=pool[:1]).subgraph(edit("Japan"), SubgraphOptions(hops=3))
    assert said(alone) == {OWN}  # nobody else's objects


def test_shuffled_objects_draw_no_excluded_answer(graph: PrivateGraph) -> None:
    """What the right graph leaves out is not drawn from another o* either."""
    pool = tuple(edit(name, name) for name in ("Japan", "France", "Kenya"))
    guarded = SubgraphOptions(hops=3, leakage=Leakage(answers=("Paris", "euro")))
    right = graph.subgraph(edit("Japan"), SubgraphOptions(hops=3))
    found = said(ShuffledObjects(graph, pool=pool).changed(right, edit("Japan"), guarded))
    assert found - {OWN} == {("Japan", "capital", "Nairobi")}


def test_withheld_removes_nodes_that_only_withheld_ones_lead_to(graph: PrivateGraph) -> None:
    source = Withheld(graph, names={"1": frozenset({"Tokyo"})})
    assert said(source.subgraph(edit("Japan"), SubgraphOptions(hops=3))) == {OWN, ("Japan", "currency", "yen")}
    assert ("Tokyo", "river", "Sumida") in said(source.subgraph(edit("Japan", "2"), SubgraphOptions(hops=3)))


def test_control_has_an_identity_of_its_own(graph: PrivateGraph) -> None:
    one, other = (Withheld(graph, names={"1": frozenset({name})}) for name in ("Tokyo", "yen"))
    assert one.subgraph(edit("Japan")).graph["kind"] == "Withheld"
    assert one.provenance() != other.provenance() == replace(other).provenance()
    hashes = {source.subgraph(edit("Japan")).graph["content_hash"] for source in (one, other)}
    assert len(hashes) == 2
