"""All methods in a line each, without importing one: from the packaged table ``data/methods.tsv``.

The table is written by `kg-edit methods --table` from what the classes declare, and a test holds it against them. A
method that is not in it, such as a plug-in's, is imported and asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import TYPE_CHECKING

from kg_edit.methods.registry import find_method, is_packaged, method_names

if TYPE_CHECKING:
    from kg_edit.methods.base import EditingMethod

HEADER = ("method", "kind", "batch", "sequence", "undo", "graph", "what it does", "paper")
_TABLE = ("data", "methods.tsv")
_GRAPH = HEADER.index("graph")


def listing() -> Iterator[tuple[str, ...]]:
    """A row for each method, in the order of `HEADER`."""
    known = _packaged()
    for name in method_names():
        yield known.get(name) or row_of(find_method(name))


def reads_a_graph(name: str) -> bool:
    """Whether the method ``name`` needs a knowledge graph.

    Raises:
        UnknownNameError: there is no such method; suggests a near one.
    """
    row = _packaged().get(name) or row_of(find_method(name))
    return row[_GRAPH] == "yes"


def row_of(found: type[EditingMethod]) -> tuple[str, ...]:
    """A method's row, from its class."""
    batch, undo = "together" if found.joint else "in turn", "exact" if found.separable else "recomputed"
    graph = "yes" if found.needs_graph else "no"
    return (found.name, found.kind, batch, "yes", undo, graph, found.about, found.paper)


def table_text() -> str:
    """What ``data/methods.tsv`` should hold: the rows of the packaged methods, from their classes."""
    rows = [row_of(find_method(name)) for name in method_names() if is_packaged(name)]
    return "".join("\t".join(row) + "\n" for row in (HEADER, *rows))


def _packaged() -> dict[str, tuple[str, ...]]:
    """The rows of the table by the methods' names; one that another version left behind is no method of this one."""
    _, *lines = files("kg_edit").joinpath(*_TABLE).read_text(encoding="utf-8").splitlines()
    rows = (tuple(line.split("\t")) for line in lines)
    return {row[0]: row for row in rows if len(row) == len(HEADER) and is_packaged(row[0])}
