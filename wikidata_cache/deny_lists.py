"""Deny-lists: properties and classes of Wikimedia housekeeping, whose statements stay out of subgraphs.

A list is a TSV file with a header row, ids in the first column and labels, for people, in the second. To change
one, copy `data/meta_properties.tsv` or `data/internal_classes.tsv`, and give its path to `WikidataCache`.
"""

from collections.abc import Callable, Collection
from importlib.resources import files
from pathlib import Path

from wikidata_cache.errors import DenyListError
from wikidata_cache.ids import is_item, is_property

DenyList = Collection[str] | Path  # ids, or the path of a TSV file (a str is a path too)


def meta_properties(given: DenyList | None = None) -> frozenset[str]:
    """Property ids of Wikimedia's housekeeping, such as "topic's main category" (P910); `given` replaces the list.

    Raises DenyListError where `given` cannot be read, or holds what is no property id.
    """
    return _deny_list(given, "meta_properties.tsv", is_property, "P910")


def internal_classes(given: DenyList | None = None) -> frozenset[str]:
    """Item ids of classes of Wikimedia-internal items, such as "Wikimedia category" (Q4167836); `given` replaces them.

    Raises DenyListError where `given` cannot be read, or holds what is no item id.
    """
    return _deny_list(given, "internal_classes.tsv", is_item, "Q4167836")


def _deny_list(given: DenyList | None, packaged: str, is_id: Callable[[str], bool], example: str) -> frozenset[str]:
    if given is None:
        return _first_column(files("wikidata_cache").joinpath("data", packaged).read_text(encoding="utf-8"))
    where = f"{given}" if isinstance(given, str | Path) else "the deny-list"
    found = _read(Path(given)) if isinstance(given, str | Path) else frozenset(given)
    if wrong := sorted(text for text in found if not is_id(text)):
        raise DenyListError(f"{where}: found {wrong[0]!r}; expected ids such as {example}.")
    return found


def _read(path: Path) -> frozenset[str]:
    try:
        return _first_column(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise DenyListError(f"{path} cannot be read ({error}); give a UTF-8 TSV file: id, label.") from error


def _first_column(table: str) -> frozenset[str]:
    """The first cells of all rows but the header."""
    return frozenset(line.split("\t")[0].strip() for line in table.splitlines()[1:] if line.strip())
