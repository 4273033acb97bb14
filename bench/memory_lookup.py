"""How long `graph-memory` takes to find the names in a question, by the number of edits: scan against index.

Names and questions are made up. One run; a line for each number of edits, and one JSON line at the end.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median

from kg_edit.methods.graph_memory.entities import NameIndex
from kg_edit.text.matching import normalised

NUMBERS = (100, 1_000, 10_000, 100_000)
QUESTIONS = 200
_SYLLABLES = ("ba", "do", "ka", "li", "mo", "ne", "ro", "sa", "ti", "vu")


def scan(names: Mapping[str, int], text: str) -> list[int]:
    """Return the things that a text names by comparing it with every name, the plain way."""
    words = normalised(text)
    found = []
    for name, thing in names.items():
        name_words = normalised(name)
        starts = range(len(words) - len(name_words) + 1)
        if any(words[start : start + len(name_words)] == name_words for start in starts):
            found.append(thing)
    return found


def main() -> None:
    """Measure both for each number of names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    draw = random.Random(0)  # noqa: S311 - made-up names
    result: dict[str, dict[str, float]] = {}
    for number in NUMBERS:
        names = {_name(draw): index for index in range(number)}
        asked = [f"What is the capital of the country of {name}?" for name in draw.choices([*names], k=QUESTIONS)]
        index = NameIndex((thing, [name]) for name, thing in names.items())
        row = {"index, ms": 1000 * _seconds(index.find, asked)}
        if number <= NUMBERS[2]:
            row["scan, ms"] = 1000 * _seconds(partial(scan, names), asked[:5])
        print(number, {key: round(value, 3) for key, value in row.items()}, flush=True)
        result[str(number)] = row
    print(json.dumps(result))


def _seconds(find: Callable[[str], object], questions: list[str]) -> float:
    """The median time of a look-up."""
    times = []
    for question in questions:
        start = time.perf_counter()
        find(question)
        times.append(time.perf_counter() - start)
    return median(times)


def _name(draw: random.Random) -> str:
    words = ["".join(draw.choices(_SYLLABLES, k=3)).title() for _ in range(2)]
    return " ".join(words)


if __name__ == "__main__":
    main()
