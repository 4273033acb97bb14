"""How an object looks as the last line of a notebook's cell: `html_table`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_SHOWN = 50  # rows of a table


def html_table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return an HTML table under a title: texts escaped, numbers with three digits, None empty, at most 50 rows."""
    all_rows = list(rows)
    lines = [[f"<td>{escape(_text(cell))}</td>" for cell in row] for row in all_rows[:_SHOWN]]
    if len(all_rows) > _SHOWN:
        lines.append([f'<td colspan="{len(header)}">… and {len(all_rows) - _SHOWN} more</td>'])
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in lines)
    return f"<p>{escape(title)}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _text(cell: object) -> str:
    if cell is None:
        return ""
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)
