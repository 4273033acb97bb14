"""Read files of facts between names (head, relation, tail) into a networkx graph, for `kg_edit.graphs.source`.

`read_facts` reads CSV and TSV in PyKEEN's form, with or without a header, and GraphML. `has_names` tells such files
from those of Wikidata's ids.
"""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from xml.etree.ElementTree import ParseError

import networkx as nx

from kg_common.ids import is_entity, is_property
from kg_common.rows import SUBJECT_COLUMNS, RowFault, table_rows
from kg_common.terminal import number_of
from kg_edit.errors import GraphError
from wikidata_cache.sources.graph_files import CountingReader, open_graph_file

_COLUMNS = {  # names that a header may have
    "head": SUBJECT_COLUMNS,
    "relation": {"relation", "predicate", "property", "label", "type", "edge", "r", "p"},
    "tail": {"tail", "object", "target", "to", "node2", "t", "o"},
}
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_FORM = "expected head, relation and tail, such as Ingrid Solberg,works at,Bergen office"
_HEADER = "if it is a header, name its columns head, relation and tail"
_MOST = 5_000_000  # statements of all files; one takes about 1 kB of memory
_LARGEST = 500_000_000  # bytes of a GraphML file, which is parsed at once

log = logging.getLogger(__name__)


def has_names(path: Path) -> bool:
    """Return whether a file has statements of names, and not of Wikidata's ids; the first row of a TSV decides."""
    kind = _kind(path)
    if kind in (".csv", ".graphml"):
        return True
    if kind != ".tsv" or not os.path.isfile(path):  # noqa: PTH113 - unlike Path's, it never raises
        return False
    with open_graph_file(path) as reader:
        for raw in reader:
            line = raw.decode("utf-8-sig", errors="replace")
            cells = [cell.strip() for cell in line.split("\t")]
            if not any(cells) or _find_columns(cells):  # a blank line, or a header
                continue
            if _has_ids(cells):
                log.info("%s: its statements have Wikidata's ids", path)
                return False
            log.info("%s: its statements have names", path)
            return True
    return False


def _has_ids(cells: Sequence[str]) -> bool:
    """Return whether a row is `Q42 P31 Q5` or `Q42 label Douglas Adams`, whatever its last cell has."""
    if len(cells) < 2 or not is_entity(cells[0]):
        return False
    return is_property(cells[1]) or cells[1] == "label"


def read_facts(paths: Sequence[Path]) -> tuple[nx.MultiDiGraph, dict[str, str]]:
    """Read files of statements between names into one graph; a repeated row is skipped.

    Args:
        paths: CSV and TSV files (also with the ending ``.gz``) with the cells head, relation and tail, in this order or
            as a header names them; or one GraphML file of a directed graph.

    Returns:
        The graph, and the SHA-256 of each file by its name.
    """
    graph = nx.MultiDiGraph()
    files = dict[str, str]()
    for path in paths:
        if _kind(path) == ".graphml":
            if len(paths) > 1:
                raise GraphError(f"{path}: a GraphML file has keys of its own, so it can't be combined; give it alone")
            return _read_graphml(path)
        sha256 = _add_table(graph, path)
        name = path.name
        if name in files:  # of another folder
            name = str(path)
        files[name] = sha256
    return graph, files


def _add_table(graph: nx.MultiDiGraph, path: Path) -> str:
    """Add the statements of a CSV or TSV file to ``graph``, and return the file's SHA-256."""
    count = graph.number_of_edges()
    new = 0
    repeated = 0
    first: tuple[str, str, str] | None = None
    with open_graph_file(path) as reader:
        for head, relation, tail in _read_table(reader, path):
            if first is None:
                first = (head, relation, tail)
            if graph.has_edge(head, tail, relation):
                repeated += 1
                continue
            graph.add_edge(head, tail, key=relation, label=relation)
            new += 1
            if count + new > _MOST:
                raise GraphError(f"{path}: there are more than {_MOST:,} statements; give a part of them")
        sha256 = reader.sha256()
    if first is None:
        raise GraphError(f"{path}: has no statement; {_FORM}")
    log.info("%s: read %s, %d skipped (repeated rows)", path, number_of(new, "statement"), repeated)
    if new > 2 and _is_apart(graph, *first):
        log.warning("%s: its first row is read as the statement %s; %s", path, ", ".join(first), _HEADER)
    return sha256


def _is_apart(graph: nx.MultiDiGraph, head: str, relation: str, tail: str) -> bool:
    """Return whether no other statement has one of the three names, as with a header."""
    degrees = dict(graph.degree([head, tail]))
    uses = sum(key == relation for *_, key in graph.edges(keys=True))  # of the relation
    return bool(degrees[head] == degrees[tail] == uses == 1)


def _kind(path: Path) -> str:
    """Return the ending of a file's name in lower case, without .gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _read_table(reader: CountingReader, path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (head, relation, tail) of the rows of a CSV or TSV file; blank lines and the header are left out."""
    # The first line that is not blank shows the separator. It is taken from the iterator, and put in front again.
    lines = _decode(reader, path)
    start = _take_start(lines)
    first_line = start[-1] if start else ""
    separator = _find_separator(first_line, usual=_SEPARATORS[_kind(path)])
    rows = table_rows(chain(start, lines), separator)

    columns: Sequence[int] = (0, 1, 2)  # of head, relation and tail, unless a header has them in other places
    width = 3  # cells of a row
    is_first = True
    for line_number, cells in rows:
        where = f"{path}, line {line_number}"
        if isinstance(cells, RowFault):
            raise GraphError(f"{where}: {cells.message}")
        header_columns = _find_columns(cells) if is_first else None
        is_first = False
        if header_columns is not None:
            columns = header_columns
            width = len(cells)
            continue
        _check_cells(cells, width, where)
        head, relation, tail = [cells[column] for column in columns]
        for field, text in (("head", head), ("relation", relation), ("tail", tail)):
            if not text:
                raise GraphError(f"{where}, field {field}: is empty; {_FORM}; give it, or remove the line")
        yield head, relation, tail


def _take_start(lines: Iterator[str]) -> list[str]:
    """Take the blank lines at the start out of ``lines``, and the first one that is not blank."""
    start = list[str]()
    for line in lines:
        start.append(line)
        if line.strip():
            break
    return start


def _check_cells(cells: Sequence[str], width: int, where: str) -> None:
    """Refuse a row of Wikidata's ids, and one that does not have ``width`` cells; ``where`` begins the message."""
    if _has_ids(cells):
        raise GraphError(f"{where}: has ids of Wikidata; a graph of them is a .tsv file with tabs, or N-Triples")
    if len(cells) != width:
        raise GraphError(f"{where}: found {len(cells)} cells; {_FORM}; put a cell with a separator into double quotes")


def _find_separator(line: str, *, usual: str) -> str:
    """Return the first separator that makes at least three cells of a line; the usual one if none does."""
    for separator in (usual, ",", ";", "\t"):
        try:
            rows = list(csv.reader([line.replace("\r", " ")], delimiter=separator))
        except csv.Error:  # a cell that is too long: its line is named when it is read
            continue
        if rows and len(rows[0]) > 2:
            return separator
    return usual


def _find_columns(cells: Sequence[str]) -> list[int] | None:
    """Return the columns of head, relation and tail if ``cells`` are a header, else None."""
    names = [cell.strip().casefold() for cell in cells]
    columns = list[int]()
    for accepted in _COLUMNS.values():
        found = [index for index, name in enumerate(names) if name in accepted]
        if not found:
            return None
        columns.append(found[0])
    return columns


def _decode(reader: CountingReader, path: Path) -> Iterator[str]:
    """Yield the lines of a file as text."""
    encoding = "utf-8-sig"  # the first line may begin with a byte order mark
    for number, raw in enumerate(reader, start=1):
        try:
            yield raw.decode(encoding)
            encoding = "utf-8"
        except UnicodeDecodeError as error:
            raise GraphError(f"{path}, line {number}: is not UTF-8 ({error.reason}); save the file as UTF-8") from None


def _read_graphml(path: Path) -> tuple[nx.MultiDiGraph, dict[str, str]]:
    """Return the graph of a GraphML file, and the SHA-256 of the file by its name."""
    with open_graph_file(path) as reader:
        content = reader.read(_LARGEST + 1)  # unzipped
        if len(content) > _LARGEST:
            raise GraphError(f"{path}: has more than {_LARGEST / 1e6:g} MB; write the statements as CSV")
        try:
            # networkx reads a file without the name space a second time, from its start
            graph = nx.read_graphml(io.BytesIO(content), force_multigraph=True)
        except (ParseError, nx.NetworkXException, ValueError, KeyError, AttributeError) as error:
            raise GraphError(
                f"{path}: is not GraphML ({error}); write it again, or give the statements as CSV"
            ) from None
        sha256 = reader.sha256()
    log.info("%s: read %s, 0 skipped", path, number_of(graph.number_of_edges(), "statement"))
    return graph, {path.name: sha256}
