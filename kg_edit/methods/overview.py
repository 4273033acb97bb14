"""All methods at a glance, from their classes: for the terminal and for docs/methods.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kg_edit.methods import find_method, method_names
from kg_edit.methods.base import EditingMethod
from kg_edit.text.tables import markdown_table

HEADER = ("method", "kind", "batch", "sequence", "undo", "graph", "what it does", "paper")

_HEAD = """<!-- Written by `kg-edit methods --markdown`; change the code, then write it anew. -->
# Methods

Every method takes edits and gives a patch. *kind*: what the patch changes, weights, a layer's output (adapter) or the
prompt; only weights can be merged into the model or exported. *batch*: whether the edits of one call are computed
together or in turn, each on the model as the earlier ones left it. *sequence*: whether a later call can build on an
earlier one's patch. *undo*: exact where one edit can be taken out of a patch of many by itself, else the ledger
computes the others anew ([patches.md](patches.md)). *graph*: whether a knowledge graph is needed.
"""


def overview() -> Iterator[tuple[str, ...]]:
    """A row for each method, in the order of `HEADER`."""
    for name in method_names():
        yield _row(find_method(name))


def _row(found: type[EditingMethod]) -> tuple[str, ...]:
    batch, undo = "together" if found.joint else "in turn", "exact" if found.separable else "recomputed"
    graph = "yes" if found.needs_graph else "no"
    return (found.name, found.kind, batch, "yes", undo, graph, found.about, found.paper)


def settings(found: type[EditingMethod]) -> Iterator[tuple[str, str, str]]:
    """(setting, default, meaning) of a method."""
    for field, info in found.config_class.model_fields.items():
        yield field, str(info.get_default(call_default_factory=True)), info.description or ""


def methods_page() -> str:
    """The Markdown page."""
    return "\n".join([_HEAD, _table(HEADER, overview()), "", *map(_section, method_names())])


def _section(name: str) -> str:
    found = find_method(name)
    rows = [(f"`{field}`", f"`{default}`", meaning) for field, default, meaning in settings(found)]
    table = _table(("setting", "default", "meaning"), rows)
    presets = ", ".join(f"`{preset}`" for preset in found.config_class.presets)
    said = " ".join((found.__doc__ or found.about).split())
    return "\n".join([f"## `{name}`\n", f"{said}\n", table, f"\nPresets: {presets}\n"])


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    escaped = ([cell.replace("|", "\\|").replace("*", "\\*") for cell in row] for row in rows)
    return markdown_table(header, escaped)
