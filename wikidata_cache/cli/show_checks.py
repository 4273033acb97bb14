"""What `wikidata-cache show` refuses before any work is done, and which entity an id stands for."""

import re
from collections.abc import Mapping
from pathlib import Path

from wikidata_cache.cache import WikidataCache
from wikidata_cache.edit_rows import SUFFIXES
from wikidata_cache.edits import EditRow, is_edit_file, read_edits
from wikidata_cache.errors import BadOptionError, CacheMissError, WikidataCacheError

_NO_ROW = re.compile(rf"(?P<file>.+(?:{'|'.join(map(re.escape, SUFFIXES))})):(?P<row>[^/:]*)", re.IGNORECASE)


def edit_of(what: str) -> EditRow | None:
    """The edit of a row, where a row is named; None for an id.

    Raises BadOptionError for several rows or no row number, and EditRowError for a row that is no edit.
    """
    if not is_edit_file(what):
        if found := _NO_ROW.fullmatch(what):
            raise BadOptionError(
                f"{what}: found {found['row']!r} after the colon; expected a row number, such as {found['file']}:1."
            )
        return None
    rows = read_edits(what)
    if len(rows) > 1:
        raise BadOptionError(f"{what} holds {len(rows)} edits; name one of them, such as {what}:1.")
    return rows[0]


def check_for_edits_only(what: str, given: Mapping[str, object]) -> None:
    """Raise BadOptionError where an option that only edits have was given for an item."""
    for option, value in given.items():
        if value:
            raise BadOptionError(
                f"{option} is for edits, such as edits.jsonl:1; {what} is an id. Leave {option} out; --hops and "
                f"--per-node say how much of an item is shown."
            )


def check_out(path: Path | None, option: str, *suffixes: str) -> None:
    """Raise BadOptionError for a file that surely cannot be written."""
    if path is None:
        return
    if path.suffix.lower() not in suffixes:
        raise BadOptionError(f"{option} {path}: expected a name ending in {' or '.join(suffixes)}.")
    if not path.parent.is_dir():
        raise BadOptionError(
            f"{option} {path} cannot be written: there is no folder {path.parent}. Make it, or give a file elsewhere."
        )
    if path.is_dir():
        raise BadOptionError(f"{option} {path} is a folder; give a file, such as {path / 'graph'}{suffixes[-1]}.")


def followed(opened: WikidataCache, entity: str) -> str:
    """The item that an id stands for: itself, or the one that it was merged into."""
    if opened.facts.out([entity])[entity]:
        return entity
    try:
        return opened.facts.redirects([entity]).get(entity, entity)
    except CacheMissError:  # offline, and never asked for
        return entity


def check_known(opened: WikidataCache, entity: str) -> None:
    """Raise WikidataCacheError for an id of which the graph knows neither a statement nor a label."""
    if not (opened.facts.out([entity])[entity] or opened.labels([entity])):
        raise WikidataCacheError(
            f"{entity} is not in the graph {opened.source.name}: no statement, no label. "
            f"Check the id, give a graph that holds it (-g URL, or -g wd/ made by `load`), or get it with `fetch`."
        )


def described_property(opened: WikidataCache, entity: str) -> str:
    """A property in words, and why there is no table of it.

    Raises WikidataCacheError where the graph does not know it.
    """
    check_known(opened, entity)
    label = opened.labels([entity]).get(entity, entity)
    try:
        description = opened.facts.descriptions([entity]).get(entity, "")
    except CacheMissError:
        description = ""
    said = f"{label} ({entity})" + (f": {description}" if description else "")
    return (
        f"{said}\n{entity} is a property: subgraphs hold statements about items (Q…), so there are none to show here."
    )
