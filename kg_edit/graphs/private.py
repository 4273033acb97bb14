"""Your own knowledge graph, without Wikidata's ids: a networkx graph, or files of facts (head, relation, tail).

`PrivateGraph` gives the subgraph of an edit from a networkx graph. `read_facts` reads files of names into one: CSV and
TSV in PyKEEN's form, with or without a header, and GraphML. `has_names` tells such files from those of Wikidata's ids.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import networkx as nx

from kg_edit.edits.edit import Edit
from kg_edit.errors import GraphError, MissingObjectError
from wikidata_cache.ids import Statement, is_entity, is_property
from wikidata_cache.row_files import RowFault, table_rows
from wikidata_cache.sources.graph_files import CountingReader, open_graph_file
from wikidata_cache.subgraphs.options import DEFAULTS, SubgraphOptions
from wikidata_cache.subgraphs.sampling import bottom_m

_SUBJECT = "_:subject"
_RELATION = ("label", "relation", "type", "predicate")  # attributes of an edge, the first text of which is its relation
_COLUMNS = {  # names that a header may have
    "head": {"head", "subject", "source", "from", "h", "s"},
    "relation": {"relation", "predicate", "property", "label", "type", "edge", "r", "p"},
    "tail": {"tail", "object", "target", "to", "t", "o"},
}
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_FORM = "expected head, relation and tail, such as Ingrid Solberg,works at,Bergen office"
_MOST = 5_000_000  # statements of all files; one takes about 1 kB of memory
_LARGEST = 500_000_000  # bytes of a GraphML file, which is parsed at once

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class PrivateGraph:
    """Subgraphs of a directed networkx graph. The relation of an edge s -> o is its attribute ``label``, ``relation``,
    ``type`` or ``predicate``, the first one that is a text. A node's name is its ``label``, or ``name``, or its key.

    An edit's subject and new object are found among the nodes by their ids, or else by their labels. The content of the
    graph is cached, so make a new `PrivateGraph` after a change of the graph.

    Args:
        graph: the graph. A `networkx.DiGraph` has one edge from s to o; only a MultiDiGraph holds several relations.
        files: the SHA-256 of the files that it was read from, by name.

    Raises:
        GraphError: the graph is undirected, an edge has no relation, or two nodes have the same key as texts.
    """

    graph: nx.DiGraph
    files: Mapping[str, str] = field(default_factory=dict)

    supports = frozenset(("hops", "per_node", "seed"))

    def __post_init__(self) -> None:
        if not self.graph.is_directed():
            raise GraphError("the graph is undirected; give a networkx.DiGraph or MultiDiGraph with edges from s to o")
        if len(self._nodes) < len(self.graph):
            twice = next(str(node) for node in self.graph if self._nodes[str(node)] != node)
            raise GraphError(f"two nodes of the graph are written {twice!r}; give them keys that differ as texts")
        nameless = [edge for edge in self.graph.edges(data=True) if _relation_of(edge[2]) is None]
        if nameless:
            (start, end, data), *others = nameless
            have = f"its attributes are {', '.join(map(str, data))}" if data else "it has no attributes"
            more = f" ({len(others)} more such edges)" if others else ""
            raise GraphError(
                f"the edge {start!r} -> {end!r} has no relation: {have}; put the relation's name into its label (or "
                f"relation, type, predicate), or remove the edge{more}"
            )

    def subgraph(self, edit: Edit, options: SubgraphOptions = DEFAULTS) -> nx.MultiDiGraph:
        """Return the edit's own edge, and the statements of o* up to ``options.hops``.

        The old edge and other statements of s are left out. Each node keeps at most ``options.per_node`` statements,
        the same on every machine (`wikidata_cache.subgraphs.sampling`).

        Raises:
            MissingObjectError: o* is not in the graph.
            GraphError: several nodes have the label of o*, or that of s.
        """
        target = self._find(edit.target_new_id, edit.target_new)
        if target is None:
            raise MissingObjectError(
                f"the graph has no node {edit.target_new!r}; add it, or give its key as target_new_id"
            )
        subject = self._find(edit.subject_id, edit.subject) or _SUBJECT
        made = nx.MultiDiGraph(**self.provenance())
        made.add_node(subject, label=edit.subject, role="subject", hop=0)
        made.add_node(target, label=self._labels[target], role="target_new", hop=1)
        made.add_edge(subject, target, key="edit", label=edit.relation_text, role="edit")
        frontier = [target]
        for hop in range(2, options.hops + 1):
            reached: list[str] = []
            for node in frontier:
                offered = (statement for statement in self._statements(node) if statement.object != subject)
                for _, relation, end in bottom_m(offered, options.per_node, seed=options.seed):
                    if end not in made:
                        made.add_node(end, label=self._labels[end], role="neighbour", hop=hop)
                        reached.append(end)
                    made.add_edge(node, end, key=relation, label=relation, role="statement")
            frontier = reached
        return made

    def labels(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the labels of those ``ids`` that are keys of nodes, for the rows of an edit file that have ids."""
        return {key: self._labels[key] for key in ids if key in self._labels}

    def provenance(self) -> dict[str, Any]:
        """Return a hash of all nodes, labels and edges, and the files with their SHA-256."""
        files = [{"name": name, "sha256": sha256} for name, sha256 in sorted(self.files.items())]
        return {"kind": "private graph", "content_hash": self._hash, **({"files": files} if files else {})}

    @cached_property
    def _hash(self) -> str:
        edges = sorted(statement for key in self._labels for statement in self._statements(key))
        content = json.dumps([sorted(self._labels.items()), edges])
        return hashlib.sha256(content.encode()).hexdigest()

    @cached_property
    def _named(self) -> dict[str, list[str]]:
        """The nodes with each label."""
        found: dict[str, list[str]] = {}
        for key, name in self._labels.items():
            found.setdefault(name, []).append(key)
        return found

    @cached_property
    def _nodes(self) -> dict[str, Hashable]:
        """The graph's nodes by their keys as text."""
        return {str(node): node for node in self.graph}

    @cached_property
    def _labels(self) -> dict[str, str]:
        nodes = self.graph.nodes
        return {
            key: str(nodes[node].get("label") or nodes[node].get("name") or node) for key, node in self._nodes.items()
        }

    def _find(self, key: str | None, label: str) -> str | None:
        if key in self._labels:
            return key
        named = self._named.get(label, [])
        if len(named) > 1:
            raise GraphError(
                f"several nodes have the label {label!r}: {', '.join(sorted(named)[:5])}; give the id of one node"
            )
        return named[0] if named else None

    def _statements(self, key: str) -> Iterator[Statement]:
        for _, target, data in self.graph.out_edges(self._nodes[key], data=True):
            relation = _relation_of(data)
            assert relation is not None  # noqa: S101 - checked when the object was made
            yield Statement(key, relation, str(target))


def _relation_of(data: Mapping[str, Any]) -> str | None:
    texts = (data.get(name) for name in _RELATION)
    return next((text for text in texts if isinstance(text, str) and text.strip()), None)


def has_names(path: Path) -> bool:
    """Return whether a file has statements of names, and not of Wikidata's ids; the first row of a TSV decides.

    Raises:
        GraphFileError: the file can't be read.
    """
    if (kind := _kind(path)) != ".tsv" or not path.is_file():
        return kind in (".csv", ".graphml")
    with open_graph_file(path) as reader:
        for raw in reader:
            cells = [cell.strip() for cell in raw.decode("utf-8-sig", errors="replace").split("\t")]
            if any(cells) and not _header(cells):
                wikidata = len(cells) > 1 and is_entity(cells[0]) and (is_property(cells[1]) or cells[1] == "label")
                log.info("%s: its statements have %s", path, "Wikidata's ids" if wikidata else "names")
                return not wikidata
    return False


def read_facts(paths: Sequence[Path]) -> PrivateGraph:
    """Read files of statements between names into one graph; a repeated row is skipped.

    Args:
        paths: CSV and TSV files (also with the ending ``.gz``) with the cells head, relation and tail, in this order or
            as a header names them; or one GraphML file of a directed graph.

    Returns:
        The graph; its provenance has the SHA-256 of each file.

    Raises:
        GraphError: a row is no statement (the message names file, line and field), or there are too many.
        GraphFileError: a file can't be read.
    """
    graph, files, count = nx.MultiDiGraph(), dict[str, str](), 0
    for path in paths:
        if _kind(path) == ".graphml":
            if len(paths) > 1:
                raise GraphError(f"{path}: a GraphML file has keys of its own, so it can't be combined; give it alone")
            return _graphml(path)
        before, skipped = count, 0
        with open_graph_file(path) as reader:
            for head, relation, tail in _table(reader, path):
                if graph.has_edge(head, tail, relation):
                    skipped += 1
                    continue
                graph.add_edge(head, tail, key=relation, label=relation)
                if (count := count + 1) > _MOST:
                    raise GraphError(f"{path}: there are more than {_MOST:,} statements; give a part of them")
            files[path.name] = reader.sha256()
        if count + skipped == before:
            raise GraphError(f"{path}: has no statement; {_FORM}")
        log.info("%s: read %d statements, %d skipped (repeated rows)", path, count - before, skipped)
    return PrivateGraph(graph, files)


def _kind(path: Path) -> str:
    """The ending of a file's name in lower case, without .gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _table(reader: CountingReader, path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (head, relation, tail) of the rows of a CSV or TSV file; blank lines and the header are left out."""
    lines = _decoded(reader, path)
    start = list[str]()  # up to the first line that is not blank; the line numbers count from here
    for line in lines:
        start.append(line)
        if line.strip():
            break
    # Without a header, the separator is the one that makes three cells of the first line.
    usual = _SEPARATORS[_kind(path)]
    wide = (
        one for one in (usual, ",", ";", "\t") if start and len(next(csv.reader([start[-1]], delimiter=one), [])) > 2
    )
    rows = table_rows(chain(start, lines), next(wide, usual))

    columns, width = None, len(_COLUMNS)
    for number, (first, cells) in enumerate(rows):
        where = f"{path}, line {first}"
        if isinstance(cells, RowFault):
            raise GraphError(f"{where}: {cells.message}")
        if number == 0 and (columns := _header(cells)):
            width = len(cells)
            continue
        if len(cells) != width:
            raise GraphError(
                f"{where}: found {len(cells)} cells; {_FORM}; put a cell with a separator into double quotes"
            )
        statement = {name: cells[(columns or range(3))[place]] for place, name in enumerate(_COLUMNS)}
        if empty := next((name for name, text in statement.items() if not text), None):
            raise GraphError(f"{where}, field {empty}: is empty; {_FORM}; give it, or remove the line")
        yield statement["head"], statement["relation"], statement["tail"]


def _header(cells: Sequence[str]) -> list[int] | None:
    """The places of head, relation and tail if ``cells`` are a header, else None."""
    names = [cell.strip().casefold() for cell in cells]
    places = [next((place for place, name in enumerate(names) if name in known), -1) for known in _COLUMNS.values()]
    return places if min(places) >= 0 else None


def _decoded(reader: CountingReader, path: Path) -> Iterator[str]:
    for number, raw in enumerate(reader, start=1):
        try:
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise GraphError(f"{path}, line {number}: is not UTF-8 ({error.reason}); save the file as UTF-8") from None


def _graphml(path: Path) -> PrivateGraph:
    if path.exists() and path.stat().st_size > _LARGEST:
        raise GraphError(f"{path}: has more than {_LARGEST / 1e6:g} MB; write the statements as CSV")
    with open_graph_file(path) as reader:
        try:
            graph = nx.read_graphml(reader, force_multigraph=True)
        except (ParseError, nx.NetworkXException, ValueError, KeyError, AttributeError) as error:
            raise GraphError(
                f"{path}: is not GraphML ({error}); write it again, or give the statements as CSV"
            ) from None
        sha256 = reader.sha256()
    try:
        made = PrivateGraph(graph, {path.name: sha256})
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from None
    log.info("%s: read %d statements, 0 skipped", path, graph.number_of_edges())
    return made
