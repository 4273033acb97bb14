"""Before and after as a table: for the terminal, and as Markdown."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from kg_edit.jobs.before_after import Reading, Row
from kg_edit.patches.base import Patch

_TITLES = {"rewrite": "rewrite", "paraphrase": "paraphrase", "follows": "what follows", "neighbour": "neighbour"}
_HEADER = ("", "prompt", "should say", "before", "after", "nats/token")
_SHORT_HEADER = ("", "prompt", "wanted", "before", "after", "nats")
_COLOURS = {"✓": "green", "~": "yellow", "✗": "red"}
_NOTE = (
    "✓: the text begins with what should be said, which is also more likely than the other target; for what follows, "
    "the answer is in the text. ~: it is more likely than the other target, but not said. ✗: anything else. "
    "Nats a token of what should be said, before → after: less is better."
)


# Line and paragraph separators, and control characters, line breaks among them.
_HARMLESS = {"Zl": " ", "Zp": " ", "Cc": " "}
_OVERRIDES = re.compile("[\u202a-\u202e\u2066-\u2069]")


def terminal_table(rows: Sequence[Row]) -> Table:
    """A rich table, a section an edit."""
    table = Table(title="before → after", caption=_NOTE, caption_justify="left", expand=True, box=SIMPLE_HEAD)
    for name, share in zip(_SHORT_HEADER, (None, 6, 4, 5, 5, None), strict=True):
        table.add_column(name, ratio=share, no_wrap=share is None, overflow="fold")
    for index, row in enumerate(rows):
        last = index + 1 == len(rows) or rows[index + 1].edit != row.edit
        cells = [Text(row.probe.kind), *map(Text, _cells(row)[1:])]
        cells[4].stylize(_COLOURS[_sign(row.after)])
        table.add_row(*cells, end_section=last)
    return table


def markdown(rows: Sequence[Row], patch: Patch) -> str:
    """The same as Markdown, under a line that says what was done."""
    methods = ", ".join(sorted({str(edit["method"]) for edit in patch.provenance["edits"]}))
    ranks = patch.summary
    count = len(patch.provenance["edits"])
    title = f"{count} edit{'s' if count > 1 else ''} of {patch.provenance['model']['name']} by {methods}"
    lines = [f"# {_escaped(one_line(title))}", "", _escaped(ranks), ""]
    lines += ["| " + " | ".join(_HEADER) + " |", "|---" * len(_HEADER) + "|"]
    lines += ["| " + " | ".join(_escaped(cell) for cell in _cells(row)) + " |" for row in rows]
    return "\n".join([*lines, "", _escaped(_NOTE), ""])


def _cells(row: Row) -> tuple[str, ...]:
    probe = row.probe
    nats = f"{row.before.nats:.1f} → {row.after.nats:.1f}"
    cells = (_TITLES[probe.kind], probe.prompt, probe.wanted, _mark(row.before), _mark(row.after), nats)
    return tuple(one_line(cell).strip() for cell in cells)


def _mark(reading: Reading) -> str:
    return f"{_sign(reading)} {reading.text}"


def _sign(reading: Reading) -> str:
    """``~``, likelier but not said, is for statements with another target only: elsewhere right is said."""
    if not reading.right:
        return "✗"
    return "✓" if reading.said else "~"


def one_line(text: str) -> str:
    """``text`` without what would move a terminal's cursor, break a line, or turn the text around it.

    Scripts that run from right to left stay as they are, joiners too; only control characters go.
    """
    return "".join(_HARMLESS.get(unicodedata.category(letter), letter) for letter in _OVERRIDES.sub("", text))


def _escaped(cell: str) -> str:
    """The same letters as Markdown, whatever they are: a backslash before all that could mean something there."""
    return re.sub(r"([\\`*_\[\]<>|~$&#])", r"\\\1", cell)
