"""Filter N-Triples fast, in blocks of megabytes: one regular expression finds the lines that this package needs.

The kept lines are truthy item-valued statements, redirects, and labels, aliases and descriptions in the wanted
languages; of full dumps also the statement nodes of items with their item values, ranks, start and end times. On
request, dates and quantities are kept too, with precision and unit where the file has them. All other inputs are turned
into such lines (`statement_line`, `text_line`, `value_lines`). Lines are in canonical form, so that equal
triples are equal bytes in every store. Line endings are not part of a line. Format: https://www.w3.org/TR/n-triples/.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

from pyoxigraph import Literal, RdfFormat, parse, serialize

from wikidata_cache.ids import DIRECT, ENTITY, LANGUAGES, RDFS_LABEL
from wikidata_cache.values import DATATYPES, XSD

if TYPE_CHECKING:  # only `load` needs numpy
    import numpy as np

BadLineHandler = Callable[[int, str], None]  # called with the number of an unreadable line and its problem
LineTranslator = Callable[[bytes, int], list[bytes]]  # (whole lines, number of the first line) -> N-Triples lines

_W = rb"http://www\.wikidata\.org/"
_O = rb"http://wikiba\.se/ontology#"
_ITEM = rb"<" + _W + rb"entity/Q[0-9]+>"
_NODE = rb"<" + _W + rb"entity/statement/[^>\n]+>"
_TEXTS = rb"<http://(?:www\.w3\.org/(?:2000/01/rdf-schema#label|2004/02/skos/core#altLabel)|schema\.org/description)>"
_TIME = rb'"[^"\n]*"\^\^<http://www\.w3\.org/2001/XMLSchema#dateTime>'
_TYPE = rb"<http://www.w3.org/1999/02/22-rdf-syntax-ns#type> "
_LITERAL = rb'"[^"\n]*"\^\^<' + XSD.encode() + rb"(?:" + "|".join(DATATYPES).encode() + rb")>"
_VALUE = rb"<" + _W + rb"value/[^>\n]+>"

# The canonical form is the one that the engine writes, so that equal triples are equal bytes.
_PLAIN = rb'[^"\\\x00-\x1f\x7f]*'
_CANONICAL = re.compile(
    _PLAIN + rb'(?:"' + _PLAIN + rb'(?:\\[nrt"\\]' + _PLAIN + rb')*"(?:@[a-z0-9-]+|\^\^<[^>"]*>)?)? \.'
)
_STRING = f"^^<{XSD}string>".encode()  # which the engine leaves out: it is the type of every text
# N-Triples also allows no space, or several, between two terms; a text may contain the same characters.
_SPACED = re.compile(rb'(?:<[^>]*>|_:[^\s<>"]+) <[^>]*> [<"_]')
_MAYBE_NOT_SPACED = re.compile(rb'>(?:[<"_\t]| [ \t])')
_LOOSE_ENDS = (b"  .", b"\t .")
_CONTROL = bytes([*range(10), *range(11, 32), 127])
_CAPITALS = re.compile(rb'"@[a-z0-9-]*[A-Z]')
# A subject, before the predicate, or an object, before the end of the line: a literal may contain the same characters.
_BLANK = re.compile(rb"(?m)^_:([^\s<>\"]+)(?= <)|(?<=> )_:([^\s<>\"]+)(?= \.$)")
_GENID = b"<http://www.wikidata.org/.well-known/genid/%s-%s>"

KIND_IRIS = {
    "label": RDFS_LABEL,
    "alias": "http://www.w3.org/2004/02/skos/core#altLabel",
    "description": "http://schema.org/description",
}
_KINDS = {iri.encode(): kind for kind, iri in KIND_IRIS.items()}
_STATEMENT = f"<{ENTITY}%s> <{DIRECT}%s> <{ENTITY}%s> .".encode()
_IDS = re.compile(
    rb"<http://www\.wikidata\.org/entity/Q([0-9]{1,18})> <http://www\.wikidata\.org/prop/direct/P([0-9]{1,18})> "
    rb"<http://www\.wikidata\.org/entity/Q([0-9]{1,18})> \."
)
_UNIT_OF_NUMBERS = 199  # Q199, the number one
_NAME = re.compile(rb"<" + _W + rb'entity/([QP][0-9]+)> <([^>]+)> "(.*)"@([a-z-]+) \.')
_UNESCAPED = re.compile(r"\\(?:u([0-9A-F]{4})|(.))")
_CHARACTERS = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}

Name = tuple[str, str, str, str]  # id, text, language, kind


def wanted_lines_translator(bad: BadLineHandler, *, values: bool) -> LineTranslator:
    """Return a translator that keeps the lines of N-Triples that are needed, with `values` also dates and quantities.

    `bad` is called for unreadable lines.
    """
    pattern = _wanted_pattern(values=values)

    def translate(lines: bytes, first: int) -> list[bytes]:
        tidy = _tidy(lines, first, bad)
        return _canonical(pattern.findall(b"\n" + tidy), tidy, first, bad)

    return translate


def _wanted_pattern(*, values: bool) -> re.Pattern[bytes]:
    """Return the pattern of a wanted line, with the end of the line before it: (subject, predicate, object, " .")."""
    spoken = b"|".join(re.escape(language.encode()) for language in LANGUAGES)
    # Predicates and objects, by the kind of the subject.
    of_an_item: tuple[bytes, ...] = (
        rb"<" + _W + rb"prop/direct/P[0-9]+> " + _ITEM,
        _TEXTS + rb' "[^\n]*"@(?i:' + spoken + rb")",
        rb"<http://www\.w3\.org/2002/07/owl#sameAs> <" + _W + rb"entity/[QP][0-9]+>",
        rb"<" + _W + rb"prop/P[0-9]+> " + _NODE,
    )
    of_a_node: tuple[bytes, ...] = (
        rb"<" + _W + rb"prop/statement/P[0-9]+> " + _ITEM,
        rb"<" + _O + rb"rank> <" + _O + rb"[A-Za-z]+Rank>",
        rb"<" + _W + rb"prop/qualifier/P58[02]> " + _TIME,
    )
    of_a_value: tuple[bytes, ...] = ()
    if values:
        of_an_item += (rb"<" + _W + rb"prop/direct/P[0-9]+> " + _LITERAL,)
        of_a_node += (_TYPE + rb"<" + _O + rb"BestRank>", rb"<" + _W + rb"prop/statement/value/P[0-9]+> " + _VALUE)
        of_a_value = (
            rb"<" + _O + rb"(?:timeValue|timePrecision|quantityAmount)> " + _LITERAL,
            rb"<" + _O + rb"quantityUnit> " + _ITEM,
        )
    by_subject = {
        rb"entity/[QP][0-9]+": of_an_item,
        rb"entity/statement/[^>\n]+": of_a_node,
        rb"value/[^>\n]+": of_a_value,
    }
    content = b"|".join(subject + rb"> (?:" + b"|".join(kept) + rb")" for subject, kept in by_subject.items() if kept)
    return re.compile(rb"\n(<" + _W + rb"(?:" + content + rb") \.)(?=\n)")


def all_lines_translator(name: str, bad: BadLineHandler) -> LineTranslator:
    """Return a translator of N-Triples that keeps every triple; `bad` is called for unreadable lines.

    Blank nodes become IRIs, as on Wikidata's own endpoint. The label of a blank node is local to its file, so the IRI
    contains a hash of `name`, which no other file of the load has.
    """
    mark = blake2b(os.fsencode(name), digest_size=4).hexdigest().encode()

    def translate(lines: bytes, first: int) -> list[bytes]:
        tidy = _BLANK.sub(lambda match: _GENID % (mark, match[1] or match[2]), _tidy(lines, first, bad))
        return _canonical([line for line in tidy.split(b"\n") if line.startswith(b"<")], tidy, first, bad)

    return translate


def _tidy(lines: bytes, first: int, bad: BadLineHandler) -> bytes:
    """Return the same number of lines; each is empty, or a triple with single spaces and " ." at its end."""
    # Counting is much faster than matching: most chunks are tidy, and are returned as they are.
    if _surely_tidy(lines):
        return lines
    tidy = []
    for number, row in enumerate(lines.removesuffix(b"\n").split(b"\n"), start=first):
        is_tidy = _SPACED.match(row) and row.endswith(b" .") and not row.endswith(_LOOSE_ENDS)
        if not is_tidy:
            row = _parse_line(row, number, bad)
        tidy.append(row)
    return b"\n".join(tidy) + b"\n"


def _surely_tidy(lines: bytes) -> bool:
    """Test fast whether all lines are surely triples with single spaces. False means that each must be checked."""
    count = lines.count(b"\n")
    begun = lines.count(b"\n<") + lines.count(b"\n_:") + lines.startswith((b"<", b"_:"))
    if begun != count or lines.count(b" .\n") != count:
        return False
    if any(end + b"\n" in lines for end in _LOOSE_ENDS):
        return False
    # What looks like a missing or a second space may be part of a text; then the line as a whole is spaced correctly.
    position = 0
    while match := _MAYBE_NOT_SPACED.search(lines, position):
        line_start = lines.rfind(b"\n", 0, match.start()) + 1
        if not _SPACED.match(lines, line_start):
            return False
        position = lines.find(b"\n", match.start())
    return True


def _parse_line(line: bytes, number: int, bad: BadLineHandler) -> bytes:
    try:
        return _serialize(line)
    except SyntaxError as error:
        bad(number, f"is not N-Triples: {error.msg}")
        return b""


def _serialize(line: bytes) -> bytes:
    """Return the canonical form of a line as the engine writes it; empty for a line without a triple."""
    triples = list(parse(line, RdfFormat.N_TRIPLES, lenient=True))
    return (serialize(triples, format=RdfFormat.N_TRIPLES) or b"").removesuffix(b"\n")


def _canonical(kept: list[bytes], tidy: bytes, first: int, bad: BadLineHandler) -> list[bytes]:
    """Return the lines in canonical form, without unreadable ones; `tidy` has all lines from line `first` on."""
    if _surely_canonical(b"\n".join(kept)):
        return kept
    canonical = []
    for line in kept:
        if _is_canonical(line):
            canonical.append(line)
            continue
        try:
            canonical.append(_serialize(line))
        except SyntaxError as error:
            # Finding the number of a line is slow, so it is looked for only here.
            before = (b"\n" + tidy).find(b"\n" + line + b"\n")
            number = first + tidy.count(b"\n", 0, before)
            bad(number, f"is not N-Triples: {error.msg}")
    return canonical


def _is_canonical(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return _CANONICAL.fullmatch(line) is not None and _STRING not in line


def _surely_canonical(text: bytes) -> bool:
    """Test fast whether all lines are surely canonical. False means that each line must be checked."""
    if any(part in text for part in (rb"\u", rb"\U", rb"\'", rb"\b", rb"\f", _STRING)):
        return False
    if _CAPITALS.search(text):
        return False
    # Each triple with a text has two quotes that are not escaped: one after "> ", one at the end of the text.
    quotes = text.count(b'"') - text.count(rb"\"")
    if quotes != 2 * text.count(b'> "'):
        return False
    if len(text.translate(None, _CONTROL)) != len(text):  # without control characters
        return False
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def statement_line(subject: bytes, relation: bytes, value: bytes) -> bytes:
    """Return the line of a truthy item-valued statement, from three ids such as b"Q42", b"P31", b"Q5"."""
    return _STATEMENT % (subject, relation, value)


def value_lines(entity: str, relation: str, value: str) -> list[bytes]:
    """Return the lines of a truthy statement with a date or a quantity (`values.py`), as a full dump has them."""
    if value.startswith("^"):
        time, _, precision = value[1:].partition("/")
        literal = f'"{time}"^^<{XSD}dateTime>'
        parts = {"timeValue": literal, "timePrecision": f'"{precision}"^^<{XSD}integer>'}
    else:
        amount, _, unit = value.partition("Q")
        literal = f'"{amount}"^^<{XSD}decimal>'
        parts = {"quantityAmount": literal, "quantityUnit": f"<{ENTITY}Q{unit or _UNIT_OF_NUMBERS}>"}
    base = "http://www.wikidata.org/"
    name = blake2b(f"{relation} {value}".encode(), digest_size=16).hexdigest()
    item = f"<{ENTITY}{entity}>"
    node = f"<{ENTITY}statement/{entity}-{name}>"
    content = f"<{base}value/{name}>"
    lines = [
        f"{item} <{DIRECT}{relation}> {literal} .",
        f"{item} <{base}prop/{relation}> {node} .",
        f"{node} {_TYPE.decode()}<http://wikiba.se/ontology#BestRank> .",
        f"{node} <{base}prop/statement/value/{relation}> {content} .",
        *(f"{content} <http://wikiba.se/ontology#{part}> {term} ." for part, term in parts.items()),
    ]
    return [line.encode() for line in lines]


def text_line(entity: str, kind: str, text: str, language: str) -> bytes:
    """Return the line of a text of the `kind` "label", "alias" or "description"; lone surrogates become "?"."""
    written = Literal(text.encode("utf-8", errors="replace").decode(), language=language)
    return f"<{ENTITY}{entity}> <{KIND_IRIS[kind]}> {written} .".encode()


def statement_numbers(lines: Sequence[bytes]) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Return the id numbers (subject, property, object) of the truthy statements in `lines`: int64 [statements, 3]."""
    statements = _IDS.findall(b"\n".join(lines))
    numbers = b" ".join([b"%s %s %s" % ids for ids in statements]).decode()
    import numpy as np

    return np.fromstring(numbers, dtype=np.int64, sep=" ").reshape(-1, 3)


def names(lines: Iterator[bytes] | Sequence[bytes]) -> Iterator[Name]:
    """Yield the labels and aliases in the lines, as (id, text, language, kind)."""
    for line in lines:
        match = _NAME.fullmatch(line)
        kind = _KINDS.get(match[2]) if match else None
        if match and kind in ("label", "alias"):
            text = match[3].decode()
            if "\\" in text:
                text = _UNESCAPED.sub(_unescape, text)
            yield match[1].decode(), text, match[4].decode(), kind


def _unescape(match: re.Match[str]) -> str:
    """Return the character of an escape such as `\\u00e9` or `\\n`."""
    if match[1]:
        return chr(int(match[1], 16))
    return _CHARACTERS.get(match[2], match[2])
