"""`Subgraph`, the result of `WikidataCache.subgraph`: a networkx graph that can be exported and shown in a notebook.

Formats: PyTorch Geometric, pandas, rdflib, GraphML (http://graphml.graphdrawing.org), HTML, SVG. Each optional
library is imported only by the export that needs it.
"""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Collection
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx as nx

from kg_common.atomic import write_atomically
from kg_common.ids import is_entity, is_property
from wikidata_cache.errors import MissingExtraError
from wikidata_cache.ids import DIRECT, ENTITY, RDFS_LABEL
from wikidata_cache.values import is_value, typed_literal

if TYPE_CHECKING:
    import pandas as pd
    import rdflib

EDIT_IRI = "urn:wikidata-cache:edit"  # the property of an edit whose relation has no id
COLUMNS = ("subject", "subject_label", "property", "property_label", "object", "object_label", "role", "hop")
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Subgraph(nx.MultiDiGraph):  # type: ignore[misc]  # networkx has no types
    """A networkx.MultiDiGraph of Wikidata statements, with provenance in `.graph`.

    Nodes are item ids, or dates and quantities (`values.py`), with `label`, `hop` and `role`; edge keys are property
    ids, with `property`, `label` and `role`. All functions of networkx work on it, and `copy`, `subgraph` and `reverse`
    return a `Subgraph` again. A notebook displays it as the last expression of a cell. Equal graphs are exported as
    equal bytes.
    """

    def to_networkx(self) -> nx.MultiDiGraph:
        """Return a copy as a plain networkx.MultiDiGraph, with the same nodes, edges, attributes and provenance."""
        return nx.MultiDiGraph(self)

    def to_pyg(self) -> Any:
        """Return a torch_geometric.data.Data: `edge_index` [2, edges], `edge_type` [edges], `hop` [nodes]; no `x`.

        `node_ids`, `node_labels` and `roles` describe the nodes in order. `relation_ids` and `relation_labels` are
        indexed by `edge_type`. `edit_mask` [edges] marks the edit's own edge. Encode the labels to get `x`.

        Raises:
            MissingExtraError: torch_geometric is not installed.
        """
        torch = _import_library("torch", "to_pyg", "torch-geometric")
        geometric = _import_library("torch_geometric.data", "to_pyg", "torch-geometric")
        number_of_node = {node: number for number, node in enumerate(self)}
        relation_labels = {}
        for _, _, relation, data in self.edges(keys=True, data=True):
            relation_labels[relation] = data.get("label", relation)
        relations = sorted(relation_labels)
        number_of_relation = {relation: number for number, relation in enumerate(relations)}

        ends = []
        types = []
        is_edit = []
        for subject, target, relation, data in self.edges(keys=True, data=True):
            ends.append((number_of_node[subject], number_of_node[target]))
            types.append(number_of_relation[relation])
            is_edit.append(data.get("role") == "edit")
        nodes = list(self.nodes(data=True))
        return geometric.Data(
            num_nodes=len(nodes),
            edge_index=torch.tensor(ends, dtype=torch.long).reshape(-1, 2).t().contiguous(),  # [2, edges]
            edge_type=torch.tensor(types, dtype=torch.long),
            edit_mask=torch.tensor(is_edit, dtype=torch.bool),
            hop=torch.tensor([data.get("hop", 0) for _, data in nodes], dtype=torch.long),
            node_ids=list(self),
            node_labels=[data["label"] for _, data in nodes],
            roles=[data.get("role", "neighbour") for _, data in nodes],
            relation_ids=relations,
            relation_labels=[relation_labels[relation] for relation in relations],
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return a pandas.DataFrame with one row per edge: subject, property, object, their labels, role and hop.

        The hop of an edge is one more than the hop of the end from which it was reached; the edit's own edge is hop 1.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        pandas = _import_library("pandas", "to_dataframe", "kg-edit[pandas]")
        label = self.nodes(data="label")
        rows = []
        for subject, target, key, data in self.edges(keys=True, data=True):
            relation = data.get("label", key)
            role = data.get("role", "statement")
            hop = edge_hop(self, subject, target)
            rows.append((subject, label[subject], key, relation, target, label[target], role, hop))
        frame: pd.DataFrame = pandas.DataFrame(rows, columns=list(COLUMNS))
        return frame

    def to_rdflib(self) -> rdflib.Graph:
        """Return an rdflib.Graph of `wd:s wdt:p wd:o` triples and rdfs:labels.

        The edit's own edge is a wdt: triple like the others (property `urn:wikidata-cache:edit` for a relation without
        an id). A subject without an id is a blank node, and a date or a quantity a typed literal without its unit.
        Labels are tagged as English; a node whose label is only its id gets no label.
        """
        import rdflib

        graph = rdflib.Graph()
        graph.bind("wd", ENTITY)
        graph.bind("wdt", DIRECT)
        label = rdflib.URIRef(RDFS_LABEL)
        term = {node: _make_rdf_term(node) for node in self}
        for node, data in self.nodes(data=True):
            if data["label"] != node and not is_value(node):
                graph.add((term[node], label, rdflib.Literal(data["label"], lang="en")))
        for subject, target, key, data in self.edges(keys=True, data=True):
            predicate = EDIT_IRI
            entity = EDIT_IRI
            if is_property(key):
                predicate = DIRECT + key
                entity = ENTITY + key
            graph.add((term[subject], rdflib.URIRef(predicate), term[target]))
            if data.get("label") not in (None, "", key):
                graph.add((rdflib.URIRef(entity), label, rdflib.Literal(data["label"], lang="en")))
        return graph

    def to_graphml(self, path: str | Path) -> Path:
        """Write GraphML for Gephi, yEd, Cytoscape, igraph or `networkx.read_graphml`, and return the path.

        Edges get ids such as "Q1345 P17 Q30". Lists, None and nested values become JSON text, and characters that XML
        cannot hold become spaces.
        """
        plain = nx.MultiDiGraph()
        plain.graph |= _write_scalars(self.graph)
        for node, data in self.nodes(data=True):
            plain.add_node(node, **_write_scalars(data))
        for u, v, key, data in self.edges(keys=True, data=True):
            plain.add_edge(u, v, key=f"{u} {key} {v}", **_write_scalars(data))
        file = io.BytesIO()
        nx.write_graphml_xml(plain, file, named_key_ids=True)
        return write_atomically(path, file.getvalue())

    def to_html(self, path: str | Path) -> Path:
        """Write one interactive HTML page, which loads nothing from the network, and return the path.

        Call `WikidataCache.describe(graph)` before to add descriptions.
        """
        from wikidata_cache.view.page import page

        return write_atomically(path, page(self))

    def to_svg(self, path: str | Path) -> Path:
        """Draw a static tree from left to right, and return the path. It suits graphs of up to about forty nodes.

        Raises:
            BadOptionError: the name does not end in .svg, or the graph is empty.
        """
        from wikidata_cache.view.svg import draw

        return draw(self, path)

    def show(self, *, static: bool = False) -> None:
        """Show the interactive page, or with `static` the drawing, in the notebook or else in a browser."""
        from wikidata_cache.view.notebook import show

        show(self, static=static)

    def _repr_mimebundle_(
        self, include: Collection[str] | None = None, exclude: Collection[str] | None = None
    ) -> dict[str, str]:
        from wikidata_cache.view.notebook import mimebundle

        return mimebundle(self, include=include, exclude=exclude)

    def _repr_html_(self) -> str:
        from wikidata_cache.view.notebook import html

        return html(self)


def edge_hop(graph: nx.MultiDiGraph, subject: str, target: str) -> int:
    """Return the hop of an edge: one more than the hop of its subject, or of its nearer end for direction "both"."""
    hop = graph.nodes[subject].get("hop", 0)
    if graph.graph.get("direction") == "both":
        hop = min(hop, graph.nodes[target].get("hop", 0))
    return 1 + int(hop)


def _make_rdf_term(node: str) -> rdflib.term.Node:
    """Return a node as a literal (a date or a quantity), an IRI (an entity), or else a blank node."""
    import rdflib

    if is_value(node):
        text, datatype = typed_literal(node)
        return rdflib.Literal(text, datatype=rdflib.URIRef(datatype), normalize=False)
    if is_entity(node):
        return rdflib.URIRef(ENTITY + node)
    return rdflib.BNode(node.removeprefix("_:"))


def _write_scalars(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes with every value as a number or as text that XML can hold."""
    scalars: dict[str, Any] = {}
    for name, value in attributes.items():
        if isinstance(value, bool | int | float):
            scalars[name] = value
            continue
        text = value
        if not isinstance(value, str):
            text = json.dumps(value, sort_keys=True)
        scalars[name] = _NOT_XML.sub(" ", text)
    return scalars


def _import_library(module: str, wanted_by: str, requirement: str) -> Any:
    try:
        with warnings.catch_warnings():  # in a notebook, PyTorch Geometric's bars warn that they are text
            warnings.filterwarnings("ignore", message="IProgress not found")
            return import_module(module)  # not an import statement: the package must not depend on torch
    except ImportError as error:
        raise MissingExtraError(module.partition(".")[0], wanted_by, requirement) from error
