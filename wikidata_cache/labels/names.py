"""Names as they are compared: one form for all the ways in which people write the same name."""

import unicodedata

_INVISIBLE = ("Cf", "Cs")  # direction marks, joiners, half characters
_VARIATION = range(0xFE00, 0xFE10)  # selectors that only choose a glyph: text or emoji


def normalise(text: str) -> str:
    """The name in NFKD, casefolded, without combining marks or invisible characters, spaces collapsed.

    "São  Paulo" and "SAO PAULO" are the same name; "Зенит" and "東京" stay what they are.
    """
    if text.isascii() and text.isprintable():
        return " ".join(text.lower().split())
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return " ".join("".join(map(_kept, decomposed)).split())


def words(name: str) -> list[str]:
    """The parts of a normalised name that hold a letter or a digit."""
    return [word for word in name.split() if any(character.isalnum() for character in word)]


def _kept(character: str) -> str:
    if character.isascii() and character.isprintable():
        return character
    if unicodedata.combining(character) or ord(character) in _VARIATION:
        return ""
    kind = unicodedata.category(character)
    return "" if kind in _INVISIBLE else " " if kind == "Cc" else character
