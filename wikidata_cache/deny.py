"""Statements that say nothing about the world: deny-lists that ship as readable data files."""

from importlib.resources import files


def meta_properties() -> frozenset[str]:
    """Properties that serve Wikimedia's housekeeping, such as "topic's main category" (P910)."""
    return _ids("meta_properties.tsv")


def internal_classes() -> frozenset[str]:
    """Classes of Wikimedia-internal items, such as "Wikimedia category" (Q4167836)."""
    return _ids("internal_classes.tsv")


def _ids(name: str) -> frozenset[str]:
    """First column of a packaged table; the first row is the header, the second column the label."""
    table = files("wikidata_cache").joinpath("data", name).read_text(encoding="utf-8")
    return frozenset(line.split("\t")[0] for line in table.splitlines()[1:] if line)
