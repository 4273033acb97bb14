"""How an object looks as the last line of a notebook's cell: `html_table`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_SHOWN = 50  # rows of a table


def html_table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return an HTML table under a title: texts escaped, numbers with three digits, None empty, at most 50 rows."""
    all_rows = list(rows)
    body = ""
    for row in all_rows[:_SHOWN]:
        cells = "".join(f"<td>{escape(_text(cell))}</td>" for cell in row)
        body += f"<tr>{cells}</tr>"
    if len(all_rows) > _SHOWN:
        body += f'<tr><td colspan="{len(header)}">… and {len(all_rows) - _SHOWN} more</td></tr>'
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    return f"<p>{escape(title)}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _text(cell: object) -> str:
    """Return the text of a cell."""
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:.3g}"
    return str(cell)
