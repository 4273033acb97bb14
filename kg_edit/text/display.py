"""Text for a terminal or for Markdown: make external text safe to show, and format tables.

- `one_line`, `plain`, `escaped_markdown`: prompts, answers and file names without control characters, without rich's
  markup, or with all Markdown characters escaped.
- `markdown_table`, `terminal_table`: the same cells as GitHub-flavoured Markdown and for rich. Cells are used
  unchanged: the caller escapes them, in Markdown above all ``|``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kg_common.terminal import one_line as one_line
from kg_common.terminal import plain as plain

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.measure import Measurement
    from rich.table import Table


def size_text(number: float) -> str:
    """Return a number of bytes in words, such as "1.25 GB"."""
    if number < 1e5:
        return f"{number / 1e3:.1f} kB"
    if number < 1e8:
        return f"{number / 1e6:.1f} MB"
    return f"{number / 1e9:.2f} GB"


def escaped_markdown(text: str) -> str:
    """Return ``text`` with a backslash before every character that has a meaning in Markdown."""
    return re.sub(r"([\\`*_\[\]<>|~$&#])", r"\\\1", text)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers_from: int | None = None) -> str:
    """Return a Markdown table: header, ruler and rows, one line each, without a line break at the end.

    Columns from index ``numbers_from`` on are right-aligned; the others (all, if it is None) have no alignment.
    """
    if numbers_from is None:
        numbers_from = len(header)
    ruler = ["---"] * numbers_from + ["---:"] * (len(header) - numbers_from)
    lines = [markdown_row(header), markdown_row(ruler)]
    for row in rows:
        _check_cells(header, row)
        lines.append(markdown_row(row))
    return "\n".join(lines)


def markdown_row(cells: Iterable[str]) -> str:
    """Return one line of a Markdown table: ``| a | b |``."""
    return f"| {' | '.join(cells)} |"


def terminal_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers_from: int | None = None,
    caption: str | None = None,
    caption_left: bool = False,
    lines: bool = True,
) -> Table:
    """Return the same table for a rich console. Cells may have rich's markup; without ``lines`` it is narrower.

    With ``numbers_from`` 1, the first cell of a row is taken as a name, without markup, and broken as `_Name` says.
    """
    from rich.table import Table

    table = Table(caption=caption)
    if caption_left:
        table.caption_justify = "left"
    if not lines:
        table.box = None
        table.pad_edge = False
    for column, title in enumerate(header):
        is_number = numbers_from is not None and column >= numbers_from
        side: Literal["left", "right"] = "right" if is_number else "left"
        # A long cell is broken, and not cut: names of metrics differ only at their ends.
        table.add_column(title, justify=side, overflow="fold")
    for row in rows:
        _check_cells(header, row)
        if numbers_from == 1:  # the first cell is a name, and all others are numbers
            name, *numbers = row
            table.add_row(_Name(name), *numbers)
        else:
            table.add_row(*row)
    return table


@dataclass(frozen=True)
class _Name:
    """A cell for rich with the name of a metric or run, which is broken after ``.``, ``_``, ``/``, ``-`` or a space."""

    text: str

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        from rich.measure import Measurement

        longest_piece = max(map(len, self._pieces()), default=0)
        return Measurement(longest_piece, len(self.text))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        lines = [""]
        for piece in self._pieces():
            width = len((lines[-1] + piece).rstrip())
            if lines[-1].strip() and width > options.max_width:
                lines.append("")
            lines[-1] += piece
        yield Text("\n".join(lines), overflow="fold")

    def _pieces(self) -> list[str]:
        """Return the parts between which the name may be broken, each with the separators behind it."""
        return re.findall(r"[^\s._/-]*[\s._/-]+|[^\s._/-]+", self.text)


def _check_cells(header: Sequence[str], row: Sequence[str]) -> None:
    """Check that a row has a cell for each column."""
    if len(row) != len(header):
        raise ValueError(f"a row has {len(row)} cells ({', '.join(row)}), the header {len(header)}")
