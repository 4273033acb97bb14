"""Before and after as a table: for the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from kg_edit.before_after import Reading, Row
from kg_edit.patch import Patch

_TITLES = {"rewrite": "rewrite", "paraphrase": "paraphrase", "follows": "what follows", "neighbour": "neighbour"}
_HEADER = ("", "prompt", "should say", "before", "after", "nats/token")
_NOTE = (
    "✓: what should be said is more likely than the other target; for what follows, the answer is in the text. "
    "Nats a token of what should be said, before → after: less is better."
)


def terminal_table(rows: Sequence[Row]) -> Table:
    """A rich table, a section an edit."""
    table = Table(title="before → after", caption=_NOTE, caption_justify="left", expand=True)
    for name, share in zip(_HEADER, (2, 6, 3, 5, 5, 2), strict=True):
        table.add_column(name, ratio=share, overflow="fold")
    for index, row in enumerate(rows):
        last = index + 1 == len(rows) or rows[index + 1].edit != row.edit
        cells = [Text(cell) for cell in _cells(row)]
        cells[4].stylize("green" if row.after.right else "red")
        table.add_row(*cells, end_section=last)
    return table


def markdown(rows: Sequence[Row], patch: Patch) -> str:
    """The same as Markdown, under a line that says what was done."""
    methods = ", ".join(sorted({str(edit["method"]) for edit in patch.provenance["edits"]}))
    ranks = ", ".join(f"{name}: rank {pair.rank}" for name, pair in patch.factors.items())
    lines = [
        f"# {len(patch.provenance['edits'])} edits of {patch.provenance['model']['name']} by {methods}",
        "",
        ranks,
        "",
    ]
    lines += ["| " + " | ".join(_HEADER) + " |", "|---" * len(_HEADER) + "|"]
    lines += ["| " + " | ".join(_escaped(cell) for cell in _cells(row)) + " |" for row in rows]
    return "\n".join([*lines, "", _NOTE, ""])


def _cells(row: Row) -> tuple[str, ...]:
    probe = row.probe
    nats = f"{row.before.nats:.1f} → {row.after.nats:.1f}"
    return (_TITLES[probe.kind], probe.prompt, probe.wanted, _mark(row.before), _mark(row.after), nats)


def _mark(reading: Reading) -> str:
    return f"{'✓' if reading.right else '✗'} {reading.text}"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
