import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import networkx as nx
import pytest

from tests.wikidata_cache.link_graph import write_graph
from tests.wikidata_cache.wikidata_helpers import EDITS, LEBRON, SPIKE, Edit, as_json, triples
from wikidata_cache import WikidataCache
from wikidata_cache.errors import BadOptionError, MissingExtraError
from wikidata_cache.subgraphs.options import SubgraphOptions
from wikidata_cache.subgraphs.subgraph import Subgraph

TWO = Edit(subject="One", subject_id="Q1", relation="borders", relation_id="P1", target_new="Two", target_new_id="Q2",
           target_true="Six", target_true_id="Q6")  # fmt: skip


@pytest.fixture
def two(toy: WikidataCache) -> Subgraph:
    """Q1 -P1-> Q2 (the edit), and the statements of TOY about Q2: borders Three, is part of Four."""
    return toy.subgraph(TWO)


def test_subgraph_is_a_networkx_graph(cache: WikidataCache) -> None:
    graph = cache.subgraph(LEBRON)
    assert isinstance(graph, Subgraph) and isinstance(graph, nx.MultiDiGraph)
    copy = graph.copy()
    assert isinstance(copy, Subgraph) and as_json(copy) == as_json(graph)
    part = graph.subgraph(["Q36159", "Q169138"])
    assert isinstance(part, Subgraph) and part.number_of_edges() == 1
    assert isinstance(graph.reverse(), Subgraph)
    assert nx.is_weakly_connected(graph)
    assert nx.shortest_path_length(graph, "Q36159", "Q5372") == 2  # LeBron James, Miami Heat, basketball


def test_to_networkx_is_a_separate_plain_copy(cache: WikidataCache) -> None:
    graph = cache.subgraph(LEBRON)
    plain = graph.to_networkx()
    assert type(plain) is nx.MultiDiGraph
    assert as_json(plain) == as_json(graph)
    plain.nodes["Q36159"]["label"] = "changed"
    plain.remove_node("Q169138")
    assert graph.nodes["Q36159"]["label"] == "LeBron James" and "Q169138" in graph


def test_to_dataframe_has_one_row_per_edge(two: Subgraph) -> None:
    frame = two.to_dataframe()
    assert list(frame.columns) == [
        *("subject", "subject_label", "property", "property_label", "object", "object_label", "role", "hop")
    ]
    rows = [tuple(row) for row in frame.itertuples(index=False)]
    assert rows[0] == ("Q1", "One", "P1", "borders", "Q2", "Two", "edit", 1)
    assert ("Q2", "Two", "P1", "borders", "Q3", "Three", "statement", 2) in rows
    assert len(rows) == two.number_of_edges()


def test_to_pyg_has_all_edges(two: Subgraph) -> None:
    data = two.to_pyg()
    edges = {
        (data.node_ids[u], data.relation_ids[kind], data.node_ids[v])
        for (u, v), kind in zip(data.edge_index.t().tolist(), data.edge_type.tolist(), strict=True)
    }
    assert edges == triples(two)
    assert data.node_labels == [two.nodes[node]["label"] for node in two] and data.roles[:2] == [
        "subject",
        "target_new",
    ]
    assert dict(zip(data.relation_ids, data.relation_labels, strict=True))["P1"] == "borders"
    assert data.edit_mask.sum() == 1 and data.num_nodes == len(two) and data.x is None
    assert data.hop.tolist() == [two.nodes[node]["hop"] for node in two]
    assert data.validate()


def test_to_pyg_of_a_single_node(cache: WikidataCache) -> None:
    data = cache.neighbourhood("Q9999999").to_pyg()
    assert tuple(data.edge_index.shape) == (2, 0) and data.num_nodes == 1 and data.validate()


@pytest.mark.parametrize(("module", "export"), [("pandas", "to_dataframe"), ("torch_geometric.data", "to_pyg")])
def test_export_without_its_library_is_refused(
    two: Subgraph, monkeypatch: pytest.MonkeyPatch, module: str, export: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"needs {module.partition('.')[0]}.*pip install"):
        getattr(two, export)()


def test_to_rdflib_can_be_read_again(two: Subgraph, tmp_path: Path) -> None:
    graph = two.to_rdflib()
    rows = graph.query(
        "PREFIX wd: <http://www.wikidata.org/entity/> PREFIX wdt: <http://www.wikidata.org/prop/direct/> "
        "PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#> "
        "SELECT ?label ?p WHERE { wd:Q1 wdt:P1 ?o . ?o rdfs:label ?label . wd:P1 rdfs:label ?p }"
    )
    assert [tuple(map(str, row)) for row in rows] == [("Two", "borders")]
    graph.serialize(tmp_path / "again.nt", format="nt", encoding="utf-8")
    again = WikidataCache(tmp_path / "again.nt", meta_properties=(), internal_classes=())
    assert triples(again.subgraph(TWO, SubgraphOptions(per_node=100))) == triples(two)


def test_to_rdflib_without_ids(toy: WikidataCache) -> None:
    graph = toy.subgraph(Edit("Somebody", "Two", relation="lives near")).to_rdflib()
    lines = graph.serialize(format="nt")
    edit = next(line for line in lines.splitlines() if line.startswith("_:") and "urn:wikidata-cache:edit" in line)
    assert edit.endswith("<http://www.wikidata.org/entity/Q2> .")
    assert '"Somebody"@en' in lines and '"lives near"@en' in lines


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.subject)
def test_graphml_reads_back(cache: WikidataCache, tmp_path: Path, edit: Edit) -> None:
    graph = cache.subgraph(edit, SubgraphOptions(hops=3, per_node=5))
    read = nx.read_graphml(graph.to_graphml(tmp_path / "a.graphml"))
    assert dict(read.nodes(data=True)) == {node: dict(data) for node, data in graph.nodes(data=True)}
    assert {(u, data["property"], v) for u, v, data in read.edges(data=True)} == triples(graph)
    assert (
        json.loads(read.graph["roots"]) == ["target_new"] and read.graph["content_hash"] == graph.graph["content_hash"]
    )
    edges = ElementTree.parse(tmp_path / "a.graphml").iter("{http://graphml.graphdrawing.org/xmlns}edge")  # noqa: S314
    ids = [edge.get("id") for edge in edges]
    assert len(set(ids)) == len(ids) == graph.number_of_edges()


def test_graphml_replaces_what_xml_cannot_hold(tmp_path: Path) -> None:
    graph = Subgraph(note=None, nested={"a": [1]})
    graph.add_node("Q1", label="a\x00\x1b\ufffe\udc80<b>&]]>😀", hop=0, role="subject")
    graph.add_edge(
        "Q1", "Q1", key="P1", property="P1", label="\u202e", role="statement", claims=[{"rank": "normal"}], end=None
    )
    read = nx.read_graphml(graph.to_graphml(tmp_path / "a.graphml"))
    assert read.nodes["Q1"]["label"] == "a    <b>&]]>😀"
    ((_, _, data),) = read.edges(data=True)
    assert data["claims"] == '[{"rank": "normal"}]' and data["end"] == "null" and data["label"] == "\u202e"


@pytest.mark.slow
def test_written_files_are_reproducible(cache: WikidataCache, tmp_path: Path) -> None:
    for name, write in (("graphml", Subgraph.to_graphml), ("html", Subgraph.to_html), ("svg", Subgraph.to_svg)):
        path = tmp_path / f"a.{name}"
        path.write_text("what stood here before")
        first = write(cache.subgraph(SPIKE), path).read_bytes()  # type: ignore[operator]
        assert write(cache.subgraph(SPIKE), path).read_bytes() == first  # type: ignore[operator]
        assert [file.name for file in tmp_path.glob(f"*.{name}*")] == [f"a.{name}"]
    with pytest.raises(FileNotFoundError, match=r"nowhere/a\.html"):
        cache.subgraph(SPIKE).to_html(tmp_path / "nowhere" / "a.html")
    with pytest.raises(BadOptionError, match=r"\.svg"):
        cache.subgraph(SPIKE).to_svg(tmp_path / "a.png")


def test_describe_adds_descriptions_only(tmp_path: Path) -> None:
    rows = "Q1 | label | One\nQ1 | description | first of all\nQ1 | P1 | Q2\nQ2 | label | Two\nP1 | label | is before"
    cache = WikidataCache(write_graph(tmp_path, rows))
    graph = cache.neighbourhood("Q1")
    before = graph.graph["content_hash"]
    cache.describe(graph)
    assert graph.nodes["Q1"]["description"] == "first of all" and "description" not in graph.nodes["Q2"]
    assert graph.graph["content_hash"] == before
    assert "first of all" in graph.to_html(tmp_path / "a.html").read_text()
