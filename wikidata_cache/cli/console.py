"""Print for a terminal: labels, names and errors come from elsewhere, and must not control the terminal.

Control characters, direction overrides and lone surrogates become spaces; right-to-left scripts stay as they are.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import unicodedata
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

# C0, DEL and C1 but for line ends and tabs; line and paragraph separators, direction overrides, lone surrogates.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_IN_JSON = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")  # the others are escaped already


def harmless(text: str) -> str:
    """Return the text with a space for every character that would control a terminal; line ends and tabs stay."""
    return _CONTROLS.sub(" ", text)


def one_line(text: str) -> str:
    """Return the text on one line, with a space for every control character."""
    return "".join(" " if unicodedata.category(letter) == "Cc" else letter for letter in harmless(text))


def cell(text: str) -> str:
    """Return a text for a rich table or console: on one line, and nothing in it is markup."""
    from rich.markup import escape

    return escape(one_line(text))


def echo(text: str, *, err: bool = False) -> None:
    """Print a line, or several, of harmless text."""
    typer.echo(harmless(text), err=err)


def echo_row(*cells: str) -> None:
    """Print a line of cells with tabs between them."""
    typer.echo("\t".join(map(one_line, cells)))


def echo_json(value: Any) -> None:
    """Print a value as JSON; what would control a terminal is escaped, so that the value stays the same."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    typer.echo(_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def table_console() -> Console:
    """Return a rich console for tables. Piped output has whole lines instead of folding at 80 columns."""
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    return console if console.is_terminal else Console(width=160, highlight=False)


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
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")
