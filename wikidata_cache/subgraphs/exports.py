"""A subgraph in the formats of other libraries, each imported where it is used."""

import io
import json
import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

import networkx as nx

from wikidata_cache.errors import MissingExtraError
from wikidata_cache.ids import DIRECT, ENTITY, RDFS_LABEL, is_entity, is_property

if TYPE_CHECKING:
    import pandas as pd
    import rdflib

EDIT_IRI = "urn:wikidata-cache:edit"  # the property of an edit whose relation has no id
COLUMNS = ("subject", "subject_label", "property", "property_label", "object", "object_label", "role", "hop")
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def rows(graph: nx.MultiDiGraph) -> list[tuple[Any, ...]]:
    """One tuple an edge, in the graph's order: the values of `COLUMNS`."""
    label = graph.nodes(data="label")
    return [
        (u, label[u], key, data.get("label", key), v, label[v], data.get("role", "statement"), edge_hop(graph, u, v))
        for u, v, key, data in graph.edges(keys=True, data=True)
    ]


def edge_hop(graph: nx.MultiDiGraph, subject: str, target: str) -> int:
    """One more than the hop of the end from which a statement was reached: its subject, or its nearer end."""
    hops = [graph.nodes[end].get("hop", 0) for end in (subject, target)]
    return 1 + int(min(hops) if graph.graph.get("direction") == "both" else hops[0])


def to_dataframe(graph: nx.MultiDiGraph) -> "pd.DataFrame":
    """A pandas.DataFrame with `COLUMNS`, one row an edge.

    Raises MissingExtraError where pandas is not installed.
    """
    pandas = _library("pandas", "to_dataframe", "kg-edit[notebooks]")
    frame: pd.DataFrame = pandas.DataFrame(rows(graph), columns=list(COLUMNS))
    return frame


def to_pyg(graph: nx.MultiDiGraph) -> Any:
    """A torch_geometric.data.Data of ids and labels; see `Subgraph.to_pyg`.

    Raises MissingExtraError where torch_geometric is not installed.
    """
    torch = _library("torch", "to_pyg", "torch-geometric")
    geometric = _library("torch_geometric.data", "to_pyg", "torch-geometric")
    row = {node: number for number, node in enumerate(graph)}
    edges = [(u, v, key, data) for u, v, key, data in graph.edges(keys=True, data=True)]
    relations = {key: data.get("label", key) for _, _, key, data in sorted(edges, key=lambda edge: edge[2])}
    kind = {key: number for number, key in enumerate(relations)}
    long = {"dtype": torch.long}
    return geometric.Data(
        num_nodes=len(row),
        edge_index=torch.tensor([(row[u], row[v]) for u, v, _, _ in edges], **long).reshape(-1, 2).t().contiguous(),
        edge_type=torch.tensor([kind[key] for _, _, key, _ in edges], **long),
        edit_mask=torch.tensor([data.get("role") == "edit" for *_, data in edges], dtype=torch.bool),
        hop=torch.tensor([graph.nodes[node].get("hop", 0) for node in row], **long),
        node_ids=list(row),
        node_labels=[graph.nodes[node]["label"] for node in row],
        roles=[graph.nodes[node].get("role", "neighbour") for node in row],
        relation_ids=list(relations),
        relation_labels=list(relations.values()),
    )


def to_rdflib(graph: nx.MultiDiGraph) -> "rdflib.Graph":
    """An rdflib.Graph of direct statements and labels; see `Subgraph.to_rdflib`."""
    import rdflib

    made = rdflib.Graph()
    made.bind("wd", ENTITY)
    made.bind("wdt", DIRECT)
    named = rdflib.URIRef(RDFS_LABEL)
    term = {
        node: rdflib.URIRef(ENTITY + node) if is_entity(node) else rdflib.BNode(node.removeprefix("_:"))
        for node in graph
    }
    for node, data in graph.nodes(data=True):
        if data["label"] != node:
            made.add((term[node], named, rdflib.Literal(data["label"], lang=data.get("label_lang", "en"))))
    for u, v, key, data in graph.edges(keys=True, data=True):
        direct, entity = (DIRECT + key, ENTITY + key) if is_property(key) else (EDIT_IRI, EDIT_IRI)
        made.add((term[u], rdflib.URIRef(direct), term[v]))
        if data.get("label") not in (None, "", key):
            made.add((rdflib.URIRef(entity), named, rdflib.Literal(data["label"], lang="en")))
    return made


def to_graphml(graph: nx.MultiDiGraph) -> bytes:
    """GraphML as bytes; see `Subgraph.to_graphml`."""
    plain = nx.MultiDiGraph()
    plain.graph |= _scalars(graph.graph)
    for node, data in graph.nodes(data=True):
        plain.add_node(node, **_scalars(data))
    for u, v, key, data in graph.edges(keys=True, data=True):
        plain.add_edge(u, v, key=f"{u} {key} {v}", **_scalars(data))
    file = io.BytesIO()
    nx.write_graphml_xml(plain, file, named_key_ids=True)
    return file.getvalue()


def _scalars(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: _scalar(value) for name, value in attributes.items()}


def _scalar(value: object) -> object:
    if isinstance(value, bool | int | float):
        return value
    return _NOT_XML.sub(" ", value if isinstance(value, str) else json.dumps(value, sort_keys=True))


def _library(module: str, wanted_by: str, requirement: str) -> Any:
    try:
        return import_module(module)  # not an import statement: this package never depends on torch
    except ImportError as error:
        raise MissingExtraError(module.partition(".")[0], wanted_by, requirement) from error
