"""A graph of one's own: which attribute of an edge is its relation, and files of facts between names."""

from __future__ import annotations

import gzip
import hashlib
import logging
import re
from collections.abc import Callable
from pathlib import Path

import networkx as nx
import pytest

from kg_edit.edits.edit import Edit
from kg_edit.errors import GraphError
from kg_edit.graphs.fact_files import read_facts
from kg_edit.graphs.private_graph import PrivateGraph
from kg_edit.graphs.source import open_named
from wikidata_cache import WikidataCache

EDIT = Edit(subject="Project Heron", prompt="The leader of {} is", relation="leader", target_new="Ingrid Solberg")
FACTS = [
    ("Ingrid Solberg", "works at", "Bergen office"),
    ("Ingrid Solberg", "founded", "Bergen office"),
    ("Ingrid Solberg", "field of work", "marine biology"),
    ("Bergen office", "country", "Norway"),
]
CSV = "".join(f"{','.join(fact)}\n" for fact in FACTS)
STATED = {("works at", "Bergen office"), ("founded", "Bergen office"), ("field of work", "marine biology")}


def stated(source: PrivateGraph) -> set[tuple[str, str]]:
    """What the graph states about the new object of EDIT, in words."""
    graph = source.subgraph(EDIT)
    (target,) = (node for node, role in graph.nodes(data="role") if role == "target_new")
    return {(label, graph.nodes[end]["label"]) for _, end, label in graph.out_edges(target, data="label")}


@pytest.mark.parametrize("name", ["label", "relation", "type", "predicate"])
def test_relation_is_read_from_the_usual_attributes(name: str) -> None:
    graph = nx.MultiDiGraph()
    for head, relation, tail in FACTS:
        graph.add_edge(head, tail, **{name: relation, "weight": 2})
    assert stated(PrivateGraph(graph)) == STATED


def test_first_text_is_the_relation() -> None:
    graph = nx.DiGraph()
    graph.add_edge("Ingrid Solberg", "Oslo", label=7, relation=" ", type="lives in", predicate="P551")
    assert stated(PrivateGraph(graph)) == {("lives in", "Oslo")}


@pytest.mark.parametrize(
    ("written", "pair"),
    [("locatd in", "'locatd in' once and 'located in' often"), ("Located in", "'Located in' once"), ("leads", "")],
)
def test_misspelled_relation_is_named_and_read(
    written: str, pair: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [f"office {number},located in,Norway" for number in range(20)]
    (tmp_path / "facts.csv").write_text("\n".join([*rows, f"Ingrid Solberg,{written},Bergen office"]))
    source = open_named(tmp_path / "facts.csv")
    assert isinstance(source, PrivateGraph)
    assert stated(source) == {(written, "Bergen office")}
    assert [pair in log.getMessage() for log in caplog.records if log.levelname == "WARNING"] == [True] * bool(pair)


FORMS: dict[str, tuple[str, str]] = {
    "PyKEEN's form": ("facts.tsv", CSV.replace(",", "\t")),
    "commas": ("facts.csv", CSV),
    "a header": ("facts.csv", "head,relation,tail\n" + CSV),
    "other columns in another order": (
        "facts.csv",
        "Object,source_file,Predicate,Subject\n" + "".join(f"{o},notes,{r},{s}\n" for s, r, o in FACTS),
    ),
    "a byte order mark and semicolons": ("facts.csv", "\ufeff" + CSV.replace(",", ";")),
    "commas in a .tsv": ("facts.tsv", CSV),
    "quotes, spaces, blank lines, Windows": (
        "facts.csv",
        "\r\n" + CSV.replace(",", " , ").replace(" Norway", '" Norway "').replace("\n", "\r\n\r\n"),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_tables_of_names_are_read(form: str, tmp_path: Path) -> None:
    name, text = FORMS[form]
    path = tmp_path / name
    path.write_bytes(text.encode())
    opened = open_named(str(path))
    assert isinstance(opened, PrivateGraph) and stated(opened) == STATED
    assert (
        opened.provenance()["content_hash"]
        == open_named(write(tmp_path, "plain.csv", CSV)).provenance()["content_hash"]
    )
    assert opened.provenance()["files"] == [{"name": name, "sha256": hashlib.sha256(text.encode()).hexdigest()}]


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize(("row", "named"), [("person,rel,place", True), ("Bergen office,in,Bergen", False)])
def test_first_row_that_may_be_a_header_is_named(
    row: str, *, named: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.csv").write_text(f"{row}\n{CSV}")
    read_facts([tmp_path / "a.csv"])
    assert (
        f"its first row is read as the statement {row.replace(',', ', ')}; if it is a header" in caplog.text
    ) == named


def test_repeated_rows_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first, second = write(tmp_path, "a.csv.gz", CSV + CSV), write(tmp_path, "b.tsv", CSV + "Norway,capital,Oslo\n")
    source = open_named([first, second])
    assert isinstance(source, PrivateGraph) and source.graph.number_of_edges() == 5
    assert "a.csv.gz: read 4 statements, 4 skipped" in caplog.text
    assert "b.tsv: read 1 statement, 4 skipped" in caplog.text


@pytest.mark.parametrize("start", ["", "subject\tproperty\tobject\n"])
def test_tsv_of_wikidata_ids_stays_a_wikidata_graph(start: str, tmp_path: Path) -> None:
    rows = "Q42\tP31\tQ5\nQ42\tlabel\tDouglas Adams\nQ5\tlabel\thuman\nP31\tlabel\tinstance of\n"
    path = write(tmp_path, "graph.tsv", start + rows)
    assert isinstance(open_named(path), WikidataCache)


def graphml(edges: Callable[[nx.MultiDiGraph], object], path: Path, kind: type[nx.Graph] = nx.MultiDiGraph) -> Path:
    graph = kind()
    edges(graph)
    nx.write_graphml(graph, path)
    return path


def test_graphml_is_read_with_its_node_names(tmp_path: Path) -> None:
    def edges(graph: nx.MultiDiGraph) -> None:
        names = sorted({name for head, _, tail in FACTS for name in (head, tail)})
        for name in names:
            graph.add_node(f"n{names.index(name)}", name=name)
        for head, relation, tail in FACTS:
            graph.add_edge(f"n{names.index(head)}", f"n{names.index(tail)}", type=relation)

    opened = open_named(graphml(edges, tmp_path / "facts.graphml"))
    assert isinstance(opened, PrivateGraph) and stated(opened) == STATED
    assert [file["name"] for file in opened.provenance()["files"]] == ["facts.graphml"]


def test_limit_of_graphml_counts_unzipped_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def edges(graph: nx.MultiDiGraph) -> None:
        for number in range(100):
            graph.add_edge(str(number), "Norway", label="capital of")

    plain = graphml(edges, tmp_path / "facts.graphml").read_bytes()
    zipped = tmp_path / "facts.graphml.gz"
    zipped.write_bytes(gzip.compress(plain))
    assert zipped.stat().st_size < len(plain) / 2
    monkeypatch.setattr("kg_edit.graphs.fact_files._LARGEST", len(plain) - 1)
    with pytest.raises(GraphError, match="has more than"):
        open_named(zipped)
    monkeypatch.setattr("kg_edit.graphs.fact_files._LARGEST", len(plain))
    open_named(zipped)


def test_graphml_without_its_name_space_is_read(tmp_path: Path) -> None:
    path = graphml(lambda graph: graph.add_edge("Oslo", "Norway", label="capital of"), tmp_path / "facts.graphml")
    original = open_named(path)
    path.write_text(re.sub("<graphml [^>]*>", "<graphml>", path.read_text()))
    stripped = open_named(path)
    assert isinstance(original, PrivateGraph) and isinstance(stripped, PrivateGraph)
    assert [*stripped.graph.edges(data=True)] == [*original.graph.edges(data=True)]
