"""The list of all methods, one line each, from the packaged table ``data/methods.tsv``; no method is imported.

`kg-edit methods --table` writes the table from the classes, and a test compares both. A method that is not in the
table, such as that of a plug-in, is imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import TYPE_CHECKING

from kg_edit.methods.registry import find_method, is_packaged, method_names

if TYPE_CHECKING:
    from kg_edit.methods.base import EditingMethod

HEADER = ("method", "family", "kind", "batch", "sequence", "undo", "graph", "what it does", "paper")
_TABLE = ("data", "methods.tsv")
_GRAPH = HEADER.index("graph")


def listing() -> Iterator[tuple[str, ...]]:
    """Yield a row for each method, with the columns of `HEADER`."""
    known = _packaged()
    for name in method_names():
        yield known.get(name) or row_of(find_method(name))


def reads_a_graph(name: str) -> bool:
    """Whether the method ``name`` needs a knowledge graph.

    Raises:
        UnknownNameError: there is no such method; the message suggests a similar name.
    """
    row = _packaged().get(name) or row_of(find_method(name))
    return row[_GRAPH] == "yes"


def row_of(found: type[EditingMethod]) -> tuple[str, ...]:
    """The row of a method, from its class."""
    batch, undo = "together" if found.joint else "in turn", "exact" if found.separable else "recomputed"
    graph = "yes" if found.needs_graph else "no"
    return (found.name, found.family or "its own", found.kind, batch, "yes", undo, graph, found.about, found.paper)


def table_text() -> str:
    """The text that ``data/methods.tsv`` should have: the rows of the packaged methods, from their classes."""
    rows = [row_of(find_method(name)) for name in method_names() if is_packaged(name)]
    return "".join("\t".join(row) + "\n" for row in (HEADER, *rows))


def _packaged() -> dict[str, tuple[str, ...]]:
    """The rows of the table by the methods' names, without methods that this version does not have."""
    _, *lines = files("kg_edit").joinpath(*_TABLE).read_text(encoding="utf-8").splitlines()
    rows = (tuple(line.split("\t")) for line in lines)
    return {row[0]: row for row in rows if len(row) == len(HEADER) and is_packaged(row[0])}
