"""Relations as nouns: "capital" for P36, so that one can speak of the capital of a thing."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files


def relation_nouns() -> Mapping[str, str]:
    """The noun of a property, in the order of the packaged table: what people ask first."""
    text = files("kg_edit").joinpath("data", "ripple_nouns.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]
    return dict(rows[1:])
