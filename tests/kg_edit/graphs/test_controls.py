"""Controls of a graph method: bare, with others' objects, without what is withheld, with other entities' statements."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import networkx as nx
import pytest

from kg_edit.edits.edit import Edit
from kg_edit.errors import GraphError
from kg_edit.graphs.controls import NoGraph, ShuffledObjects, Withheld, WrongGraph, pool_of
from kg_edit.graphs.facts import target_of
from kg_edit.graphs.private_graph import PrivateGraph
from kg_edit.graphs.source import check_graph, subject_of
from wikidata_cache import WikidataCache, packaged_extract
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
    multigraph = nx.MultiDiGraph()
    for start, label, end in FACTS:
        multigraph.add_edge(start, end, label=label)
    return PrivateGraph(multigraph)


def triples_of(graph: nx.MultiDiGraph) -> set[tuple[str, str, str]]:
    check_graph(graph)
    label = dict(graph.nodes(data="label"))
    return {(label[s], name, label[o]) for s, o, name in graph.edges(data="label")}


OWN = ("Rome", "country", "Japan")


def test_no_graph_has_only_the_edits_edge(graph: PrivateGraph) -> None:
    assert triples_of(NoGraph(graph).subgraph(edit("Japan"), SubgraphOptions(hops=3))) == {OWN}


def test_shuffled_objects_have_the_same_relations(graph: PrivateGraph) -> None:
    pool = tuple(edit(name, name) for name in ("Japan", "France", "Kenya"))
    triples = triples_of(ShuffledObjects(graph, pool=pool).subgraph(edit("Japan"), SubgraphOptions(hops=3)))
    objects = {relation: target for _, relation, target in triples - {OWN}}
    assert len(triples) == 3 and objects["currency"] == "euro"
    assert objects["capital"] in ("Paris", "Nairobi")  # which of the two is drawn
    alone = ShuffledObjects(graph, pool=pool[:1]).subgraph(edit("Japan"), SubgraphOptions(hops=3))
    assert triples_of(alone) == {OWN}  # nobody else's objects


def test_shuffled_objects_are_others_and_each_is_drawn_once() -> None:
    """Of thirty twins of Paris ten are sampled: none of the other twenty may be drawn, and no object twice."""
    multigraph = nx.MultiDiGraph()
    for number in range(30):
        multigraph.add_edge("Paris", f"twin {number}", label="twin")
        multigraph.add_edge("Rome", f"sister {number}", label="twin")
    source, pool = PrivateGraph(multigraph), [edit("Paris"), edit("Rome", "2")]
    for seed in range(3):
        shuffled = ShuffledObjects(source, pool=pool).subgraph(edit("Paris"), SubgraphOptions(per_node=10, seed=seed))
        objects = [end for start, _, end in triples_of(shuffled) if start == "Paris"]
        assert len(objects) == 10 == len(set(objects)) and all(name.startswith("sister") for name in objects)


def test_shuffled_objects_draw_no_excluded_answer(graph: PrivateGraph) -> None:
    """What the right graph leaves out is not drawn from another o* either."""
    pool = tuple(edit(name, name) for name in ("Japan", "France", "Kenya"))
    guarded = SubgraphOptions(hops=3, leakage=Leakage(answers=("Paris", "euro")))
    right = graph.subgraph(edit("Japan"), SubgraphOptions(hops=3))
    triples = triples_of(ShuffledObjects(graph, pool=pool).change(right, edit("Japan"), guarded))
    assert triples - {OWN} == {("Japan", "capital", "Nairobi")}


def test_withheld_removes_nodes_that_only_withheld_ones_lead_to(graph: PrivateGraph) -> None:
    source = Withheld(graph, names={"1": frozenset({"Tokyo"})})
    assert triples_of(source.subgraph(edit("Japan"), SubgraphOptions(hops=3))) == {OWN, ("Japan", "currency", "yen")}
    assert ("Tokyo", "river", "Sumida") in triples_of(source.subgraph(edit("Japan", "2"), SubgraphOptions(hops=3)))


def test_control_has_an_identity_of_its_own(graph: PrivateGraph) -> None:
    one, other = (Withheld(graph, names={"1": frozenset({name})}) for name in ("Tokyo", "yen"))
    assert one.subgraph(edit("Japan")).graph["kind"] == "Withheld"
    assert one.provenance() != other.provenance() == replace(other).provenance()
    hashes = {source.subgraph(edit("Japan")).graph["content_hash"] for source in (one, other)}
    assert len(hashes) == 2


class Numbered:
    """A user's own source, whose edges have networkx's own keys: 0, and 1 for a second edge."""

    def subgraph(self, edit: Edit) -> nx.MultiDiGraph:
        numbered = nx.MultiDiGraph()
        numbered.add_node(edit.subject, label=edit.subject, role="subject")
        numbered.add_node(edit.target_new, label=edit.target_new, role="target_new")
        numbered.add_edge(edit.subject, edit.target_new, label="country", role="edit")
        for start, label, end in FACTS:
            if start == edit.target_new:
                numbered.add_node(end, label=end)
                numbered.add_edge(start, end, label=label)
        return numbered


def test_wrong_graph_of_a_source_with_numbers_as_keys() -> None:
    pool = (edit("France"), edit("Kenya"))
    triples = triples_of(WrongGraph(Numbered(), pool=pool).subgraph(edit("Japan")))
    others = {("Japan", label, end) for start, label, end in FACTS if start in ("France", "Kenya")}
    assert OWN in triples and len(triples) == 3 and triples - {OWN} <= others


EDIT = Edit(id="1", subject="Ann", prompt="{} lives in", relation="residence", target_new="Rome")


def cities() -> nx.DiGraph:
    """Rome, Oslo and Bonn with two statements each, of which one is shared; Nowhere with none."""
    graph = nx.MultiDiGraph()
    for city, river in (("Rome", "Tiber"), ("Oslo", "Aker"), ("Bonn", "Rhine")):
        graph.add_edge(city, river, key="river", label="river")
        graph.add_edge(city, "Europe", key="continent", label="continent")
        graph.add_edge(river, f"source of {river}", key="origin", label="origin")
    graph.add_node("Nowhere")
    return graph


def statements(subgraph: nx.MultiDiGraph) -> Iterator[tuple[str, str]]:
    for _, end, data in subgraph.out_edges(target_of(subgraph), data=True):
        yield data["label"], subgraph.nodes[end]["label"]


def test_wrong_graph_has_other_statements_and_the_same_size() -> None:
    right = PrivateGraph(cities())
    true = right.subgraph(EDIT, SubgraphOptions(hops=2, per_node=20, seed=0))
    wrong = WrongGraph(right, pool_of(["Oslo", "Bonn", "Rome"])).subgraph(
        EDIT, SubgraphOptions(hops=2, per_node=20, seed=0)
    )
    check_graph(wrong)
    assert set(statements(wrong)) == {("river", "Aker"), ("river", "Rhine")}  # what is true of Rome is not taken
    assert wrong.number_of_edges() == true.number_of_edges()
    for graph in (true, wrong):
        assert graph.nodes[subject_of(graph)]["label"] == "Ann"
        assert graph.nodes[target_of(graph)]["label"] == "Rome"


def test_wrong_graph_copies_further_hops() -> None:
    wrong = WrongGraph(PrivateGraph(cities()), pool_of(["Oslo", "Bonn"])).subgraph(
        EDIT, SubgraphOptions(hops=3, per_node=20, seed=0)
    )
    assert wrong.has_edge("Aker", "source of Aker") and wrong.has_edge("Rhine", "source of Rhine")


def test_wrong_graph_depends_on_the_seed_and_the_edit() -> None:
    graph = nx.MultiDiGraph()
    graph.add_edge("Rome", "Tiber", key="river", label="river")
    graph.add_edge("Pisa", "Arno", key="river", label="river")
    names = [f"City {n}" for n in range(12)]
    for name in names:
        graph.add_edge(name, f"River of {name}", key="river", label="river")
    source = WrongGraph(PrivateGraph(graph), pool_of(names))

    def found(edit: Edit, seed: int) -> list[tuple[str, str]]:
        return list(statements(source.subgraph(edit, SubgraphOptions(seed=seed))))

    assert found(EDIT, 0) == found(EDIT, 0)
    assert len({found(EDIT, seed)[0] for seed in range(8)}) > 2
    other = EDIT.model_copy(update={"target_new": "Pisa"})
    assert any(found(EDIT, seed) != found(other, seed) for seed in range(3))


def test_content_hash_depends_on_statements_and_names() -> None:
    renamed, other = cities(), cities()
    renamed.nodes["Aker"]["label"] = "Akerselva"
    other.edges["Oslo", "Aker", "river"]["label"] = "watercourse"
    hashes = [
        WrongGraph(PrivateGraph(graph), pool_of(["Oslo", "Bonn"])).subgraph(EDIT).graph["content_hash"]
        for graph in (cities(), cities(), renamed, other)
    ]
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3


def test_pool_may_have_entities_that_the_graph_lacks() -> None:
    right = PrivateGraph(cities())
    strangers = WrongGraph(right, pool_of(["Atlantis", "Q999", "Oslo", "Bonn"]))
    assert len(list(statements(strangers.subgraph(EDIT)))) == 2


def test_wrong_graph_takes_no_statement_of_s_or_o() -> None:
    """The pool may name o* by its id, or hold the subject."""
    graph = cities()
    graph.add_edge("Ann", "Oslo", key="residence", label="residence")
    for name in ("Ann", "Rome"):
        with pytest.raises(GraphError, match="larger pool"):
            WrongGraph(PrivateGraph(graph), pool_of([name])).subgraph(EDIT)


def test_object_without_statements_gets_none() -> None:
    nowhere = EDIT.model_copy(update={"target_new": "Nowhere"})
    wrong = WrongGraph(PrivateGraph(cities()), pool_of(["Oslo"])).subgraph(nowhere)
    assert list(statements(wrong)) == []


def test_wrong_graph_of_the_packaged_extract() -> None:
    source = WikidataCache(packaged_extract())
    edit = EDIT.model_copy(update={"target_new_id": "Q220"})
    true = source.subgraph(edit, SubgraphOptions(hops=2, per_node=8, seed=0))
    control = WrongGraph(source, pool_of(["Q1345", "Q121783", "Q220"]))
    wrong = control.subgraph(edit, SubgraphOptions(hops=2, per_node=8, seed=0))
    assert wrong.number_of_edges() == true.number_of_edges() == 9
    assert not set(statements(wrong)) - {("residence", "Rome")} & set(statements(true))
    assert control.provenance()["right"]["kind"] and "fetched_at" not in control.provenance()["right"]
