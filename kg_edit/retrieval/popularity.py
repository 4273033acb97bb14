"""How popular an entity is, and up to which popularity facts about it are looked up (Mallen et al., ACL 2023)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import networkx as nx

from kg_edit.datasets.documents import document
from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError, EditFileError
from kg_edit.graphs.encoding import SubgraphSource
from kg_edit.graphs.source import PrivateGraph

_MOST_STATEMENTS = 10_000


@runtime_checkable
class Neighbourhoods(Protocol):
    """A graph that says what it holds about one item, as `wikidata_cache.WikidataCache` does."""

    def neighbourhood(self, entity: str, *, per_node: int) -> nx.MultiDiGraph:
        """The item's statements as edges."""

    def find(self, label: str) -> tuple[str, ...]:
        """The ids of all that has this label."""


def statements(graph: SubgraphSource, edit: Edit) -> float:
    """How many statements a graph holds about the edit's subject; 0 if it does not know it, or not which one is meant.

    Raises:
        ConfigError: the graph can't be asked about one item.
    """
    if isinstance(graph, PrivateGraph):
        return _in_networkx(graph.graph, edit)
    if not isinstance(graph, Neighbourhoods):
        raise ConfigError(
            f"popularity is counted in a networkx graph or a WikidataCache, not in a {type(graph).__name__}; "
            "give such a graph, or a file of popularities"
        )
    found = (edit.subject_id,) if edit.subject_id else graph.find(edit.subject)
    return float(graph.neighbourhood(found[0], per_node=_MOST_STATEMENTS).number_of_edges()) if len(found) == 1 else 0.0


def _in_networkx(graph: nx.DiGraph, edit: Edit) -> float:
    named = [node for node, data in graph.nodes(data=True) if str(data.get("label", node)) == edit.subject]
    found = [edit.subject_id] if edit.subject_id in graph else named
    return float(graph.out_degree(found[0])) if len(found) == 1 else 0.0


def read_popularity(path: str | Path) -> Mapping[str, float]:
    """Popularities by subject: a JSON object of name or id to number, or PopQA's rows with ``subj`` and ``s_pop``.

    Raises:
        EditFileError: the file can't be read, or holds neither.
    """
    path = Path(path)
    found = document(path)
    rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
    pairs = found.items() if isinstance(found, dict) else [(row.get("subj"), row.get("s_pop")) for row in rows]
    table = {str(name).casefold(): number for name, value in pairs if (number := _number(value)) is not None}
    if not table or len(table) < len(rows) // 2:
        raise EditFileError(
            f'{path}: holds no popularities; expected {{"LeBron James": 190000, …}} or rows with subj and s_pop'
        )
    return table


def _number(value: object) -> float | None:
    real = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if real else None  # type: ignore[arg-type]  # it is one of the two


def best_threshold(popularity: Sequence[float], without: Sequence[bool], retrieved: Sequence[bool]) -> float:
    """The highest popularity up to which facts are looked up, so that most questions are answered rightly.

    ``without`` and ``retrieved`` say which questions the model answers rightly alone, and with the fact at hand. For
    each relation apart, on questions that are not tested with (the paper does it on log popularity: the same order).
    0 if nothing should be looked up; of equally good ones the lowest.

    Raises:
        ValueError: the three don't have one length.
    """
    rows = sorted(zip(popularity, without, retrieved, strict=True))
    best, right = 0.0, sum(alone for _, alone, _ in rows)
    most = right
    for place, (value, alone, told) in enumerate(rows):
        right += told - alone
        last_of_its_kind = place + 1 == len(rows) or rows[place + 1][0] > value
        if last_of_its_kind and right > most:
            best, most = value, right
    return best
