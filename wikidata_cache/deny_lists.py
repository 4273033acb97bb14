"""Deny-lists: housekeeping properties and internal classes of Wikimedia, whose statements stay out of subgraphs.

A deny-list is a TSV file. The first column has the ids; the second has labels for human readers. To
change a list, copy `data/meta_properties.tsv` or `data/internal_classes.tsv`, and pass its path to `WikidataCache`.
"""

from collections.abc import Callable, Collection
from importlib.resources import files
from pathlib import Path

from kg_common.ids import is_entity, is_item, is_property
from wikidata_cache.errors import DenyListError

DenyList = Collection[str] | Path  # ids, or the path of a TSV file (a str is a path too)


def read_meta_properties(own: DenyList | None = None) -> frozenset[str]:
    """Return the ids of Wikimedia's housekeeping properties, such as "topic's main category" (P910).

    `own` replaces the packaged list.
    """
    return _read_list(own, "meta_properties.tsv", is_property, "P910")


def read_internal_classes(own: DenyList | None = None) -> frozenset[str]:
    """Return the item ids of Wikimedia-internal classes, such as "Wikimedia category" (Q4167836).

    `own` replaces the packaged list.
    """
    return _read_list(own, "internal_classes.tsv", is_item, "Q4167836")


def _read_list(own: DenyList | None, packaged: str, is_id: Callable[[str], bool], example: str) -> frozenset[str]:
    """Return the ids of a user's own list, or without one those of the packaged file of this name.

    `is_id` checks each id of an own list; the message for a wrong one has `example`.
    """
    if own is None:
        table = files("wikidata_cache").joinpath("data", packaged).read_text(encoding="utf-8")
        return frozenset(list_first_column(table))
    where = "the deny-list"
    ids: Collection[str]
    if isinstance(own, str | Path):
        where = str(own)
        try:
            ids = list_first_column(Path(own).read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            raise DenyListError(
                f"{own} cannot be read ({error}); expected a UTF-8 TSV file with the columns id and label."
            ) from error
    else:
        ids = own
    wrong = sorted(text for text in ids if not is_id(text))
    if wrong:
        raise DenyListError(f"{where}: found {wrong[0]!r}; expected ids such as {example}.")
    return frozenset(ids)


def list_first_column(table: str) -> list[str]:
    """Return the first cell of every row except a header; a first row that begins with an id is no header."""
    cells = [line.split("\t")[0].strip() for line in table.split("\n") if line.strip()]
    if cells and is_entity(cells[0]):
        return cells
    return cells[1:]
