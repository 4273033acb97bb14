"""Which names a text has: the index finds what a plain scan of all names finds."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from kg_edit.methods.graph_memory.entities import NameIndex
from kg_edit.text.matching import normalised

NAMES = {
    "New York": "city",
    "New York Times": "paper",
    "Rio": "river",
    "it": "Italian",
    "IT": "industry",
    "Rome": "Rome",
}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Who owns the New York Times?", ["paper"]),
        ("Is Rome's mayor in New York?", ["Rome", "city"]),
        ("Romelu and it are in new yorkshire", []),
        ("Where is Rio?", ["river"]),
        ("Who works in IT?", ["industry"]),
        ("", []),
    ],
)
def test_longest_names_are_found(text: str, expected: list[str]) -> None:
    index = NameIndex((thing, [name]) for name, thing in NAMES.items())
    assert [named.thing for named in index.find(text)] == expected


def scan(names: Mapping[str, int], text: str) -> list[int]:
    """The things whose names are in a text, compared with it one by one."""
    words = normalised(text)
    found = []
    for name, thing in names.items():
        name_words = normalised(name)
        starts = range(len(words) - len(name_words) + 1)
        if any(words[start : start + len(name_words)] == name_words for start in starts):
            found.append(thing)
    return found


def test_index_finds_what_a_scan_finds() -> None:
    names = {f"Place {number} of Town{number % 7}": number for number in range(200)}
    index = NameIndex((thing, [name]) for name, thing in names.items())
    for number in (0, 3, 199):
        text = f"Who lives at Place {number} of Town{number % 7} today?"
        assert [named.thing for named in index.find(text)] == scan(names, text) == [number]


def test_first_thing_keeps_a_shared_name() -> None:
    index = NameIndex([("edited", ["Paris"]), ("other", ["Paris", "City of Light"])])
    assert [named.thing for named in index.find("Paris, the City of Light")] == ["edited", "other"]


def test_name_at_the_end_of_a_text_has_its_own_words() -> None:
    """A longer name that begins with the same word does not reach beyond the end."""
    index = NameIndex([("state", ["Georgia Old State"]), ("country", ["Georgia"])])
    (named,) = index.find("What is in Georgia")
    assert (named.thing, named.positions) == ("country", (3,))
