"""Relations as nouns: "capital" for P36, so that one can speak of the capital of a thing."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files


def relation_nouns() -> Mapping[str, str]:
    """The noun of a property, in the order of the packaged table: what people ask first."""
    return _table("ripple_nouns.tsv")


def asked_nouns(relation: str | None) -> tuple[str, ...]:
    """What the objects of a relation r have, as nouns: those of r' that are most frequent in a graph come first.

    Empty for a relation that the packaged table (bench/tools/asked_relations.py) does not have.
    """
    nouns, asked = relation_nouns(), _table("asked_relations.tsv").get(relation or "", "").split()
    return tuple(dict.fromkeys(nouns[one] for one in asked if one in nouns))


def _table(name: str) -> Mapping[str, str]:
    text = files("kg_edit").joinpath("data", name).read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]
    return dict(rows[1:])
