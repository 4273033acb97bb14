"""Subgraphs on a graph small enough to check by hand, and on the packaged extract."""

import gzip
import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.wikidata_cache.wikidata_helpers import EDITS, LAKERS, LEBRON, SPIKE, Edit, as_json, read_shared, triples
from wikidata_cache import WikidataCache, packaged_extract
from wikidata_cache.errors import (
    AmbiguousLabelError,
    UnknownLabelError,
)
from wikidata_cache.subgraphs.options import SubgraphOptions
from wikidata_cache.subgraphs.rules import Rules

EDIT = Edit("One", "Two", "Six", subject_id="Q1", relation_id="P2", target_new_id="Q2", target_true_id="Q6")
ABOUT_TWO = {("Q2", "P1", "Q3"), ("Q2", "P2", "Q4"), ("Q2", "P2", "Q1")}


def test_subgraph_has_the_statements_of_the_new_object(toy: WikidataCache) -> None:
    graph = toy.subgraph(EDIT)
    assert triples(graph) == {("Q1", "P2", "Q2")} | ABOUT_TWO
    assert list(graph.nodes(data=True)) == [
        ("Q1", {"label": "One", "hop": 0, "role": "subject"}),
        ("Q2", {"label": "Two", "hop": 1, "role": "target_new"}),
        ("Q3", {"label": "Three", "hop": 2, "role": "neighbour"}),
        ("Q4", {"label": "Four", "hop": 2, "role": "neighbour"}),
    ]
    assert graph.edges["Q1", "Q2", "P2"] == {"property": "P2", "label": "is part of", "role": "edit"}
    assert graph.edges["Q2", "Q3", "P1"] == {"property": "P1", "label": "borders", "role": "statement"}
    assert graph.graph["dropped"] == {
        "internal_item": 1,  # Q8 is a category
        "meta_property": 1,  # P910
        "unlabelled_item": 1,  # Q9
        "unlabelled_property": 1,  # P9
    }


def test_hops_limit_the_distance(toy: WikidataCache) -> None:
    assert triples(toy.subgraph(EDIT, SubgraphOptions(hops=1))) == {("Q1", "P2", "Q2")}
    assert triples(toy.subgraph(EDIT, SubgraphOptions(hops=3))) == {
        ("Q1", "P2", "Q2"),
        ("Q3", "P1", "Q5"),
        ("Q4", "P3", "Q3"),
        *ABOUT_TWO,
    }
    assert toy.subgraph(EDIT, SubgraphOptions(hops=3)).nodes["Q5"]["hop"] == 3


def test_subject_is_expanded_only_as_a_root_and_without_the_old_fact(toy: WikidataCache) -> None:
    graph = toy.subgraph(EDIT, SubgraphOptions(hops=3, roots=("target_new", "subject")))
    assert ("Q1", "P1", "Q2") in triples(graph)
    assert (graph.graph["old_edge_stated"], graph.graph["new_edge_stated"]) == (True, False)
    assert graph.graph["dropped"]["old_edge"] == 1
    for roots in (("target_new",), ("target_new", "subject"), ("subject", "target_true", "target_new")):
        for hops in (1, 2, 3, 4):
            assert ("Q1", "P2", "Q6") not in triples(toy.subgraph(EDIT, SubgraphOptions(hops=hops, roots=roots)))  # type: ignore[arg-type]
    # A new fact that the graph states already is there once, as the edit's edge.
    stated = replace(EDIT, relation_id="P1", target_true_id=None)
    graph = toy.subgraph(stated, SubgraphOptions(roots=("target_new", "subject")))
    assert graph.edges["Q1", "Q2", "P1"]["role"] == "edit" and graph.number_of_edges("Q1", "Q2") == 1
    assert graph.graph["new_edge_stated"] is True


def test_old_edge_stays_out_in_every_direction(tmp_path: Path) -> None:
    path = tmp_path / "g.tsv"
    path.write_text(
        "Q2\tP1\tQ1\nQ2\tP1\tQ6\nQ1\tP2\tQ3\nQ3\tlabel\tThree\nQ1\tP2\tQ6\nQ6\tP2\tQ1\nQ6\tP1\tQ1\nQ6\tP1\tQ2\n"
        "P1\tlabel\tborders\nP2\tlabel\tis part of\nQ1\tlabel\tOne\nQ2\tlabel\tTwo\nQ6\tlabel\tSix\n"
    )
    cache = WikidataCache(path)
    everywhere = ("target_new", "subject", "target_true")
    old = {("Q1", "P2", "Q6"), ("Q6", "P2", "Q1")}
    with_ids = triples(cache.subgraph(EDIT, SubgraphOptions(hops=4, roots=everywhere)))
    assert not with_ids & old and ("Q6", "P1", "Q1") in with_ids
    no_relation = replace(EDIT, relation_id=None, relation="belongs to")
    assert triples(cache.subgraph(no_relation, SubgraphOptions(hops=4, roots=everywhere))) == {
        ("Q1", "edit", "Q2"),
        ("Q2", "P1", "Q1"),
        ("Q2", "P1", "Q6"),
        ("Q1", "P2", "Q3"),
        ("Q6", "P1", "Q2"),
    }
    labels_only = Edit("One", "Two", "Six", relation_id="P2", target_new_id="Q2")
    graph = cache.subgraph(labels_only, SubgraphOptions(hops=4))  # Q1 is known by its label: its statements stay out
    assert triples(graph) == {("_:subject", "P2", "Q2"), ("Q2", "P1", "Q1"), ("Q2", "P1", "Q6")} | {
        ("Q6", "P1", "Q1"),
        ("Q6", "P1", "Q2"),
    }


def test_edit_without_ids_uses_its_own_labels(toy: WikidataCache) -> None:
    graph = toy.subgraph(
        Edit("Nobody", "Three", "None", relation="likes"), SubgraphOptions(roots=("subject", "target_new"))
    )
    assert triples(graph) == {("_:subject", "edit", "Q3"), ("Q3", "P1", "Q5")}
    assert graph.nodes["_:subject"] == {"label": "Nobody", "hop": 0, "role": "subject"}
    assert graph.edges["_:subject", "Q3", "edit"]["label"] == "likes"
    assert graph.graph["target_new_resolved"] == "Q3"
    assert graph.graph["unexpanded_roots"] == ["subject"]
    assert toy.subgraph(Edit("Nobody", "Three")).edges["_:subject", "Q3", "edit"]["label"] == ""
    # Where the graph has no labels, those of the edit are used.
    edit = Edit("S", "Nine", "T", subject_id="Q99", relation_id="P99", relation="xs", target_new_id="Q9")
    graph = toy.subgraph(edit)
    assert graph.nodes["Q9"]["label"] == "Nine" and graph.edges["Q99", "Q9", "P99"]["label"] == "xs"


def test_new_object_with_unlabelled_statements_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "g.tsv"
    path.write_text("Q2\tP1\tQ3\nQ2\tP910\tQ7\nQ5\tP910\tQ7\nQ2\tlabel\tTwo\nP910\tlabel\tcategory\n")
    cache = WikidataCache(path)
    housekeeping_only = replace(EDIT, target_new="Five", target_new_id="Q5")
    cache.subgraph(EDIT, SubgraphOptions(hops=1))
    cache.subgraph(EDIT, SubgraphOptions(roots=("subject",)))
    cache.subgraph(housekeeping_only)
    assert not caplog.records
    for edits in ([EDIT, replace(EDIT, subject="Other", subject_id="Q12")], [EDIT]):
        assert triples(cache.subgraphs(edits)[0]) == {("Q1", "P2", "Q2")}
    [record] = caplog.records
    assert (record.name, record.levelno) == ("wikidata_cache.subgraphs.build", logging.WARNING)
    assert (
        "Q2 (Two): all statements about it in the graph g.tsv were left out, because labels are missing" in caplog.text
    )


def test_old_object_can_be_a_root(toy: WikidataCache) -> None:
    edit = replace(EDIT, target_true="Four", target_true_id="Q4", relation_id="P1")
    graph = toy.subgraph(edit, SubgraphOptions(roots=("target_new", "target_true")))
    assert ("Q4", "P3", "Q3") in triples(graph)
    assert graph.nodes["Q4"] == {"label": "Four", "hop": 1, "role": "target_true"}


def test_max_edges_keeps_the_nearest_connected_edges(cache: WikidataCache) -> None:
    full = cache.subgraph(LAKERS, SubgraphOptions(hops=4, per_node=6))
    for most in (1, 2, 7, 15, 40):
        graph = cache.subgraph(LAKERS, SubgraphOptions(hops=4, per_node=6, max_edges=most))
        assert graph.number_of_edges() == most
        assert triples(graph) <= triples(full)
        assert ("Q121783", "P159", "Q8652") in triples(graph)
        reached = {"Q121783", "Q8652"}
        for u, v in sorted(graph.edges(), key=lambda edge: graph.nodes[edge[0]]["hop"]):
            assert u in reached
            reached.add(v)
        assert reached == set(graph)


def test_new_object_is_found_by_its_label_or_id(toy: WikidataCache) -> None:
    assert list(toy.subgraph(Edit("s", "Five"))) == ["_:subject", "Q5"]
    assert list(toy.subgraph(Edit("s", "?", target_new_id="Q10"))) == ["_:subject", "Q10"]  # only labelled
    assert list(toy.subgraph(Edit("s", "Nine", target_new_id="Q9"))) == ["_:subject", "Q9"]  # only mentioned


def test_label_of_the_new_object_names_no_wikimedia_page(tmp_path: Path) -> None:
    path = tmp_path / "g.tsv"
    rows = ["Q12\tP31\tQ4167410", "Q14\tP1\tQ2", "Q14\tP1\tQ3", "Q15\tP1\tQ2", "Q16\tP31\tQ4167410"]
    names = {"Q12": "English", "Q13": "Twin", "Q14": "Twin", "Q15": "Twin", "Q16": "Twin", "Q17": "Page"}
    rows += [f"{entity}\tlabel\t{name}" for entity, name in (names | {"Q18": "English"}).items()]
    path.write_text("\n".join([*rows, "Q17\tP31\tQ4167410"]) + "\n")
    cache = WikidataCache(path)
    assert cache.subgraph(Edit("s", "English")).graph["target_new_resolved"] == "Q18"
    with pytest.raises(AmbiguousLabelError, match=r'names 3 entities: Q14.*target_new_id: "Q14"') as caught:
        cache.subgraph(Edit("s", "Twin"))
    assert caught.value.candidates == ("Q14", "Q15", "Q13")
    with pytest.raises(UnknownLabelError, match="Wikimedia's own pages do not count"):
        cache.subgraph(Edit("s", "Page"))
    assert WikidataCache(path, internal_classes=()).subgraph(Edit("s", "Page")).graph["target_new_resolved"] == "Q17"


def test_options_accept_the_integers_of_numpy(toy: WikidataCache) -> None:
    options = {"hops": 3, "per_node": 4, "seed": 5, "max_edges": 6}
    expected = toy.subgraph(EDIT, SubgraphOptions(**options))  # type: ignore[arg-type]
    graph = toy.subgraph(EDIT, SubgraphOptions(**{name: np.int16(value) for name, value in options.items()}))  # type: ignore[arg-type]
    assert as_json(graph) == as_json(expected)


def test_subgraph_has_the_statements_and_labels_of_the_file(cache: WikidataCache) -> None:
    text = gzip.decompress(packaged_extract().read_bytes()).decode()
    stated = set(re.findall(r"entity/(Q\d+)> <\S+/direct/(P\d+)> <\S+/entity/(Q\d+)>", text))
    labels = dict(re.findall(r'entity/(\w+)> <\S+#label> "([^"\\]*)"@en', text))
    for edit in EDITS:
        graph = cache.subgraph(edit, SubgraphOptions(per_node=10_000))
        about = {triple for triple in stated if triple[0] == edit.target_new_id}
        edge = (edit.subject_id or "_:subject", edit.relation_id, edit.target_new_id)
        assert triples(graph) == about | {edge}
        for node, data in graph.nodes(data=True):
            assert node == "_:subject" or data["label"] == labels[node]


def test_batch_equals_single_subgraphs(cache: WikidataCache) -> None:
    options = {"hops": 3, "per_node": 7, "seed": 3}
    batch = WikidataCache(packaged_extract()).subgraphs(EDITS, SubgraphOptions(**options))  # type: ignore[arg-type]
    assert [as_json(graph) for graph in batch] == [
        as_json(cache.subgraph(edit, SubgraphOptions(**options)))  # type: ignore[arg-type]
        for edit in EDITS
    ]
    assert cache.subgraphs([]) == []


def test_neighbourhood_has_the_statements_of_an_item(toy: WikidataCache) -> None:
    assert triples(toy.neighbourhood("Q2")) == ABOUT_TWO
    assert toy.neighbourhood("Q2").nodes["Q2"] == {"label": "Two", "hop": 0, "role": "subject"}
    assert list(toy.neighbourhood("Q404")) == ["Q404"]
    assert "rules" not in toy.neighbourhood("Q2", SubgraphOptions(rules=Rules([]))).graph, "they are only for edits"


@pytest.mark.slow
def test_subgraphs_of_the_big_graph() -> None:
    big = WikidataCache(read_shared("wikidata/wikidata.nt.gz"))
    assert len(big.find("Philadelphia")) == 3
    with pytest.raises(AmbiguousLabelError, match=r"Q1345 \(.*city.*\)"):
        big.subgraph(replace(SPIKE, target_new_id=None))
    graphs = big.subgraphs(EDITS, SubgraphOptions(hops=3, per_node=20, roots=("target_new", "subject")))
    for graph, edit in zip(graphs, EDITS, strict=True):
        assert graph.number_of_edges() > 20
        assert (edit.subject_id, edit.relation_id, edit.target_true_id) not in triples(graph)
        names = {entry["name"] for entry in graph.graph["source"]["files"]}
        assert names == {"wikidata.nt.gz", "labels.nt.gz"}
    assert graphs[EDITS.index(LEBRON)].graph["old_edge_stated"] is True
