"""Text for a terminal: from elsewhere (labels, prompts, file names, errors) it is made harmless.

Control characters, direction overrides and lone surrogates become spaces; right-to-left scripts and joiners stay.
"""

import re

# C0, DEL and C1 but for line ends and tabs; line and paragraph separators, direction overrides, lone surrogates.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def harmless(text: str) -> str:
    """Return the text with a space for every character that would control a terminal; line ends and tabs stay."""
    return _CONTROLS.sub(" ", text)


def one_line(text: str) -> str:
    """Return the text on one line, with a space for every control character."""
    return harmless(text).replace("\n", " ").replace("\t", " ")


def number_of(number: int, noun: str) -> str:
    """Return a number with its noun: "1 edit", "2 edits"."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun}s"


def plain(text: str) -> str:
    """Return the text on one line for a rich console or table, where nothing in it is markup."""
    from rich.markup import escape

    return escape(one_line(text))
