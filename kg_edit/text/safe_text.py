"""Text from elsewhere (prompts, answers, file names) made safe to show in a terminal or in Markdown."""

from __future__ import annotations

import re
import unicodedata

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
