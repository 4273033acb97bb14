"""How a label index is built: names stream into a table, are ranked once, and are then written in that order."""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from wikidata_cache.errors import LabelIndexError
from wikidata_cache.labels.names import normalise

FORMAT = "wikidata-cache labels/1"

_STAGE = """
CREATE TEMP TABLE staged (id TEXT, text TEXT, language TEXT, kind TEXT, name TEXT);
CREATE TEMP TABLE weights (id TEXT PRIMARY KEY, weight INTEGER) WITHOUT ROWID;
"""
# The row number is the rank, so that both indexes give the best names first without sorting.
_RANK = """
CREATE TABLE names (rank INTEGER PRIMARY KEY, name TEXT, id TEXT, text TEXT, language TEXT, kind TEXT, weight INTEGER);
INSERT INTO names (name, id, text, language, kind, weight)
  SELECT DISTINCT name, id, text, language, kind, coalesce(weight, 0) FROM staged LEFT JOIN weights USING (id)
  ORDER BY kind = 'alias', weight DESC, CAST(substr(id, 2) AS INTEGER), id, text, language;
CREATE INDEX by_name ON names (name);
CREATE VIRTUAL TABLE words USING fts5 (
  name, content='', columnsize=0, tokenize="unicode61 remove_diacritics 0 categories 'L* N* M* Co'"
);
INSERT INTO words (rowid, name) SELECT rank, name FROM names ORDER BY rank;
INSERT INTO words (words) VALUES ('optimize');
"""
_COUNT = """
CREATE TABLE counts AS SELECT ? AS format, count(DISTINCT id) AS entities,
  count(*) FILTER (WHERE kind = 'label') AS labels, count(*) FILTER (WHERE kind = 'alias') AS aliases FROM names
"""
_WEIGH = "INSERT INTO weights VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET weight = weight + excluded.weight"
_ROOM = "; room is needed there, and for sorting in the folder for temporary files (SQLITE_TMPDIR, TMPDIR)"

Entry = tuple[str, str, str, str]  # id, text, language, "label" or "alias"


def write_index(path: Path, entries: Iterable[Entry], weights: Iterable[tuple[str, int]]) -> None:
    """Build an index beside `path` and put it there when it is whole; raises LabelIndexError where that fails."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with closing(sqlite3.connect(unfinished)) as connection:
            # An unfinished file is thrown away, so it needs neither a journal nor to reach the disk early.
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
            fill(connection, entries, weights)
        _sync(unfinished)
        unfinished.replace(path)
    except (sqlite3.Error, OSError) as error:
        raise LabelIndexError(path, f"cannot be written ({error}){_ROOM if 'full' in str(error) else ''}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def fill(connection: sqlite3.Connection, entries: Iterable[Entry], weights: Iterable[tuple[str, int]]) -> None:
    """Make an empty database an index of these names."""
    connection.executescript(_STAGE)
    connection.executemany("INSERT INTO staged VALUES (?, ?, ?, ?, ?)", _named(entries))
    connection.executemany(_WEIGH, weights)
    connection.commit()
    connection.executescript(_RANK)
    connection.execute(_COUNT, (FORMAT,))
    connection.executescript("DROP TABLE staged; DROP TABLE weights")
    connection.commit()


def _named(entries: Iterable[Entry]) -> Iterator[tuple[str, str, str, str, str]]:
    for entity, text, language, kind in entries:
        if name := normalise(text):
            yield entity, text.encode("utf-8", "ignore").decode(), language, kind, name


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
