"""Graphs that are refused: files of facts, networkx graphs, subgraphs that can't be encoded, and pools of controls."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import pytest

from kg_edit.edits.edit import Edit
from kg_edit.errors import GraphError, MissingObjectError
from kg_edit.graphs.controls import WrongGraph, pool_of
from kg_edit.graphs.encoding import label_vectors
from kg_edit.graphs.fact_files import read_facts
from kg_edit.graphs.facts import graph_facts, target_of
from kg_edit.graphs.private_graph import PrivateGraph
from kg_edit.graphs.source import as_source, open_named
from kg_edit.methods.registry import find_method
from tests.kg_edit.graphs.test_controls import EDIT as CITY
from tests.kg_edit.graphs.test_controls import cities
from tests.kg_edit.graphs.test_fact_files import CSV, graphml
from tests.kg_edit.graphs.test_facts import LEBRON
from tests.kg_edit.graphs.test_facts import graph as subgraph_of
from tests.kg_edit.graphs.test_source import EDIT, company
from tests.kg_edit.tiny import tiny
from tests.refusals import Call, check_refused, put, refusals


def file(content: str | bytes, name: str = "facts.csv") -> Call:
    """A file of facts with this content."""
    return lambda folder: open_named(put(folder, name, content))


def edges(*rows: tuple[Any, ...]) -> Call:
    """A networkx graph with these edges."""
    return lambda _: as_source(nx.DiGraph([*rows]))


def asked(**fields: str) -> Call:
    """The subgraph of an edit of Ada's place of work with other fields."""
    return lambda _: PrivateGraph(company()).subgraph(EDIT.model_copy(update=fields))


def saved(edge: Callable[[nx.Graph], object], kind: type[nx.Graph] = nx.MultiDiGraph) -> Call:
    """A GraphML file as networkx writes it."""
    return lambda folder: open_named(graphml(edge, folder / "facts.graphml", kind))


def with_too_many(folder: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr("kg_edit.graphs.fact_files._MOST", 3)
    return read_facts([put(folder, "facts.csv", CSV)])


def mixed(folder: Path) -> object:
    wikidata = put(folder, "graph.tsv", "Q42\tP31\tQ5\nQ42\tlabel\tDouglas Adams\n")
    return open_named([wikidata, put(folder, "facts.csv", CSV)])


def facts_without_label() -> object:
    subgraph = subgraph_of(("mascot", "none"))
    subgraph.nodes["n0"]["label"] = " "
    return graph_facts(LEBRON, subgraph, limit=1, seed=0)


def two_targets() -> object:
    subgraph = subgraph_of()
    subgraph.add_node("p", label="Lakers", role="target_new")
    return target_of(subgraph)


def wrong_graph(*pool: str) -> Call:
    """A control of Rome's statements, from these entities."""
    return lambda _: WrongGraph(PrivateGraph(cities()), pool_of([*pool])).subgraph(CITY)


def read_long_statement() -> object:
    """A private graph with one long text among its statements, read by a method."""
    graph = nx.MultiDiGraph()
    graph.add_edge("Oslo", "Norway", label="country")
    graph.add_edge("Norway", "word " * 20_000, label="motto")
    method = find_method("glame").on(tiny("llama"), graph=graph)
    return method.subgraph(Edit(subject="Oslo", prompt="{} is in", relation="country", target_new="Norway"))


LONG_LABELS = ["Paris", "the capital of France " * 60]


@refusals(
    {
        # Files of facts
        "no such file": (lambda folder: open_named(folder / "none.csv"), GraphError, "does not exist"),
        "too few cells": (file(CSV + "Oslo,country\n"), GraphError, "line 5: found 2 cells"),
        "too many cells": (file("Oslo\tcountry\tNorway\tx\n", "facts.tsv"), GraphError, "line 1: found 4 cells"),
        "empty relation": (file(CSV + "\nOslo,,Norway\n"), GraphError, "line 6, field relation: is empty"),
        "empty relation below a header": (
            file("tail,head,relation,note\nNorway,Oslo,,x\n"),
            GraphError,
            "line 2, field relation: is empty",
        ),
        "open quote": (file(CSV + 'Oslo,"country,Norway\n'), GraphError, "line 5: not a row of a table"),
        "long cell": (file(f"{'x' * 200_000},country,Norway\n"), GraphError, "field larger"),
        "header alone": (file("head,relation,tail\n"), GraphError, "has no statement"),
        "empty file": (file(""), GraphError, "has no statement"),
        "ids of Wikidata in a CSV file": (file("Q42,P31,Q5\n", "graph.csv"), GraphError, "is a .tsv file"),
        "names beside ids": (mixed, GraphError, "can't be combined with a graph of Wikidata's ids"),
        "not UTF-8": (file(CSV.encode() + b"K\xe5re,works at,Oslo\n"), GraphError, "line 5: is not UTF-8"),
        "cut gzip": (file(gzip.compress(CSV.encode())[:-9], "facts.csv.gz"), GraphError, "cut-off gzip"),
        "cut GraphML": (file("<graph", "facts.graphml"), GraphError, "is not GraphML"),
        "empty GraphML": (file("<graphml></graphml>", "facts.graphml"), GraphError, "is not GraphML"),
        "undirected GraphML": (
            saved(lambda graph: graph.add_edge("a", "b", label="r"), nx.Graph),
            GraphError,
            "the graph is undirected",
        ),
        "GraphML without relations": (
            saved(lambda graph: graph.add_edge("a", "b", weight=1.0)),
            GraphError,
            "facts.graphml: the edge 'a' -> 'b' has no relation",
        ),
        # networkx graphs
        "undirected graph": (lambda _: as_source(nx.Graph()), GraphError, "is undirected"),  # type: ignore[arg-type]
        "edge without a relation": (
            edges(("Ann", "Bergen", {"weight": 3}), ("Bergen", "Norway")),
            GraphError,
            "its attributes are weight",
        ),
        "relation that is a number": (edges(("Ann", "Bergen", {"type": 5})), GraphError, "type is the number 5"),
        "nodes of one text": (edges((1, "1", {"label": "is not"})), GraphError, "several nodes"),
        # An edit's subgraph
        "object that is not there": (asked(target_new="Rome"), MissingObjectError, "no node 'Rome'; add it"),
        "object in another case": (asked(target_new="OSLO"), MissingObjectError, "did you mean 'Oslo'"),
        "misspelt object": (asked(target_new="Norvay"), MissingObjectError, "did you mean 'Norway'"),
        "several objects": (asked(target_new="Bern"), GraphError, "its id: node:1"),
        "id that is not there": (
            asked(target_new="Bern", target_new_id="node:50", target_true="Rome"),
            GraphError,
            "those with the label 'Bern' are 1, 5",
        ),
        "statement without a label": (lambda _: facts_without_label(), GraphError, "no label"),
        "two new objects": (lambda _: two_targets(), GraphError, "target_new"),
        "label longer than gpt2": (
            lambda _: label_vectors(tiny("gpt2"), LONG_LABELS, layer=1),
            GraphError,
            "128 positions",
        ),
        "label longer than opt": (
            lambda _: label_vectors(tiny("opt"), LONG_LABELS, layer=1, start_token=True),
            GraphError,
            "128 positions",
        ),
        "label longer than llama was trained on": (
            lambda _: label_vectors(tiny("llama"), LONG_LABELS, layer=1),
            GraphError,
            "128 positions",
        ),
        "statement with a label of 20,000 words": (
            lambda _: read_long_statement(),
            GraphError,
            "in the statement 'Norway' | 'motto' | 'word word",
        ),
        "pool without another entity": (wrong_graph("Rome", "Nowhere", "Atlantis"), GraphError, "larger pool"),
    }
)
def test_mistake_is_refused(call: Call, error: type[Exception], keyword: str, tmp_path: Path) -> None:
    check_refused(call, tmp_path, error, keyword)


def test_too_many_statements_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_refused(lambda folder: with_too_many(folder, monkeypatch), tmp_path, GraphError, "more than 3 statements")
