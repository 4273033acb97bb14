"""What `WikidataCache.subgraph` gives: a networkx graph that exports itself and shows itself in a notebook."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx as nx

from wikidata_cache.atomic import write_atomically
from wikidata_cache.errors import BadOptionError

if TYPE_CHECKING:
    import pandas as pd
    import rdflib


class Subgraph(nx.MultiDiGraph):  # type: ignore[misc]  # networkx has no types
    """A networkx.MultiDiGraph of Wikidata statements, with provenance in `.graph`.

    Nodes are item ids with `label`, `hop` and `role`; edge keys are property ids, with `property`, `label` and
    `role`. Everything of networkx works on it, and `copy`, `subgraph` and `reverse` give a `Subgraph` again. As
    the last expression of a notebook cell it shows itself. The same graph always gives the same bytes.
    """

    def to_networkx(self) -> nx.MultiDiGraph:
        """A plain networkx.MultiDiGraph of its own, with the same nodes, edges, attributes and provenance."""
        return nx.MultiDiGraph(self)

    def to_pyg(self) -> Any:
        """A torch_geometric.data.Data: `edge_index` [2, edges], `edge_type` [edges], `hop` [nodes]; no `x`.

        `node_ids`, `node_labels` and `roles` list the nodes in order, `relation_ids` and `relation_labels` what
        `edge_type` counts, and `edit_mask` [edges] marks the edit's own edge. Encode the labels to get `x`.

        Raises MissingExtraError where torch_geometric is not installed.
        """
        from wikidata_cache.subgraphs import exports

        return exports.to_pyg(self)

    def to_dataframe(self) -> "pd.DataFrame":
        """A pandas.DataFrame with one row an edge: subject, property, object, their labels, role and hop.

        An edge's hop is one more than that of the end from which it was reached; the edit's own edge is hop 1.

        Raises MissingExtraError where pandas is not installed.
        """
        from wikidata_cache.subgraphs import exports

        return exports.to_dataframe(self)

    def to_rdflib(self) -> "rdflib.Graph":
        """An rdflib.Graph of `wd:s wdt:p wd:o` triples and rdfs:labels.

        The edit's own edge is a wdt: triple like the others (property `urn:wikidata-cache:edit` for a relation
        without an id), and a subject without an id is a blank node. Labels carry the language that the node's
        `label_lang` names, else "en"; a node whose label is only its id has none.
        """
        from wikidata_cache.subgraphs import exports

        return exports.to_rdflib(self)

    def to_graphml(self, path: str | Path) -> Path:
        """Write GraphML for Gephi, yEd, Cytoscape, igraph or `networkx.read_graphml`; returns the path.

        Edges get ids of their own such as "Q1345 P17 Q30". Lists, None and nested values become JSON text, and
        characters that XML cannot hold become spaces.
        """
        from wikidata_cache.subgraphs import exports

        return write_atomically(path, exports.to_graphml(self))

    def to_json(self) -> str:
        """The graph as one line of canonical JSON: provenance, nodes and edges, in order; `from_json` reads it."""
        nodes = [{"id": node, **data} for node, data in self.nodes(data=True)]
        edges = [
            {"subject": u, "key": key, "object": v, **data} for u, v, key, data in self.edges(keys=True, data=True)
        ]
        content = {"format": "wikidata-subgraph/1", "graph": self.graph, "nodes": nodes, "edges": edges}
        return json.dumps(content, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Subgraph":
        """The graph that `to_json` wrote, attribute for attribute.

        Raises BadOptionError for any other text.
        """
        try:
            content = json.loads(text)
            if content["format"] != "wikidata-subgraph/1":
                raise ValueError(f"format {content['format']!r}")
            graph = cls()
            graph.graph |= content["graph"]
            for node in content["nodes"]:
                graph.add_node(node.pop("id"), **node)
            for edge in content["edges"]:
                graph.add_edge(edge.pop("subject"), edge.pop("object"), **edge)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadOptionError(f"This is not a subgraph as Subgraph.to_json writes it: {error}.") from error
        return graph

    def to_html(self, path: str | Path, *, title: str | None = None) -> Path:
        """Write one interactive page that asks for nothing from outside; returns the path.

        `WikidataCache.describe(graph)` beforehand adds descriptions to it.
        """
        from wikidata_cache.view.page import page

        return write_atomically(path, page(self, title=title))

    def to_svg(self, path: str | Path, *, title: str | None = None) -> Path:
        """Draw a static tree from left to right, made for up to about forty nodes; returns the path.

        Raises BadOptionError for a name that does not end in .svg, or an empty graph.
        """
        from wikidata_cache.view.static import draw

        if Path(path).suffix.lower() != ".svg":
            raise BadOptionError(f"{path}: expected a name ending in .svg.")
        return draw(self, path, title=title)

    def show(self, *, static: bool = False) -> None:
        """Show the interactive page, or the drawing where `static`: in the notebook, else in a browser."""
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
