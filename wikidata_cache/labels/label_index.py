"""A SQLite file from names to ids: exact on the normalised name, and by its words (FTS5). Read-only once built.

How a label index is built: names stream into a table, are ranked once, and are then written in that order.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple

from wikidata_cache.errors import LabelIndexError
from wikidata_cache.labels.names import normalise, words

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


NameKind = Literal["label", "alias"]
EntityKind = Literal["item", "property"]

_LETTERS = {"item": "Q", "property": "P"}
_EXACT = """
SELECT id, text, language, kind, weight FROM names WHERE name = ? ORDER BY text = ? DESC, rank
"""
_WORDS = """
SELECT id, text, language, kind, weight FROM words JOIN names ON names.rank = words.rowid
WHERE words MATCH ? ORDER BY words.rowid
"""
_PROPERTIES = """
SELECT id, text, language, kind, weight FROM names WHERE id LIKE 'P%' ORDER BY rank
"""
_MOST_WORDS = 32  # Wikidata's names have at most 250 characters; a longer text is no name


class LabelEntry(NamedTuple):
    """A name of an item or property: `text` as it is written, in `language`."""

    id: str
    text: str
    language: str
    kind: NameKind


class Match(NamedTuple):
    """A name that was found; `weight` is the number of statements that the index was told of the entity."""

    id: str
    text: str
    language: str
    kind: NameKind
    weight: int


class LabelCounts(NamedTuple):
    """What an index holds."""

    entities: int
    labels: int
    aliases: int


def build_label_index(
    path: Path, entries: Iterable[LabelEntry], *, weights: Iterable[tuple[str, int]] = ()
) -> LabelCounts:
    """Write the index of these names to `path`, all or nothing; memory stays bounded however many they are.

    `weights` are numbers of statements by id, which rank homonyms; an id may come several times, and its
    numbers add up. They are read after `entries`. Names without a visible character are left out.

    Raises LabelIndexError where the file cannot be written.
    """
    write_index(path, entries, weights)
    with LabelIndex(path) as index:
        return index.counts


class LabelIndex:
    """Reads an index: labels before aliases, then the most stated entity, then the lowest number.

    Use as a context manager, or call `close`. Threads and processes may read one file at once.
    Raises LabelIndexError for a file that is missing, no index, of another version, or found damaged when it is read.
    """

    def __init__(self, path: Path | sqlite3.Connection) -> None:
        self._path = path if isinstance(path, Path) else Path(":memory:")
        self._connection = path if isinstance(path, sqlite3.Connection) else _open(path)

    @classmethod
    def in_memory(cls, entries: Iterable[LabelEntry], *, weights: Iterable[tuple[str, int]] = ()) -> LabelIndex:
        """An index that is gone with the object, for graphs that come without one."""
        connection = sqlite3.connect(":memory:", check_same_thread=False)
        fill(connection, entries, weights)
        return cls(connection)

    def __enter__(self) -> LabelIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @property
    def counts(self) -> LabelCounts:
        """How many entities, labels and aliases it holds."""
        return LabelCounts(*self._connection.execute("SELECT entities, labels, aliases FROM counts").fetchone())

    def exact(self, name: str, *, limit: int = 10, entity: EntityKind | None = None) -> list[Match]:
        """The best name of each of at most `limit` entities that are called so: case, accents and spaces aside.

        A name that is written exactly so comes first.
        """
        written = name.encode("utf-8", "ignore").decode()  # half of an emoji is no text for SQLite
        return self._found(_EXACT, (normalise(name), written), limit, entity)

    def tokens(self, text: str, *, limit: int = 10, entity: EntityKind | None = None) -> list[Match]:
        """The best name of each of at most `limit` entities whose name has all words of the text, in any order."""
        asked = words(normalise(text))
        if not 0 < len(asked) <= _MOST_WORDS:
            return []
        # Quoted, every word is literal: no *, NEAR, AND or column filter of FTS5 is left in it.
        query = " ".join('"' + word.replace('"', '""') + '"' for word in asked)
        return self._found(_WORDS, (query,), limit, entity)

    def properties(self) -> list[Match]:
        """All names of properties, the best first; a scan of the whole index."""
        with closing(self._connection.cursor()) as cursor:
            return list(map(Match._make, cursor.execute(_PROPERTIES)))

    def _found(self, query: str, values: tuple[str, ...], limit: int, entity: EntityKind | None) -> list[Match]:
        best: dict[str, Match] = {}
        try:
            with closing(self._connection.cursor()) as cursor:
                for match in map(Match._make, cursor.execute(query, values)):
                    if entity is None or match.id.startswith(_LETTERS[entity]):
                        best.setdefault(match.id, match)
                    if len(best) >= limit:
                        break
        except sqlite3.DatabaseError as error:
            raise LabelIndexError(self._path, f"is damaged ({error}); load the store again") from error
        return list(best.values())


def _open(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise LabelIndexError(path, "there is no such file")
    try:
        # Immutable: nobody changes an index in place, so no lock and no journal is needed beside it.
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False
        )
        found = connection.execute("SELECT format FROM counts").fetchone()[0]
    except (sqlite3.Error, TypeError) as error:
        raise LabelIndexError(path, f"is no label index ({error})") from error
    if found != FORMAT:
        connection.close()
        raise LabelIndexError(path, f"has the format {found!r}, and {FORMAT!r} is expected")
    return connection
