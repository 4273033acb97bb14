"""An index of labels and aliases in one SQLite file: exact lookup by normalised name, and search by words (FTS5).

`build_label_index` streams names into a staging table, ranks them once and writes them in that order, so that row
numbers are ranks and queries need no sorting. `LabelIndex` reads a finished index, which is never changed in place.
`normalise` returns the form in which names are compared here and in `linking`.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from string import digits
from typing import Literal, NamedTuple

from wikidata_cache.errors import LabelIndexError
from wikidata_cache.languages import Languages

FORMAT = "wikidata-cache labels/1"

_CREATE_STAGING = """
CREATE TEMP TABLE staged (id TEXT, text TEXT, language TEXT, kind TEXT, name TEXT);
CREATE TEMP TABLE weights (id TEXT PRIMARY KEY, weight INTEGER) WITHOUT ROWID;
"""
# In all tables, `name` is the normalised text, and `kind` is that of the name: 'label' or 'alias'.
# The row number is the rank, so that both indexes return the best names first without sorting.
_CREATE_INDEX = """
CREATE TABLE names (rank INTEGER PRIMARY KEY, name TEXT, id TEXT, text TEXT, language TEXT, kind TEXT, weight INTEGER);
INSERT INTO names (name, id, text, language, kind, weight)
  SELECT DISTINCT name, id, text, language, kind, coalesce(weight, 0) FROM staged LEFT JOIN weights USING (id)
  -- Labels before aliases, then the entities with the most statements, then the lowest id numbers.
  ORDER BY kind = 'alias', weight DESC, CAST(substr(id, 2) AS INTEGER), id, text, language;
CREATE INDEX by_name ON names (name);
CREATE VIRTUAL TABLE words USING fts5 (
  spaced, content='', columnsize=0, tokenize="unicode61 remove_diacritics 0 categories 'L* N* M* Co'"
);
-- An ASCII name has no character to space out.
INSERT INTO words (rowid, spaced)
  SELECT rank, iif(name GLOB '*[^ -~]*', space_out(name), name) FROM names ORDER BY rank;
INSERT INTO words (words) VALUES ('optimize');
"""
_STORE_COUNTS = """
CREATE TABLE counts AS SELECT ? AS format, count(DISTINCT id) AS entities,
  count(*) FILTER (WHERE kind = 'label') AS labels, count(*) FILTER (WHERE kind = 'alias') AS aliases FROM names
"""
_COUNT_WEIGHTS = "SELECT count(*) FILTER (WHERE id GLOB 'Q*'), count(*) FILTER (WHERE id GLOB 'P*') FROM weights"
_ADD_WEIGHT = "INSERT INTO weights VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET weight = weight + excluded.weight"
_FREE_SPACE = (  # how the message goes on if a disk is full
    "; free some space there, and in the folder for temporary files (SQLITE_TMPDIR, TMPDIR), where names are sorted"
)

NameKind = Literal["label", "alias"]
EntityKind = Literal["item", "property"]

LETTERS = {"item": "Q", "property": "P"}  # with which the ids of a kind begin
_SELECT_EXACT = """
SELECT id, text, language, kind, weight FROM names WHERE name = ? AND id GLOB ? ORDER BY text = ? DESC, rank
"""
_SELECT_BY_WORDS = """
SELECT id, text, language, kind, weight FROM words JOIN names ON names.rank = words.rowid
WHERE words MATCH ? AND names.id GLOB ? ORDER BY words.rowid
"""
_SELECT_ANY_OF = """
SELECT id, text, language, kind, weight FROM names
WHERE name IN (SELECT value FROM json_each(?)) AND id GLOB ? ORDER BY rank
"""
# `find_nearest` tries each letter of the Latin alphabet, and of another one if the text has a letter of it.
_LATIN = "abcdefghijklmnopqrstuvwxyz"
_OTHER_ALPHABETS = ("αβγδεζηθικλμνξοπρστυφχψω", "абвгдежзийклмнопрстуфхцчшщъыьэюяєіјљњћџґ")
_LONGEST = 250  # characters of a name in Wikidata
_MOST_WORDS = 32  # of a text to search for; a name of at most 250 characters hardly has more

_INVISIBLE = ("Cf", "Cs")  # Unicode categories: direction marks and joiners; surrogates
# Combining marks of Latin, Greek and Cyrillic letters, of Hebrew and of Arabic, which people leave out.
_ACCENTS = re.compile(
    "[\u0300-\u036f\u0483-\u0487\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed"
    "\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
)
# Thai, Lao, Burmese, Khmer, kana, Chinese characters, Korean syllables.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3"
    "\uf900-\ufaff\U00020000-\U0003134f]"
)
_VARIATION = range(0xFE00, 0xFE10)  # variation selectors, which only choose a glyph: text or emoji


class LabelEntry(NamedTuple):
    """A name to put into an index: `text` as it is written, in `language` (such as "en"), of item or property `id`."""

    id: str
    text: str
    language: str
    kind: NameKind


class Match(NamedTuple):
    """A name that a query found; `weight` is the entity's number of statements, 0 if the index does not know it."""

    id: str
    text: str
    language: str
    kind: NameKind
    weight: int


class WeightCounts(NamedTuple):
    """The numbers of items and of properties that have a weight."""

    items: int
    properties: int


class LabelCounts(NamedTuple):
    """Sizes of an index: numbers of named entities, of labels and of aliases (one for each language and text)."""

    entities: int
    labels: int
    aliases: int


class LabelIndex:
    """Reads an index file. Results are ordered: labels before aliases, then most statements, then lowest id number.

    With `languages`, only names in these are found. Use it as a context manager, or call `close`. Threads and
    processes may read the same file at the same time.
    """

    def __init__(self, file: Path | sqlite3.Connection, *, languages: Languages | None = None) -> None:
        self._languages = languages
        if isinstance(file, sqlite3.Connection):  # an index in memory
            self._path = Path(":memory:")
            self._connection = file
        else:
            self._path = file
            self._connection = _open(file)

    @classmethod
    def in_memory(cls, entries: Iterable[LabelEntry], *, weights: Iterable[tuple[str, int]] = ()) -> LabelIndex:
        """Make an index in memory, for graphs without an index file; it lives as long as the object."""
        connection = sqlite3.connect(":memory:", check_same_thread=False)
        _fill_tables(connection, entries, weights)
        return cls(connection)

    def __enter__(self) -> LabelIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database connection; the index cannot be queried afterwards."""
        self._connection.close()

    @property
    def counts(self) -> LabelCounts:
        """The numbers of entities, labels and aliases in the index."""
        return LabelCounts(*self._connection.execute("SELECT entities, labels, aliases FROM counts").fetchone())

    def list_languages(self) -> list[str]:
        """Return the languages of the names in the index, sorted."""
        return [code for (code,) in self._connection.execute("SELECT DISTINCT language FROM names ORDER BY language")]

    def find_exact(self, text: str, *, limit: int = 10, kind: EntityKind | None = None) -> list[Match]:
        """Return at most `limit` entities with this name, each with its best match.

        Case, accents and spacing are ignored; names that equal the text exactly come first.
        """
        written = text.encode("utf-8", "ignore").decode()  # SQLite does not accept lone surrogates
        return self._find_best_matches(_SELECT_EXACT, (normalise(text), _write_id_pattern(kind), written), limit)

    def find_by_words(self, text: str, *, limit: int = 10, kind: EntityKind | None = None) -> list[Match]:
        """Return at most `limit` entities with a name that has all words of the text, each with its best match.

        The words may be in any order. In scripts without spaces, a word is any part of a name: "東京" is in "東京都". A
        text without words, or with more than `_MOST_WORDS`, finds nothing.
        """
        words = name_words(normalise(text))
        if not 0 < len(words) <= _MOST_WORDS:
            return []
        # A quoted word is literal: FTS5 does not read *, NEAR, AND or column filters in it.
        quoted = ['"' + space_out(word).replace('"', '""') + '"' for word in words]
        query = " ".join(quoted)
        return self._find_best_matches(_SELECT_BY_WORDS, (query, _write_id_pattern(kind)), limit)

    def find_nearest(self, text: str, *, limit: int = 5, kind: EntityKind | None = None) -> list[Match]:
        """Return at most `limit` entities with a name that is one letter away from the text, each with its best match.

        A letter is wrong, missing or too many, or two are exchanged: "Lodon" finds "London", and "Моска" "Москва". In
        scripts other than Latin, Greek and Cyrillic, a wrong or missing letter is found only if the text has the right
        letter in another place. A text of at most three characters finds nothing, since it is near too many names.
        """
        normal = normalise(text)
        if not 3 < len(normal) <= _LONGEST:
            return []
        variants = json.dumps(sorted(_list_variants(normal)))
        return self._find_best_matches(_SELECT_ANY_OF, (variants, _write_id_pattern(kind)), limit)

    def _find_best_matches(self, query: str, values: tuple[str, ...], limit: int) -> list[Match]:
        """Return the first match of each entity, of at most `limit` entities."""
        best: dict[str, Match] = {}
        for match in self._yield_matches(query, values):
            best.setdefault(match.id, match)
            if len(best) >= limit:
                break
        return list(best.values())

    def _yield_matches(self, query: str, values: tuple[str, ...]) -> Iterator[Match]:
        """Yield the matches of a query in its own order, without those in languages that are not wanted."""
        try:
            with closing(self._connection.cursor()) as cursor:
                for row in cursor.execute(query, values):
                    match = Match(*row)  # every query selects the fields of a match in their order
                    if self._languages is None or match.language in self._languages:
                        yield match
        except sqlite3.DatabaseError as error:
            raise LabelIndexError(self._path, f"is damaged ({error}); load the store again") from error


def _list_variants(normal: str) -> set[str]:
    """Return the texts that are one letter away from a normalised name (https://norvig.com/spell-correct.html)."""
    letters = {*_LATIN, *digits, " ", *normal}
    for alphabet in _OTHER_ALPHABETS:
        if not letters.isdisjoint(alphabet):
            letters.update(alphabet)
    variants: set[str] = set()
    for middle in range(len(normal) + 1):
        left = normal[:middle]
        right = normal[middle:]
        variants.add(left + right[1:])  # without a letter
        variants.add(left + right[1:2] + right[:1] + right[2:])  # with two letters exchanged
        for letter in letters:
            variants.add(left + letter + right)  # with one more
            variants.add(left + letter + right[1:])  # with another one
    return variants


def _write_id_pattern(kind: EntityKind | None) -> str:
    """Return the SQLite pattern of the ids of a kind, such as "Q*" for items; "*" for None, which is any kind."""
    if kind is None:
        return "*"
    return f"{LETTERS[kind]}*"


def build_label_index(
    path: Path, entries: Iterable[LabelEntry], *, weights: Iterable[tuple[str, int]] = ()
) -> tuple[LabelCounts, WeightCounts]:
    """Write the index of these names. Memory is bounded; the file is written atomically.

    Args:
        path: the file.
        entries: the names. Names without a visible character are left out.
        weights: (id, number of statements), which rank entities of the same name; numbers of the same id are added.
            They are read after `entries`.

    Returns:
        The sizes of the index, and those of the weights.
    """
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with closing(sqlite3.connect(unfinished)) as connection:
            # An unfinished file is deleted, so it needs neither a journal nor early writes to disk.
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
            weight_counts = _fill_tables(connection, entries, weights)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except (sqlite3.Error, OSError) as error:
        problem = f"cannot be written ({error})"
        if "full" in str(error):
            problem += _FREE_SPACE
        raise LabelIndexError(path, problem) from error
    finally:
        unfinished.unlink(missing_ok=True)
    with LabelIndex(path) as index:
        return index.counts, weight_counts


def _fill_tables(
    connection: sqlite3.Connection, entries: Iterable[LabelEntry], weights: Iterable[tuple[str, int]]
) -> WeightCounts:
    """Create the tables of an index in an empty database: stage all names, rank them once, write them in rank order."""
    connection.create_function("space_out", 1, space_out, deterministic=True)
    connection.executescript(_CREATE_STAGING)
    connection.executemany("INSERT INTO staged VALUES (?, ?, ?, ?, ?)", _staged_rows(entries))
    connection.executemany(_ADD_WEIGHT, weights)
    connection.commit()
    connection.executescript(_CREATE_INDEX)
    connection.execute(_STORE_COUNTS, (FORMAT,))  # the sizes, beside the format, which `_open` checks
    weight_counts = WeightCounts(*connection.execute(_COUNT_WEIGHTS).fetchone())
    connection.executescript("DROP TABLE staged; DROP TABLE weights")
    connection.commit()
    return weight_counts


def _staged_rows(entries: Iterable[LabelEntry]) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield (id, text, language, label or alias, normalised text), without names that have no visible character."""
    for entity, text, language, name_kind in entries:
        normal = normalise(text)
        if normal:
            yield entity, text.encode("utf-8", "ignore").decode(), language, name_kind, normal


def _open(path: Path) -> sqlite3.Connection:
    """Open an index file for reading, and check its format."""
    if not path.is_file():
        raise LabelIndexError(path, "there is no such file")
    try:
        # An index is never changed in place, so SQLite needs no lock and no journal ("immutable").
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False
        )
        stored_format = connection.execute("SELECT format FROM counts").fetchone()[0]
    except (sqlite3.Error, TypeError) as error:
        raise LabelIndexError(path, f"is not a label index ({error})") from error
    if stored_format != FORMAT:
        connection.close()
        raise LabelIndexError(path, f"has the format {stored_format!r}; this release reads {FORMAT!r}")
    return connection


def normalise(text: str) -> str:
    """Return the form in which names are compared: casefolded, no accents or invisible characters, single spaces.

    "São  Paulo" and "SAO PAULO" have the same form, "sao paulo". "Зенит" becomes "зенит"; "東京" stays the same, and
    "ﾄﾖﾀ" of half width becomes "トヨタ", since NFKD replaces compatibility characters. Marks without which a letter is
    another one stay, such as that of "ガ"; at the end, NFC composes them with their letters.
    """
    if text.isascii() and text.isprintable():
        return " ".join(text.lower().split())
    decomposed = unicodedata.normalize("NFKD", text).casefold()  # casefolding leaves it in NFKD
    visible = "".join(map(_clean_character, decomposed))
    return unicodedata.normalize("NFC", " ".join(visible.split()))


def space_out(name: str) -> str:
    """Return a name with a space around each character of a script that is written without spaces between words.

    Each such character is indexed as a word of its own, and a part of a name is searched as a phrase. Korean syllables
    are treated the same way, since Korean compounds are written with or without spaces.
    """
    return _UNSPACED.sub(r" \g<0> ", name)


def name_words(name: str) -> list[str]:
    """Return the space-separated words of a normalised name, without words that are punctuation only."""
    words = []
    for word in name.split():
        if any(character.isalnum() for character in word):
            words.append(word)
    return words


def _clean_character(character: str) -> str:
    """Return a character of a name, "" for an invisible one, or a space for a control character."""
    if character.isascii() and character.isprintable():
        return character
    if _ACCENTS.match(character) or ord(character) in _VARIATION:
        return ""
    category = unicodedata.category(character)
    if category in _INVISIBLE:
        return ""
    if category == "Cc":
        return " "
    return character
