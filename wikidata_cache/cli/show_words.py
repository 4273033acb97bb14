"""What `wikidata-cache show` prints: the statements as a table, and what was left out of it."""

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from wikidata_cache.subgraphs.exports import edge_hop
from wikidata_cache.subgraphs.subgraph import Subgraph

_REASONS = {  # how to say what `graph.graph["dropped"]` counts; one name may stand for several reasons
    "unlabelled_item": "without a label",
    "unlabelled_property": "without a label",
    "meta_property": "housekeeping",
    "internal_item": "of Wikimedia's own pages",
    "not_sampled": "not sampled (--per-node)",
    "over_max_edges": "beyond --max-edges",
    "old_edge": "that tell the replaced fact",
    "edit_edge_again": "that the edit states already",
    "of_the_subject": "of the subject, which is no root",
    "answer": "that give an answer away",
}


def print_subgraph(graph: Subgraph, title: str) -> None:
    """The statements as a table with what was left out below; a line instead of a table without statements."""
    body = table(graph, title) if graph.number_of_edges() else f"{escape(title)}: no statement to show."
    lines = [escape(line) for line in [left_out(graph) or nothing_said(graph)] if line]
    _console().print(Group(body, *lines))


def left_out(graph: Subgraph) -> str:
    """How many statements were left out and why, most first, as one line; "" for none."""
    counts: dict[str, int] = {}
    for reason, count in graph.graph.get("dropped", {}).items():
        name = _REASONS.get(reason, reason)
        counts[name] = counts.get(name, 0) + count
    parts = [f"{count} {name}" for name, count in sorted(counts.items(), key=lambda each: (-each[1], each[0]))]
    return f"left out: {', '.join(parts)}" if parts else ""


def nothing_said(graph: Subgraph) -> str:
    """Why there may be nothing, where nothing was left out either; "" where there is something."""
    if graph.number_of_edges():
        return ""
    out = graph.graph.get("direction") != "both"
    return "The graph states nothing of it." + (" --direction both shows what the graph says with it." if out else "")


def table(graph: Subgraph, title: str) -> Table:
    """One row a statement."""
    made = Table(title=escape(title), title_justify="left")
    for column in ("hop", "subject", "property", "object", "ids"):
        made.add_column(column, no_wrap=column == "ids")
    for subject, target, key, data in graph.edges(keys=True, data=True):
        cells = (graph.nodes[subject]["label"], data["label"], graph.nodes[target]["label"])
        hop = str(edge_hop(graph, subject, target))
        made.add_row(hop, *map(escape, cells), f"{subject} {key} {target}")
    return made


def _console() -> Console:
    # Piped output keeps whole lines instead of folding at 80 columns.
    console = Console(soft_wrap=True, highlight=False)
    return console if console.is_terminal else Console(width=160, highlight=False)
