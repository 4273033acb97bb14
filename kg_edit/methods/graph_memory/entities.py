"""Which things a text names: an index of names by their first word.

A look-up goes through the words of the text. For each, the index has the lengths of the names that begin with it. So
the time depends on the text, and not on the number of names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from kg_edit.text.matching import is_abbreviation, normalised, stands_alone

Thing = TypeVar("Thing")
# Up to so many letters, the capitals of a name count: Pat is not a pat, and "it" (the code of Italian) names nothing.
_SHORT = 3


@dataclass(frozen=True)
class Named(Generic[Thing]):
    """A thing that a text names, and the positions of the name among the words of the text."""

    thing: Thing
    positions: tuple[int, ...]


class NameIndex(Generic[Thing]):
    """Finds the names of things in texts. If several things have one name, it names the first of them.

    Args:
        names: each thing with its names, the most important things first.
    """

    def __init__(self, names: Iterable[tuple[Thing, Iterable[str]]]) -> None:
        # By the words of the names: as they are where the capitals of a name count ("IT"), else in lower case.
        self._things: dict[tuple[str, ...], Thing] = {}
        self._lengths: dict[str, set[int]] = {}  # the numbers of words of the names that begin with a word
        for thing, names_of_thing in names:
            for name in names_of_thing:
                self._add(name, thing)

    def find(self, text: str) -> list[Named[Thing]]:
        """Return the things that a text names, in the order of their names; a name inside a longer one is left out."""
        folded = normalised(text)
        exact = normalised(text, fold=False)
        if len(exact) != len(folded):  # a letter that is several words in lower case: then no position would fit
            exact = folded
        found: list[Named[Thing]] = []
        start = 0
        while start < len(folded):
            length, thing = self._find_at(start, folded, exact)
            if thing is not None:
                found.append(Named(thing, tuple(range(start, start + length))))
            start += length
        return found

    def _add(self, name: str, thing: Thing) -> None:
        """Add a name of a thing, unless it has no words, or is as short as a code and in lower case."""
        letters = [character for character in name if character.isalpha()]
        is_short = len(letters) <= _SHORT
        is_case_sensitive = is_short or is_abbreviation(name)
        words = normalised(name, fold=not is_case_sensitive)
        if not words or (is_short and name.islower()):
            return
        self._things.setdefault(words, thing)
        self._lengths.setdefault(words[0], set()).add(len(words))

    def _find_at(self, start: int, folded: tuple[str, ...], exact: tuple[str, ...]) -> tuple[int, Thing | None]:
        """Return the length of the longest name that begins at a word, and its thing; (1, None) if none does.

        ``folded`` and ``exact`` are the words of the text in lower case, and as they are. Names of both kinds are in
        one dictionary, so the words of the text are looked up in both spellings.
        """
        lengths = self._lengths_at(folded[start]) | self._lengths_at(exact[start])
        words_left = len(folded) - start
        for length in sorted(lengths, reverse=True):
            if length > words_left:
                continue
            for words in (folded, exact):
                name = words[start : start + length]
                thing = self._things.get(name)
                # In Chinese and Japanese, it may be a part of a longer name (`stands_alone`).
                if thing is not None and stands_alone(start, words, name):
                    return length, thing
        return 1, None

    def _lengths_at(self, word: str) -> set[int]:
        """Return the numbers of words of the names that begin with a word."""
        return self._lengths.get(word, set())
