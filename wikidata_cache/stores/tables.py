"""Rows of tables into lines of N-Triples: this package's TSV, plain rows of three ids, and KGTK's edges.

Plain rows are `Q42 P31 Q5` and `Q42 label Douglas Adams` (English), tab-separated. KGTK's have a header that names
`node1`, `label` and `node2` (https://kgtk.readthedocs.io/en/latest/data_model/); kept of them are item-valued edges
and the labels, aliases and descriptions in the languages wanted, written `'text'@en`.
"""

import re
from collections.abc import Callable, Collection, Iterable

from wikidata_cache.stores.ntriples import KIND_IRIS, BadLineHandler, LineTranslator, statement_line, text_line

RowConverter = Callable[[list[str]], Iterable[bytes]]  # cells -> lines of N-Triples; ValueError says what is wrong

_ROW = re.compile(rb"(Q[1-9][0-9]*)\t(P[1-9][0-9]*)\t(Q[1-9][0-9]*)\r?")
_ID = re.compile(r"[QP][1-9][0-9]*", re.ASCII)
_KGTK_TEXT = re.compile(r"'((?:[^'\\|]|\\.)*)'@([A-Za-z-]+)")
_ESCAPED = re.compile(r"\\(.)")


def plain_rows(bad: BadLineHandler) -> LineTranslator:
    """A translator of this package's TSV and of plain rows of three ids; `bad` is called for unreadable rows."""
    return _translator(_plain_row, bad)


def _plain_row(cells: list[str]) -> Iterable[bytes]:
    if len(cells) == 3:
        if _ROW.fullmatch("\t".join(cells).encode()):
            return [statement_line(*(cell.encode() for cell in cells))]
        if cells[1] == "label" and cells[2] and _ID.fullmatch(cells[0]):
            return [text_line(cells[0], "label", cells[2], "en")]
    found = " | ".join(cells)
    raise ValueError(f"found {found[:80]!r}; expected three tab-separated cells: Q42 P31 Q5, or Q42 label text")


def kgtk_rows(header: bytes, languages: Collection[str], bad: BadLineHandler) -> LineTranslator:
    """A translator of KGTK edge files, whose first line is `header`; `bad` is called for unreadable rows."""
    names = header.decode().strip("\ufeff\r\n").split("\t")
    subject, relation, value = (names.index(name) for name in ("node1", "label", "node2"))

    def row(cells: list[str]) -> Iterable[bytes]:
        if len(cells) != len(names):
            raise ValueError(f"found {len(cells)} cells where the header names {len(names)}")
        return () if cells == names else _kgtk_edge(cells[subject], cells[relation], cells[value], languages)

    return _translator(row, bad)


def _kgtk_edge(subject: str, relation: str, value: str, languages: Collection[str]) -> Iterable[bytes]:
    if not _ID.fullmatch(subject):
        return ()
    if _ROW.fullmatch(f"{subject}\t{relation}\t{value}".encode()):
        return [statement_line(subject.encode(), relation.encode(), value.encode())]
    text = _KGTK_TEXT.fullmatch(value)
    if relation not in KIND_IRIS or not text or text[2].lower() not in languages:
        return ()
    return [text_line(subject, relation, _ESCAPED.sub(r"\1", text[1]), text[2].lower())]


def _translator(row: RowConverter, bad: BadLineHandler) -> LineTranslator:
    def translate(lines: bytes, first: int) -> list[bytes]:
        kept: list[bytes] = []
        for number, line in enumerate(lines.removesuffix(b"\n").split(b"\n"), start=first):
            if found := _ROW.fullmatch(line):
                kept.append(statement_line(*found.groups()))
                continue
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r")
                header = number == 1 and text.lower().startswith("subject\t")
                kept += row([cell.strip() for cell in text.split("\t")]) if text.strip() and not header else ()
            except ValueError as error:
                bad(number, f"is not UTF-8 ({error.reason})" if isinstance(error, UnicodeDecodeError) else str(error))
        return kept

    return translate
