"""Print for a terminal: labels, names and errors come from elsewhere, and must not control the terminal."""

from __future__ import annotations

import json
import logging
import re
import sys
from typing import TYPE_CHECKING, Any

import typer

from kg_common.terminal import harmless, one_line

if TYPE_CHECKING:
    from rich.console import Console

# DEL and C1, line and paragraph separators, direction overrides, lone surrogates. `json` escapes the other controls.
_IN_JSON = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_UNLIMITED = 1_000_000  # columns of piped output: a table is as wide as its content


def echo(text: str, *, err: bool = False) -> None:
    """Print a line, or several, of harmless text."""
    typer.echo(harmless(text), err=err)


def echo_row(*cells: str) -> None:
    """Print a line of cells with tabs between them."""
    typer.echo("\t".join(map(one_line, cells)))


def echo_json(value: Any) -> None:
    """Print a value as JSON; what would control a terminal is escaped, so that the value stays the same."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    typer.echo(_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def table_console() -> Console:
    """Return a rich console for tables. In piped output, each row and each text is one whole line, for `grep`.

    On a terminal, tables fold at its width. The terminal, not rich, wraps texts (`soft_wrap`), so that a text that is
    copied from it has no line ends of ours.
    """
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    if console.is_terminal:
        return console
    return Console(width=_UNLIMITED, highlight=False)


class HarmlessFormatter(logging.Formatter):
    """Formats the log of the library, which contains labels too."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as harmless text."""
        return harmless(super().format(record))


def set_up_console() -> None:
    """Send the log to stderr as harmless text; what a terminal's encoding lacks becomes a question mark."""
    handler = logging.StreamHandler()
    handler.setFormatter(HarmlessFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
