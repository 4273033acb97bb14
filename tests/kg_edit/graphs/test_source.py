"""A graph of one's own in the place of Wikidata."""

from __future__ import annotations

import networkx as nx
import pytest

from kg_edit.edits.edit import Edit
from kg_edit.graphs.facts import target_of
from kg_edit.graphs.private_graph import PrivateGraph
from kg_edit.graphs.source import check_graph, edge_alone, subject_of
from wikidata_cache.subgraphs.options import SubgraphOptions

EDIT = Edit(
    id="1",
    subject="Ada",
    prompt="{} works in",
    target_true="Bern",
    target_new="Oslo",
    target_new_id=None,
    relation=None,
)


def company(kind: type[nx.DiGraph] = nx.DiGraph) -> nx.DiGraph:
    graph = kind()
    for node, label in enumerate(["Ada", "Bern", "Oslo", "Norway", "Europe", "Bern"]):
        graph.add_node(node, label=label)
    for subject, target, label in [
        (0, 1, "works in"),
        (2, 3, "country"),
        (3, 4, "continent"),
        (2, 0, "mayor"),
    ]:
        graph.add_edge(subject, target, label=label)
    return graph


@pytest.mark.parametrize("kind", [nx.DiGraph, nx.MultiDiGraph])
def test_subgraph_expands_from_the_new_object(kind: type[nx.DiGraph]) -> None:
    source = PrivateGraph(company(kind))
    names = {
        hops: [data["label"] for _, data in source.subgraph(EDIT, SubgraphOptions(hops=hops)).nodes(data=True)]
        for hops in (1, 2, 3)
    }
    assert names == {1: ["Ada", "Oslo"], 2: ["Ada", "Oslo", "Norway"], 3: ["Ada", "Oslo", "Norway", "Europe"]}
    graph = source.subgraph(EDIT, SubgraphOptions(hops=3))
    check_graph(graph)
    edges = [(graph.nodes[s]["label"], data["label"], graph.nodes[o]["label"]) for s, o, data in graph.edges(data=True)]
    assert edges == [("Ada", "works in", "Oslo"), ("Oslo", "country", "Norway"), ("Norway", "continent", "Europe")]


def test_subgraph_has_no_old_edge_and_none_back_to_s() -> None:
    graph = PrivateGraph(company()).subgraph(EDIT, SubgraphOptions(hops=3))
    assert graph.out_degree("0") == 1
    assert graph.in_degree("0") == 0


def test_subject_that_is_not_in_the_graph_is_added() -> None:
    graph = PrivateGraph(company()).subgraph(EDIT.model_copy(update={"subject": "Eve"}))
    assert graph.nodes["_:subject"]["label"] == "Eve"


def test_node_without_a_name_has_its_key() -> None:
    graph = nx.DiGraph([("Oslo", 7, {"label": "country"})])
    graph.add_nodes_from([("Oslo", {"label": float("nan"), "name": " "}), (7, {"label": 1905})])
    assert PrivateGraph(graph).labels(["Oslo", "7"]) == {"Oslo": "Oslo", "7": "1905"}


def test_sampling_is_seeded() -> None:
    graph = company()
    for number in range(30):
        graph.add_edge(2, f"suburb {number}", label="has part")
    source = PrivateGraph(graph)
    first, again = (source.subgraph(EDIT, SubgraphOptions(per_node=5, seed=1)) for _ in range(2))
    assert set(first) == set(again)
    assert first.out_degree("2") == 5
    assert set(first) != set(source.subgraph(EDIT, SubgraphOptions(per_node=5, seed=2)))


def test_id_chooses_among_nodes_with_one_label() -> None:
    source = PrivateGraph(company())
    named = Edit.model_validate(
        {**EDIT.model_dump(), "target_new": "Bern", "target_new_id": "node:5", "target_true": "Rome"}
    )
    assert source.subgraph(named).nodes["5"]["role"] == "target_new"


def test_provenance_depends_on_the_content() -> None:
    other = company()
    other.add_edge(4, 2, label="holds")
    assert PrivateGraph(company()).provenance() == PrivateGraph(company(nx.MultiDiGraph)).provenance()
    assert PrivateGraph(company()).provenance() != PrivateGraph(other).provenance()


def test_content_hash_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash of the whole graph is the same for every edit; a further one reads its own neighbourhood alone."""
    source, read = PrivateGraph(company()), list[str]()
    first = source.subgraph(EDIT)
    plain = PrivateGraph._statements
    monkeypatch.setattr(PrivateGraph, "_statements", lambda self, key: read.append(key) or plain(self, key))
    second = source.subgraph(EDIT)
    assert read == ["2"], "of o* alone"
    assert nx.utils.graphs_equal(first, second) and first.graph == second.graph


def test_subject_may_be_the_new_object() -> None:
    """Weezer, the album, is by Weezer, and no longer by Ivy."""
    graph = nx.MultiDiGraph([("Weezer", "rock", {"label": "genre"}), ("Weezer", "Ivy", {"label": "performer"})])
    edit = Edit(
        id="a", subject="Weezer", prompt="The album {} is by", relation="by", target_new="Weezer", target_true="Ivy"
    )
    by_id = edit.model_copy(update={"subject_id": "Q1", "target_new_id": "Q1"})
    source = PrivateGraph(graph)
    old_by_id = edit.model_copy(update={"target_true": "Ann", "target_true_id": "node:Ivy"})
    for subgraph, expected in (
        (source.subgraph(edit), 2),
        (source.subgraph(old_by_id), 2),
        (edge_alone(source, by_id), 1),
    ):
        check_graph(subgraph)
        assert subgraph.number_of_edges() == expected and target_of(subgraph) == subject_of(subgraph)
