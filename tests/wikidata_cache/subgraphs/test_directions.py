"""Incoming statements, hubs, and graphs with cycles and self-loops."""

from pathlib import Path

import pytest

from tests.wikidata_cache.full_graph import (
    ADA,
    CAVS,
    CYCLE,
    FANS,
    HEAT,
    HUB,
    LAKERS,
    LOOP,
    LOOPS,
    MOVES,
    NAMELESS,
    TWIN,
)
from tests.wikidata_cache.wikidata_helpers import EDITS, Edit, Server, triples
from wikidata_cache import WikidataCache
from wikidata_cache.sources import queries
from wikidata_cache.subgraphs.options import SubgraphOptions

TWO = Edit("One", "Two", "Six", subject_id="Q1", relation_id="P2", target_new_id="Q2", target_true_id="Q6")
THREE = Edit("Ten", "Three", subject_id="Q10", relation_id="P2", target_new_id="Q3")


def test_both_directions_expand_incoming_statements(toy: WikidataCache) -> None:
    graph = toy.subgraph(THREE, SubgraphOptions(direction="both"))
    assert triples(graph) == {
        ("Q10", "P2", "Q3"),
        ("Q3", "P1", "Q5"),
        ("Q2", "P1", "Q3"),  # incoming edges keep their direction
        ("Q4", "P3", "Q3"),
    }
    assert {node: data["hop"] for node, data in graph.nodes(data=True)} == {
        "Q10": 0,
        "Q3": 1,
        "Q2": 2,
        "Q4": 2,
        "Q5": 2,
    }
    assert graph.graph["direction"] == "both" and graph.graph["hubs"] == []
    assert graph.graph["dropped"] == {"unlabelled_property": 1}  # Q2 P9 Q3
    deeper = triples(toy.subgraph(THREE, SubgraphOptions(direction="both", hops=3)))
    assert ("Q1", "P1", "Q2") in deeper and ("Q2", "P2", "Q4") in deeper


def test_neighbourhood_in_both_directions(toy: WikidataCache) -> None:
    assert triples(toy.neighbourhood("Q5", SubgraphOptions(hops=1, direction="both"))) == {("Q3", "P1", "Q5")}
    assert triples(toy.neighbourhood("Q5")) == set()


def test_subject_statements_stay_out_from_both_sides(toy: WikidataCache) -> None:
    graph = toy.subgraph(TWO, SubgraphOptions(direction="both"))
    assert ("Q1", "P1", "Q2") not in triples(graph)
    assert graph.graph["dropped"]["of_the_subject"] == 1
    as_root = toy.subgraph(TWO, SubgraphOptions(direction="both", roots=("target_new", "subject")))
    assert ("Q1", "P1", "Q2") in triples(as_root)


@pytest.mark.parametrize("hops", [2, 3, 4])
def test_old_edge_stays_out_from_both_sides(toy: WikidataCache, hops: int) -> None:
    everywhere = ("target_new", "subject", "target_true")
    graph = toy.subgraph(
        TWO, SubgraphOptions(direction="both", roots=everywhere, hops=hops)
    )  # Q6 is asked who points to it
    assert ("Q1", "P2", "Q6") not in triples(graph)
    assert graph.graph["dropped"]["old_edge"] == 2  # met at both ends


def test_hub_is_not_expanded_along_incoming_statements(full: WikidataCache) -> None:
    assert len(FANS) > queries.HUB
    graph = full.subgraph(MOVES, SubgraphOptions(direction="both", hops=4, per_node=1000))
    assert graph.graph["hubs"] == [HUB]
    assert not set(FANS) & set(graph)
    assert (HUB, "P361", LOOP) in triples(graph)  # along its outgoing statements it is
    lone = full.neighbourhood(HUB, SubgraphOptions(hops=1, direction="both"))
    assert triples(lone) == {(HUB, "P361", LOOP)} and lone.graph["hubs"] == [HUB]
    assert full.neighbourhood(HUB).graph["hubs"] == []


def test_item_below_the_hub_limit_is_expanded(tmp_path: Path) -> None:
    rows = [f"Q{i}\tP1\tQ1" for i in range(10, 10 + queries.HUB)] + ["P1\tlabel\tpoints to", "Q1\tlabel\tOne"]
    labels = [f"Q{i}\tlabel\tNumber {i}" for i in range(10, 10 + queries.HUB)]
    path = tmp_path / "g.tsv"
    path.write_text("\n".join(rows + labels) + "\n")
    graph = WikidataCache(path).neighbourhood("Q1", SubgraphOptions(hops=1, direction="both", per_node=1000))
    assert graph.number_of_edges() == queries.HUB and graph.graph["hubs"] == []
    path.write_text("\n".join([*rows, *labels, "Q9\tP1\tQ1"]) + "\n")
    assert WikidataCache(path).neighbourhood("Q1", SubgraphOptions(hops=1, direction="both")).graph["hubs"] == ["Q1"]


@pytest.mark.slow
def test_item_with_many_statements_is_sampled(tmp_path: Path) -> None:
    rows = [f"Q1\tP1\tQ{i}\nQ{i}\tlabel\tNumber {i}" for i in range(10, 5010)]
    path = tmp_path / "g.tsv"
    path.write_text("\n".join([*rows, "P1\tlabel\tpoints to", "Q1\tlabel\tOne"]) + "\n")
    graph = WikidataCache(path).neighbourhood("Q1", SubgraphOptions(hops=3, per_node=10))
    assert graph.number_of_edges() == 10
    assert graph.graph["dropped"] == {"not_sampled": 4990}


def test_unlabelled_item_stays_out_except_of_the_edit(full: WikidataCache) -> None:
    graph = full.subgraph(MOVES, SubgraphOptions(roots=("target_new", "subject")))
    assert NAMELESS not in graph and graph.graph["dropped"]["unlabelled_item"] == 1
    named = Edit("Ada", "Nobody", subject_id=ADA, relation_id="P54", target_new_id=NAMELESS)
    about = full.subgraph(named, SubgraphOptions(roots=("target_new", "subject")))
    assert about.nodes[NAMELESS]["label"] == "Nobody"
    assert (ADA, "P361", NAMELESS) in triples(about)


def test_cycles_and_self_loops_end(full: WikidataCache) -> None:
    for direction in ("out", "both"):
        graph = full.subgraph(LOOPS, SubgraphOptions(hops=9, direction=direction))  # type: ignore[arg-type]
        assert {(LOOP, "P361", LOOP), (LOOP, "P361", CYCLE), (CYCLE, "P361", LOOP)} <= triples(graph)
        assert graph.number_of_edges(LOOP, LOOP) == 1
    to_itself = Edit("Loop", "Loop", subject_id=LOOP, relation_id="P54", target_new_id=LOOP)
    assert (LOOP, "P54", LOOP) in triples(
        full.subgraph(to_itself, SubgraphOptions(roots=("subject", "target_new"), direction="both"))
    )


def test_max_edges_stays_connected_in_both_directions(full: WikidataCache) -> None:
    for most in (1, 2, 3, 5):
        graph = full.subgraph(MOVES, SubgraphOptions(direction="both", hops=4, max_edges=most))
        assert graph.number_of_edges() == most
        reached = {ADA, HEAT}
        for _ in range(most):
            reached |= {node for edge in graph.edges() if reached & set(edge) for node in edge}
        assert reached == set(graph)


def test_odd_labels_stay_unchanged(full: WikidataCache) -> None:
    graph = full.subgraph(
        MOVES, SubgraphOptions(hops=4, direction="both", roots=("target_new", "subject", "target_true"))
    )
    labels = dict(graph.nodes(data="label"))
    assert labels[CAVS] == 'Cavs "C" } . #\nsecond line'
    assert labels[HUB] == "مصر" and labels[HEAT] == "Хит 😀" and labels[CYCLE] == "</script>"
    assert labels[LOOP] == labels[TWIN] == "Twin" and full.find("Twin") == (LOOP, TWIN)
    assert labels[LAKERS] == "Lakers"
    assert full.find(labels[CAVS]) == (CAVS,)


def test_incoming_statements_need_few_requests(server: Server, cache_path: str) -> None:
    graphs = WikidataCache(server.url, cache=cache_path).subgraphs(EDITS, SubgraphOptions(direction="both"))
    incoming = {u for graph in graphs for u, v in graph.edges() if graph.nodes[u]["hop"] > graph.nodes[v]["hop"]}
    assert incoming
    assert len(server.requests) < 10
