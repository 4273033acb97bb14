"""Graphs of names made to do harm: each is read as it is, or refused in one message, in little memory."""

from __future__ import annotations

import gzip
import unicodedata
from collections.abc import Callable
from pathlib import Path

import networkx as nx
import pytest

from kg_edit.edits.edit import Edit
from kg_edit.errors import GraphError, KgEditError
from kg_edit.graphs.fact_files import read_facts
from kg_edit.graphs.private_graph import PrivateGraph
from kg_edit.graphs.source import check_graph
from tests.attacks.commands import bounded_memory
from tests.everyday import keep_first
from wikidata_cache.errors import WikidataCacheError
from wikidata_cache.subgraphs.options import SubgraphOptions

EDIT = Edit(id="e", subject="France", prompt="In {}, the capital is", target_new="Rome", relation="capital")
OK = "Rome,capital of,Italy\nItaly,continent,Europe\n"
NODES = '<node id="Rome"/><node id="Italy"/>'
EDGE = '<edge source="Rome" target="Italy"><data key="l">capital of</data></edge>'
BAD: dict[str, tuple[str, bytes | Callable[[], bytes], str]] = {
    "lines that end in CR": ("g.csv", OK.replace("\n", "\r").encode(), "line 1"),
    "lies about itself": ("g.csv.gz", lambda: gzip.compress(b"a" * 3_000_000, 1) * 100, "has a line of more than"),
    "no gzip": ("g.csv.gz", OK.encode(), "gzip"),
    "open quote of 60 MB": ("g.csv", lambda: OK.encode() + b'"' + b"a\n" * 30_000_000, "line 3: not a row of a table"),
    "open quote": ("g.csv", OK.encode() + b'"a,r,c\n' + b"x,r,y\n" * 50, "close the quotes"),
    "line of 2 MB": ("g.csv", OK.encode() + b"a" * 2_000_000 + b",r,c\n", "line 3: has a line of more than"),
    "UTF-16": ("g.csv", OK.encode("utf-16"), "line 1: is not UTF-8"),
    "lone surrogate": ("g.csv", OK.encode() + b"Rome,r,\xed\xa0\x80\n", "line 3: is not UTF-8"),
}
READ: dict[str, tuple[str, int]] = {  # text, statements
    "self loop": ("Rome,is,Rome\n", 1),
    "cycle": (f"{OK}Italy,has,Rome\nEurope,has,Italy\n", 4),
    "thousand times the same": (OK * 1000, 2),
    "NUL": (f"{OK}a\0b,r,c\n", 3),
    "line end in a name": (f'{OK}"a\nb",r,c\n', 3),
    "terminal codes": (f"{OK}Rome,\x1b[2Jr,c\n", 3),
    "two normal forms": ("Rome,is,R\u00e9my\nRome,is,Re\u0301my\n", 1),  # of one name
    "hub": (OK + "".join(f"Rome,r{number},n{number}\n" for number in range(50_000)), 50_002),
    "many": (OK + "".join(f"n{number},r,m{number}\n" for number in range(200_000)), 200_002),
}


@pytest.mark.parametrize("name", keep_first(BAD, keep=2))
def test_hostile_file_of_facts_is_refused(name: str, tmp_path: Path) -> None:
    file, data, message = BAD[name]
    path = tmp_path / file
    path.write_bytes(data() if callable(data) else data)
    with bounded_memory(), pytest.raises((KgEditError, WikidataCacheError)) as caught:
        PrivateGraph(read_facts([path])[0]).subgraph(EDIT)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", keep_first(READ, keep=3))
def test_odd_file_of_facts_loses_no_statement(name: str, tmp_path: Path) -> None:
    text, statements = READ[name]
    path = tmp_path / "g.csv"
    path.write_text(text, newline="")
    with bounded_memory():
        graph, _ = read_facts([path])
        assert graph.number_of_edges() == statements
        subgraph = PrivateGraph(graph).subgraph(EDIT, SubgraphOptions(hops=4, per_node=20))
    check_graph(subgraph)
    assert subgraph.number_of_edges() <= 1 + 20 + 20 * 20
    assert max(hop for _, hop in subgraph.nodes(data="hop")) <= 4


def graphml(content: str, *, kind: str = "string", before: str = "") -> str:
    key = f'<key id="l" for="edge" attr.name="label" attr.type="{kind}"/>'
    return f'<?xml version="1.0"?>{before}<graphml>{key}<graph edgedefault="directed">{content}</graph></graphml>'


ENTITIES = '<!ENTITY a0 "aaaaaaaaaa">' + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
BAD_GRAPHML: dict[str, str | bytes] = {
    "billion laughs": graphml('<node id="&a9;"/>', before=f"<!DOCTYPE x [{ENTITIES}]>"),
    "file of the machine": graphml(
        '<node id="&x;"/>', before='<!DOCTYPE x [<!ENTITY x SYSTEM "file:///etc/hostname">]>'
    ),
    "number that is none": graphml(NODES + EDGE, kind="int"),
    "unknown type": graphml(NODES + EDGE, kind="martian"),
    "hyperedge": graphml(f"{NODES}<hyperedge/>"),
    "200,000 levels": "<a>" * 200_000,
    "bytes": bytes(range(256)),
}


@pytest.mark.parametrize("name", keep_first(BAD_GRAPHML, keep=2))
def test_hostile_graphml_is_refused(name: str, tmp_path: Path) -> None:
    data = BAD_GRAPHML[name]
    path = tmp_path / "g.graphml"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    with bounded_memory(), pytest.raises((KgEditError, WikidataCacheError)):
        PrivateGraph(read_facts([path])[0])


def test_hostile_networkx_graph_is_refused_or_read() -> None:
    graph = nx.MultiDiGraph()
    with pytest.raises(GraphError, match="has no node 'Rome'"):
        PrivateGraph(graph).subgraph(EDIT)
    graph.add_edge("Rome", "x\ny", label="r\n")
    graph.add_edge("Rome", ("a", 1), type="r")
    assert PrivateGraph(graph).subgraph(EDIT).number_of_edges() == 3
    graph.add_node(7, label="Rome")
    with pytest.raises(GraphError, match="several nodes have the label 'Rome'"):
        PrivateGraph(graph).subgraph(EDIT)
    graph.add_edges_from([(1, 2, {"label": "a"}), ("1", 3, {"label": "b"})])
    with pytest.raises(GraphError, match="1"):
        PrivateGraph(graph)


def test_normal_forms_of_a_target_are_named_not_mixed_up() -> None:
    composed, decomposed = unicodedata.normalize("NFC", "Rémy"), unicodedata.normalize("NFD", "Rémy")
    graph = nx.MultiDiGraph()
    graph.add_edge(composed, "x", label="a")
    graph.add_edge(decomposed, "y", label="b")
    for name, end in ((composed, "x"), (decomposed, "y")):
        assert end in PrivateGraph(graph).subgraph(EDIT.model_copy(update={"target_new": name}))
