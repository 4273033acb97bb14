"""Translate other formats into lines of N-Triples: TSV rows, KGTK edges, Wikidata's JSON dump, labels of CoDEx.

- Plain rows are `Q42 P31 Q5` and `Q42 label Douglas Adams` (English), tab-separated.
- KGTK files have a header with `node1`, `label` and `node2` (https://kgtk.readthedocs.io/en/latest/data_model/). The
  kept edges are item-valued edges, and labels, aliases and descriptions in the wanted languages, written `'text'@en`.
- The JSON dump has one entity per line (https://doc.wikimedia.org/Wikibase/master/php/docs_topics_json.html). As in the
  truthy RDF dump, the item-valued statements of best rank of each property are kept, and the texts; on request, the
  dates and quantities of best rank too.
- The label files of CoDEx are JSON objects by id.

A translator takes whole lines and the number of the first line, and returns the N-Triples to keep.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from kg_common.ids import is_entity, is_item, is_property
from kg_common.json_text import parse
from kg_common.rows import SUBJECT_COLUMNS
from wikidata_cache.languages import Languages, is_language
from wikidata_cache.stores.chunks import Chunk
from wikidata_cache.stores.ntriples import (
    KIND_IRIS,
    BadLineHandler,
    LineTranslator,
    statement_line,
    text_line,
    value_lines,
)
from wikidata_cache.values import json_value

Json = Any

_RANKS = ("preferred", "normal")  # the first of these that a property has is truthy; deprecated never is

RowConverter = Callable[[list[str]], Iterable[bytes]]  # cells -> N-Triples lines; raises ValueError for a bad row

_ROW = re.compile(rb"(Q[1-9][0-9]*)\t(P[1-9][0-9]*)\t(Q[1-9][0-9]*)\r?")
_KGTK_TEXT = re.compile(r"'((?:[^'\\|]|\\.)*)'@([A-Za-z-]+)")
_ESCAPED = re.compile(r"\\(.)")


def plain_rows(header: bytes, on_bad_line: BadLineHandler) -> LineTranslator:
    """Return a translator of plain rows, the TSV format of this package; `on_bad_line` is called for unreadable rows.

    `header` is the first line after comments and empty lines. It is left out if its first cell names a column of
    subjects, as in "subject, relation, object"; else it is a row.
    """
    names = [name.strip() for name in _split_header(header)]
    is_header = names[0].lower() in SUBJECT_COLUMNS

    def convert(cells: list[str]) -> Iterable[bytes]:
        if is_header and cells == names:
            return ()
        return _convert_plain_row(cells)

    return _translate_rows(convert, on_bad_line, is_plain=True)


def _split_header(header: bytes) -> list[str]:
    return header.decode(errors="replace").strip("\ufeff\r\n").split("\t")


def _convert_plain_row(cells: list[str]) -> Iterable[bytes]:
    """Return the statement or the label of a row; raise ValueError for a row that is neither."""
    if len(cells) == 3:
        subject, relation, value = cells
        if _ROW.fullmatch("\t".join(cells).encode()):
            return [statement_line(subject.encode(), relation.encode(), value.encode())]
        if relation == "label" and value and is_entity(subject):
            return [text_line(subject, "label", value, "en")]
    row = " | ".join(cells)
    raise ValueError(f"found {row[:80]!r}; expected three tab-separated cells: Q42 P31 Q5, or Q42 label text")


def kgtk_rows(header: bytes, on_bad_line: BadLineHandler, *, languages: Languages | None) -> LineTranslator:
    """Return a translator of KGTK edge files; `on_bad_line` is called for unreadable rows.

    `header` is the first line after comments and empty lines, which has the names of the columns. Texts are kept in
    these languages, or in all for None.
    """
    names = _split_header(header)
    subject_column = names.index("node1")
    relation_column = names.index("label")
    value_column = names.index("node2")

    def convert(cells: list[str]) -> Iterable[bytes]:
        """Return the line of N-Triples that says the same as a row; none for a row that is not wanted."""
        if len(cells) != len(names):
            raise ValueError(f"found {len(cells)} cells; expected {len(names)}, as in the header")
        subject = cells[subject_column]
        relation = cells[relation_column]
        value = cells[value_column]
        if not is_entity(subject):  # the header, whose cell here is "node1", or a statement about another edge
            return ()
        if _ROW.fullmatch(f"{subject}\t{relation}\t{value}".encode()):
            return [statement_line(subject.encode(), relation.encode(), value.encode())]
        text = _KGTK_TEXT.fullmatch(value)
        if relation not in KIND_IRIS or not text:
            return ()
        language = text[2].lower()
        if languages is not None and language not in languages:
            return ()
        return [text_line(subject, relation, _ESCAPED.sub(r"\1", text[1]), language)]

    return _translate_rows(convert, on_bad_line, is_plain=names == ["node1", "label", "node2"])


def _translate_rows(convert: RowConverter, on_bad_line: BadLineHandler, *, is_plain: bool) -> LineTranslator:
    """Return a translator of tab-separated rows by `convert`.

    With `is_plain`, the columns are subject, relation and value, in this order. Then a row such as `Q42 P31 Q5` is
    translated at once, which is much faster than `convert`.
    """

    def translate(lines: bytes, first: int) -> list[bytes]:
        kept: list[bytes] = []
        for number, line in enumerate(lines.removesuffix(b"\n").split(b"\n"), start=first):
            if is_plain:
                match = _ROW.fullmatch(line)
                if match:
                    kept.append(statement_line(*match.groups()))
                    continue
            try:
                kept += _convert_line(line, number, convert)
            except UnicodeDecodeError as error:
                on_bad_line(number, f"is not UTF-8 ({error.reason})")
            except ValueError as error:
                on_bad_line(number, str(error))
        return kept

    return translate


def _convert_line(line: bytes, number: int, convert: RowConverter) -> Iterable[bytes]:
    """Return the N-Triples of a row; none for an empty line."""
    encoding = "utf-8"
    if number == 1:
        encoding = "utf-8-sig"  # the file may begin with a byte order mark
    text = line.decode(encoding).rstrip("\r")
    if not text.strip():
        return ()
    return convert([cell.strip() for cell in text.split("\t")])


def json_entities(on_bad_line: BadLineHandler, *, values: bool, languages: Languages | None) -> LineTranslator:
    """Return a translator of lines of a JSON dump: item-valued statements of best rank, labels, aliases, descriptions.

    With `values`, dates and quantities are kept too. Texts are kept in these languages, or in all for None.
    `on_bad_line` is called for unreadable lines.
    """

    def translate(lines: bytes, first: int) -> list[bytes]:
        kept: list[bytes] = []
        for number, line in enumerate(lines.split(b"\n"), start=first):
            text = line.strip().rstrip(b",")
            if text in (b"", b"[", b"]"):
                continue
            try:
                # As a list: `kept +=` of an iterator that raises would keep the lines before the error.
                kept += list(_write_entity_lines(parse(text), values=values, languages=languages))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                on_bad_line(number, f"is not an entity of a Wikidata JSON dump ({type(error).__name__}: {error})")
        return kept

    return translate


def check_array_closed(chunks: Iterator[Chunk], cut_off: BadLineHandler) -> Iterator[Chunk]:
    """Yield the same chunks; if the last line is not `]`, which closes the array, call `cut_off`.

    Each chunk is yielded when the next one has been read, so that `cut_off` is called before the last chunk is used.
    """
    previous: Chunk | None = None
    last_line = b"]"
    number = 0  # of the last line
    for chunk in chunks:
        if previous:
            yield previous
        previous = chunk
        text = chunk.lines.rstrip()
        if text:
            last_line = text[text.rfind(b"\n") + 1 :].strip()
            number = chunk.first + text.count(b"\n")
    if last_line != b"]":
        ending = repr(last_line[-40:])
        cut_off(number, f"the file is cut off: a dump that begins with '[' ends with ']', but this one with {ending}")
    if previous:
        yield previous


def _write_entity_lines(entity: Json, *, values: bool, languages: Languages | None) -> Iterator[bytes]:
    """Yield the N-Triples to keep of an entity of the dump."""
    entity_id = entity["id"]
    if not is_entity(entity_id):  # a lexeme
        return
    yield from _write_text_lines(entity, entity_id, languages)
    if is_item(entity_id):
        yield from _write_truthy_lines(entity, entity_id, values=values)


def _write_text_lines(entity: Json, entity_id: str, languages: Languages | None) -> Iterator[bytes]:
    """Yield the labels, descriptions and aliases in the wanted languages."""
    for kind, key in (("label", "labels"), ("description", "descriptions"), ("alias", "aliases")):
        texts = entity.get(key) or {}  # PHP writes an empty map as []
        wanted: Iterable[str] = sorted(texts)
        if languages is not None:
            wanted = languages
        for language in wanted:
            entries = texts.get(language) or []
            if entries and kind != "alias":  # only aliases are lists
                entries = [entries]
            for entry in entries:
                yield text_line(entity_id, kind, entry["value"], language)


def _write_truthy_lines(entity: Json, entity_id: str, *, values: bool) -> Iterator[bytes]:
    """Yield the statements of the best rank that each property has; deprecated ones never are truthy."""
    for relation, statements in (entity.get("claims") or {}).items():
        best = _find_best_rank(statements)
        truthy = [statement for statement in statements if statement["rank"] == best]
        items = [_read_item(statement) for statement in truthy]
        for item in dict.fromkeys(items):  # each once
            if item and is_property(relation):
                yield statement_line(entity_id.encode(), relation.encode(), item.encode())
        if not values:
            continue
        literals = [json_value(statement["mainsnak"].get("datavalue")) for statement in truthy]
        for literal in dict.fromkeys(literals):
            if literal and is_property(relation):
                yield from value_lines(entity_id, relation, literal)


def _find_best_rank(statements: Iterable[Json]) -> str | None:
    """Return the best rank among the statements of a property; None if all are deprecated."""
    ranks = {statement["rank"] for statement in statements}
    for rank in _RANKS:
        if rank in ranks:
            return rank
    return None


def _read_item(statement: Json) -> str | None:
    """Return the item that is the value of a statement; None for unknown values, no values and other value types."""
    snak = statement["mainsnak"]
    if snak["snaktype"] != "value" or snak["datavalue"]["type"] != "wikibase-entityid":
        return None
    value = snak["datavalue"]["value"]
    item = value.get("id")
    if not item and value["entity-type"] == "item":  # old dumps have the number alone
        item = f"Q{value['numeric-id']}"
    if not item or not is_item(item):
        return None
    return str(item)


def codex_labels(path: Path, on_bad_line: BadLineHandler) -> LineTranslator:
    """Return a translator of a whole file `{id: {"label": …, "description": …}}`; the folder's name is the language.

    In a folder of another name, the language is English.
    """
    language = path.parent.name
    if not is_language(language):
        language = "en"

    def translate(text: bytes, first: int) -> list[bytes]:
        try:
            return _write_codex_lines(parse(text), language)
        except json.JSONDecodeError as error:
            on_bad_line(error.lineno, f"is not JSON: {error.msg}")
        except (ValueError, AttributeError, TypeError) as error:
            on_bad_line(first, f"expected {{id: {{'label': text, 'description': text}}}} ({error})")
        return []

    return translate


def _write_codex_lines(entities: Json, language: str) -> list[bytes]:
    """Return the labels and descriptions of {id: {"label": …, "description": …}}; either may be missing."""
    lines = []
    for entity, texts in entities.items():
        for kind in ("label", "description"):
            words = texts.get(kind)
            if words and words.strip() and is_entity(entity):
                lines.append(text_line(entity, kind, words, language))
    return lines
