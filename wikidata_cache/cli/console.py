"""What the commands print: labels, names and errors come from elsewhere, and must not steer the terminal.

Control characters, direction overrides and lone surrogates become spaces; right-to-left scripts stay as they are.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import unicodedata
from typing import Any

import typer

# C0, DEL and C1 but for line ends and tabs; line and paragraph separators, direction overrides, lone surrogates.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_IN_JSON = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")  # the others are escaped already


def harmless(text: str) -> str:
    """The text with a space for every character that would steer a terminal; line ends and tabs stay."""
    return _STEERING.sub(" ", text)


def one_line(text: str) -> str:
    """The text on one line, with a space for every control character."""
    return "".join(" " if unicodedata.category(letter) == "Cc" else letter for letter in harmless(text))


def cell(text: str) -> str:
    """A text for a rich table or console: on one line, and nothing in it is markup."""
    from rich.markup import escape

    return escape(one_line(text))


def say(text: str, *, err: bool = False) -> None:
    """Print a line, or several, of harmless text."""
    typer.echo(harmless(text), err=err)


def say_row(*cells: str) -> None:
    """Print a line of cells with tabs between them."""
    typer.echo("\t".join(map(one_line, cells)))


def say_json(value: Any) -> None:
    """Print a value as JSON; what would steer a terminal is escaped, so that the value stays the same."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    typer.echo(_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


class HarmlessFormatter(logging.Formatter):
    """Formats remarks of the library, which name labels too."""

    def format(self, record: logging.LogRecord) -> str:
        """The remark as harmless text."""
        return harmless(super().format(record))


def set_up_console() -> None:
    """Remarks go to stderr as harmless text; what a terminal's encoding lacks becomes a question mark."""
    handler = logging.StreamHandler()
    handler.setFormatter(HarmlessFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")
