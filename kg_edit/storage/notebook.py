"""How an object looks as the last line of a notebook's cell: `html_table`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_SHOWN = 50  # rows of a table


def html_table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return an HTML table under a title; all texts are escaped, and only the first 50 rows are shown."""
    found = list(rows)
    lines = [[f"<td>{escape(str(cell))}</td>" for cell in row] for row in found[:_SHOWN]]
    if len(found) > _SHOWN:
        lines.append([f'<td colspan="{len(header)}">… and {len(found) - _SHOWN} more</td>'])
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in lines)
    return f"<p>{escape(title)}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
