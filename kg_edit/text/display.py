"""Text for a terminal or for Markdown: text from elsewhere made safe to show, and tables.

- `one_line`, `plain`, `escaped_markdown`: prompts, answers and file names without control characters, without rich's
  markup, or without anything that means something in Markdown.
- `markdown_table`, `terminal_table`: the same cells as GitHub-flavoured Markdown and for rich. Cells are taken as they
  are: the caller escapes them, ``|`` above all in Markdown.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

# Line and paragraph separators, and control characters, line breaks among them.
_REPLACED = {"Zl": " ", "Zp": " ", "Cc": " "}
_OVERRIDES = re.compile("[\u202a-\u202e\u2066-\u2069]")


def one_line(text: str) -> str:
    """``text`` without what would move a terminal's cursor, break a line, or turn the text around it.

    Scripts that run from right to left stay as they are, joiners too; only control characters go.
    """
    return "".join(_REPLACED.get(unicodedata.category(letter), letter) for letter in _OVERRIDES.sub("", text))


def plain(text: str) -> str:
    """``text`` on one line for a rich console, with nothing in it taken for markup."""
    from rich.markup import escape

    return escape(one_line(text))


def escaped_markdown(text: str) -> str:
    """The same letters as Markdown: a backslash before every character that could mean something there."""
    return re.sub(r"([\\`*_\[\]<>|~$&#])", r"\\\1", text)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers_from: int | None = None) -> str:
    """A Markdown table: header, ruler and rows, a line each, with no line break at the end.

    Columns from index ``numbers_from`` on are aligned to the right, those before it (all, where it is None) are left
    as the reader's style has them.

    Raises:
        ValueError: a row has another number of cells than the header.
    """
    first = len(header) if numbers_from is None else numbers_from
    ruler = ["---" if column < first else "---:" for column in range(len(header))]
    return "\n".join(map(markdown_row, [header, ruler, *_checked(header, rows)]))


def markdown_row(cells: Iterable[str]) -> str:
    """One line of a Markdown table: ``| a | b |``."""
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
    """The same table for a rich console; cells may have rich's markup. Without ``lines`` it is narrower.

    Raises:
        ValueError: a row has another number of cells than the header.
    """
    from rich.table import Table

    first = len(header) if numbers_from is None else numbers_from
    table = Table(caption=caption, caption_justify="left" if caption_left else "center")
    if not lines:
        table.box, table.pad_edge = None, False
    for column, title in enumerate(header):
        table.add_column(title, justify="left" if column < first else "right")
    for row in _checked(header, rows):
        table.add_row(*row)
    return table


def _checked(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[Sequence[str]]:
    found = list(rows)
    uneven = next((row for row in found if len(row) != len(header)), None)
    if uneven is not None:
        raise ValueError(f"a row has {len(uneven)} cells ({', '.join(uneven)}), the header {len(header)}")
    return found
