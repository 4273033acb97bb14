"""Give finished subgraphs the labels of another language, so that they are the same graphs in every language.

What is in a subgraph is decided by ids and default labels (`facts.py`), and so is its content hash. Nodes and edges
keep the default label as `default_label`.
"""

from __future__ import annotations

from collections.abc import Sequence

from kg_common.ids import is_item, is_property
from wikidata_cache.languages import list_own_languages
from wikidata_cache.subgraphs.facts import Facts
from wikidata_cache.subgraphs.subgraph import Subgraph
from wikidata_cache.values import is_value


def translate(graphs: Sequence[Subgraph], facts: Facts) -> None:
    """Replace the labels of subgraphs in place by those in the languages of `facts`; requests are shared.

    If these are English alone, nothing is done: new subgraphs have English labels.
    """
    if not list_own_languages(facts.languages):
        return
    ids = set[str]()
    values = set[str]()
    for graph in graphs:
        ids.update(filter(is_item, graph))
        ids.update(key for _, _, key in graph.edges(keys=True) if is_property(key))
        values.update(filter(is_value, graph))
        old = graph.graph.get("old_edge")
        if old and old["object"]:  # mostly not a node of the graph; without an id, it keeps the edit's own words
            ids.add(old["object"])
    labels = facts.labels(ids)
    for value in values:
        words = facts.label(value)
        if words:
            labels[value] = words
    for graph in graphs:
        _replace_labels(graph, labels)


def _replace_labels(graph: Subgraph, labels: dict[str, str]) -> None:
    """Replace the labels of nodes and edges, and those in the provenance.

    `labels` are by item, property, date or quantity; what is not among them keeps its label. A graph that is translated
    again keeps its first `default_label`.
    """
    for node, data in graph.nodes(data=True):
        data.setdefault("default_label", data["label"])
        data["label"] = labels.get(node, data["label"])
    for _, _, key, data in graph.edges(keys=True, data=True):
        data.setdefault("default_label", data["label"])
        data["label"] = labels.get(key, data["label"])
    old = graph.graph.get("old_edge")
    if old:
        old["label"] = labels.get(old["property"], old["label"])
        old["object_label"] = labels.get(old["object"], old["object_label"])
    for consequence in graph.graph.get("consequences", ()):
        pairs = zip(consequence["statement"], consequence["labels"], strict=True)
        consequence["labels"] = [labels.get(entity, label) for entity, label in pairs]
