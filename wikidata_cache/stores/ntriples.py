"""Filter N-Triples fast, in blocks of megabytes: one regular expression finds the lines that this package needs.

The kept lines are truthy item-valued statements, redirects, and labels, aliases and descriptions in the wanted
languages; of full dumps also the statement nodes of items with their item values, ranks, start and end times. On
request, dates and quantities are kept too, with precision and unit where the file has them. All other inputs are turned
into such lines (`statement_line`, `text_line`, `value_lines`). Line endings are not part of a line. Format:
https://www.w3.org/TR/n-triples/.

A block goes through three steps. `_tidy` makes every line a triple with single spaces, or empty. A pattern picks the
lines that are needed. `_canonicalize` gives them the form in which the engine writes them, so that equal triples are
equal bytes in every store. Both `_tidy` and `_canonicalize` first test a whole block at once (`_is_surely_tidy`,
`_looks_canonical`) and go through its lines only if the test fails, which is rare.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

from pyoxigraph import Literal, RdfFormat, parse, serialize

from wikidata_cache.ids import DIRECT, ENTITY, RDFS_LABEL
from wikidata_cache.languages import Languages
from wikidata_cache.values import DATATYPES, XSD

if TYPE_CHECKING:  # only `load` needs numpy
    import numpy as np

# Called with the number of an unreadable line and its problem. It raises GraphFileError, or counts the line; then the
# translator goes on with the next one (`BadLines.report` in `inputs.py`).
BadLineHandler = Callable[[int, str], None]
# (whole lines, number of the first line) -> N-Triples lines. The last of the whole lines has a line end, too.
LineTranslator = Callable[[bytes, int], list[bytes]]

_WIKIDATA = rb"http://www\.wikidata\.org/"
_ONTOLOGY = rb"http://wikiba\.se/ontology#"
_ITEM = rb"<" + _WIKIDATA + rb"entity/Q[0-9]+>"
_NODE = rb"<" + _WIKIDATA + rb"entity/statement/[^>\n]+>"
_TEXTS = rb"<http://(?:www\.w3\.org/(?:2000/01/rdf-schema#label|2004/02/skos/core#altLabel)|schema\.org/description)>"
_TIME = rb'"[^"\n]*"\^\^<http://www\.w3\.org/2001/XMLSchema#dateTime>'
_RDF_TYPE = "<http://www.w3.org/1999/02/22-rdf-syntax-ns#type>"
_LITERAL = rb'"[^"\n]*"\^\^<' + XSD.encode() + rb"(?:" + "|".join(DATATYPES).encode() + rb")>"
_ANY_LANGUAGE = rb"[a-z0-9-]+"
_VALUE = rb"<" + _WIKIDATA + rb"value/[^>\n]+>"

# A canonical line: plain characters (subject, predicate, an object that is no text), then a text, if there is one, then
# " .". The text may have the escapes \n, \r, \t, \" and \\; after it comes a language in small letters or a type. For
# other control characters, the engine writes \b, \f or such as \u0007. A line that has one of these doesn't match: it
# is parsed and written again.
_PLAIN = rb'[^"\\\x00-\x1f\x7f]*'
_CANONICAL = re.compile(
    _PLAIN + rb'(?:"' + _PLAIN + rb'(?:\\[nrt"\\]' + _PLAIN + rb')*"(?:@[a-z0-9-]+|\^\^<[^>"]*>)?)? \.'
)
_STRING = f"^^<{XSD}string>".encode()  # which the engine leaves out: it is the type of every text
_CONTROL_ESCAPES = (rb"\u", rb"\b", rb"\f")  # which a canonical line may have, for control characters
_NEVER_WRITTEN = (rb"\U", rb"\'", _STRING)  # by the engine
_CONTROL = bytes([*range(10), *range(11, 32), 127])  # control characters but for the line end
_CAPITALS = re.compile(rb'"@[a-z0-9-]*[A-Z]')  # a language with a capital

# N-Triples also allows no space, or several, between two terms; a text may contain the same characters.
_SPACED = re.compile(rb'(?:<[^>]*>|_:[^\s<>"]+) <[^>]*> [<"_]')  # subject, predicate, begin of the object
_LOOSE_ENDS = (b"  .", b"\t .")
_LOOSE_BLANK_SUBJECT = re.compile(rb'\n_:(?![^\s<>"]+ <)')  # _:a<p> or _:a  <p>, but not _:a <p>
_MAYBE_NOT_SPACED = re.compile(rb'>(?:[<"_\t]| [ \t])')  # <s><p> or <s>  <p>

# A blank node as the subject, before the predicate, or as the object, before the end of the line. What surrounds it is
# a part of the pattern, since a text may contain the same characters.
_BLANK = re.compile(rb"(?m)^_:([^\s<>\"]+)(?= <)|(?<=> )_:([^\s<>\"]+)(?= \.$)")
_GENID = b"<http://www.wikidata.org/.well-known/genid/%s-%s>"

KIND_IRIS = {
    "label": RDFS_LABEL,
    "alias": "http://www.w3.org/2004/02/skos/core#altLabel",
    "description": "http://schema.org/description",
}
_KINDS = {iri.encode(): kind for kind, iri in KIND_IRIS.items()}
_STATEMENT = f"<{ENTITY}%s> <{DIRECT}%s> <{ENTITY}%s> .".encode()
# The numbers of a statement's ids. A number of 18 digits fits into an int64.
_IDS = re.compile(
    rb"<http://www\.wikidata\.org/entity/Q([0-9]{1,18})> <http://www\.wikidata\.org/prop/direct/P([0-9]{1,18})> "
    rb"<http://www\.wikidata\.org/entity/Q([0-9]{1,18})> \."
)
_UNIT_OF_NUMBERS = 199  # Q199, the number one
_NAME = re.compile(rb"<" + _WIKIDATA + rb'entity/([QP][0-9]+)> <([^>]+)> "(.*)"@([a-z0-9-]+) \.')
# An escape in a canonical line. The engine writes a text with a bell, a quote and a line end as "\u0007 \" \n".
_ESCAPE = re.compile(r"\\(?:u([0-9A-F]{4})|(.))")
_CHARACTERS = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}

Name = tuple[str, str, str, str]  # id, text, language, kind


def wanted_lines_translator(
    on_bad_line: BadLineHandler, *, values: bool, languages: Languages | None
) -> LineTranslator:
    """Return a translator that keeps the lines of N-Triples that are needed, with `values` also dates and quantities.

    `on_bad_line` is called for unreadable lines. Texts are kept in these languages, or in all for None.
    """
    pattern = _make_wanted_pattern(values=values, languages=languages)

    def translate(lines: bytes, first: int) -> list[bytes]:
        tidy = _tidy(lines, first, on_bad_line)
        wanted: list[bytes] = pattern.findall(b"\n" + tidy)  # a match begins at the line end before its line
        return _canonicalize(wanted, tidy, first, on_bad_line)

    return translate


def _make_wanted_pattern(*, values: bool, languages: Languages | None) -> re.Pattern[bytes]:
    """Return the pattern of a wanted line after the end of the line before it; its group is the line.

    It reads: the subject is an item or a property, and predicate and object one of four kinds; or the subject is a
    statement node, and so on. The line end after the line is not consumed, since it begins the next match. The comments
    show what each alternative finds, with wd: and others for the IRIs, as in Wikidata's documentation.
    """
    codes = _ANY_LANGUAGE
    if languages is not None:
        codes = b"|".join(re.escape(language.encode()) for language in languages)
    # Predicate and object, by the kind of the subject.
    after_entity = [
        rb"<" + _WIKIDATA + rb"prop/direct/P[0-9]+> " + _ITEM,  # wdt:P31 wd:Q5
        _TEXTS + rb' "[^\n]*"@(?i:' + codes + rb")",  # rdfs:label "Douglas Adams"@en
        rb"<http://www\.w3\.org/2002/07/owl#sameAs> <" + _WIKIDATA + rb"entity/[QP][0-9]+>",  # owl:sameAs wd:Q42
        rb"<" + _WIKIDATA + rb"prop/P[0-9]+> " + _NODE,  # p:P31 wds:Q42-F078E5B3
    ]
    after_node = [
        rb"<" + _WIKIDATA + rb"prop/statement/P[0-9]+> " + _ITEM,  # ps:P31 wd:Q5
        rb"<" + _ONTOLOGY + rb"rank> <" + _ONTOLOGY + rb"[A-Za-z]+Rank>",  # wikibase:rank wikibase:NormalRank
        rb"<" + _WIKIDATA + rb"prop/qualifier/P58[02]> " + _TIME,  # pq:P580 "1991-11-25T00:00:00Z"^^xsd:dateTime
    ]
    after_value = []
    if values:
        # wdt:P2048 "+1.96"^^xsd:decimal
        after_entity.append(rb"<" + _WIKIDATA + rb"prop/direct/P[0-9]+> " + _LITERAL)
        # rdf:type wikibase:BestRank
        after_node.append(re.escape(_RDF_TYPE.encode()) + rb" <" + _ONTOLOGY + rb"BestRank>")
        # psv:P2048 wdv:5ee9cd9f
        after_node.append(rb"<" + _WIKIDATA + rb"prop/statement/value/P[0-9]+> " + _VALUE)
        # wikibase:quantityAmount "+1.96"^^xsd:decimal
        after_value.append(rb"<" + _ONTOLOGY + rb"(?:timeValue|timePrecision|quantityAmount)> " + _LITERAL)
        # wikibase:quantityUnit wd:Q11573
        after_value.append(rb"<" + _ONTOLOGY + rb"quantityUnit> " + _ITEM)
    triples = [
        rb"entity/[QP][0-9]+> (?:" + b"|".join(after_entity) + rb")",
        rb"entity/statement/[^>\n]+> (?:" + b"|".join(after_node) + rb")",
    ]
    if after_value:
        triples.append(rb"value/[^>\n]+> (?:" + b"|".join(after_value) + rb")")
    return re.compile(rb"\n(<" + _WIKIDATA + rb"(?:" + b"|".join(triples) + rb") \.)(?=\n)")


def all_lines_translator(name: str, on_bad_line: BadLineHandler) -> LineTranslator:
    """Return a translator of N-Triples that keeps every triple; `on_bad_line` is called for unreadable lines.

    Blank nodes become IRIs, as on Wikidata's own endpoint. The label of a blank node is local to its file, so the IRI
    contains a hash of `name`, which no other file of the load has.
    """
    mark = blake2b(os.fsencode(name), digest_size=4).hexdigest().encode()

    def name_blank_node(match: re.Match[bytes]) -> bytes:
        return _GENID % (mark, match[1] or match[2])

    def translate(lines: bytes, first: int) -> list[bytes]:
        tidy = _BLANK.sub(name_blank_node, _tidy(lines, first, on_bad_line))
        triples = [line for line in tidy.split(b"\n") if line.startswith(b"<")]
        return _canonicalize(triples, tidy, first, on_bad_line)

    return translate


def _tidy(lines: bytes, first: int, on_bad_line: BadLineHandler) -> bytes:
    """Return the same number of lines; each is empty, or a triple with single spaces and " ." at its end."""
    # Counting is much faster than matching: most chunks are tidy, and are returned as they are.
    if _is_surely_tidy(lines):
        return lines
    tidy = []
    for number, line in enumerate(lines.removesuffix(b"\n").split(b"\n"), start=first):
        is_tidy = _SPACED.match(line) and line.endswith(b" .") and not line.endswith(_LOOSE_ENDS)
        if is_tidy:
            tidy.append(line)
        else:
            tidy.append(_parse_line(line, number, on_bad_line))
    return b"\n".join(tidy) + b"\n"


def _is_surely_tidy(lines: bytes) -> bool:
    """Test fast whether all lines begin with a subject, have single spaces, and end with " .".

    False means that each line must be checked. Each step catches the lines in its comment.
    """
    count = lines.count(b"\n")
    with_iri = lines.count(b"\n<") + lines.startswith(b"<")
    with_blank_node = lines.count(b"\n_:") + lines.startswith(b"_:")
    if with_iri + with_blank_node != count:  # "# a comment", an empty line, or " <s> <p> <o> ."
        return False
    if lines.count(b" .\n") != count:  # "<s> <p> <o>."
        return False
    for end in _LOOSE_ENDS:
        if end + b"\n" in lines:  # "<s> <p> <o>  ."
            return False
    if with_blank_node and _LOOSE_BLANK_SUBJECT.search(b"\n" + lines):  # "_:a  <p> <o> ."
        return False
    return not _has_loose_iri(lines)


def _has_loose_iri(lines: bytes) -> bool:
    """Return whether no space, or several, follow an IRI, as in "<s>  <p> <o> ." or "<s> <p><o> ."."""
    position = 0
    while True:
        match = _MAYBE_NOT_SPACED.search(lines, position)
        if match is None:
            return False
        # The match may be a part of a text, as in `<s> <p> "a  <b>  c" .`. Then the line as a whole is spaced
        # correctly, and the search goes on at its line end, which every line has.
        line_start = lines.rfind(b"\n", 0, match.start()) + 1
        if not _SPACED.match(lines, line_start):
            return True
        position = lines.find(b"\n", match.start())


def _parse_line(line: bytes, number: int, on_bad_line: BadLineHandler) -> bytes:
    """Return the canonical form of a line; empty for one without a triple, and for an unreadable one."""
    try:
        return _serialize(line)
    except SyntaxError as error:
        on_bad_line(number, f"is not N-Triples: {error.msg}")
        return b""


def _serialize(line: bytes) -> bytes:
    """Return the canonical form of a line as the engine writes it; empty for a line without a triple."""
    triples = list(parse(line, RdfFormat.N_TRIPLES, lenient=True))
    return (serialize(triples, format=RdfFormat.N_TRIPLES) or b"").removesuffix(b"\n")


def _canonicalize(kept: list[bytes], tidy: bytes, first: int, on_bad_line: BadLineHandler) -> list[bytes]:
    """Return the lines in canonical form, without unreadable ones.

    Args:
        kept: the lines that are needed.
        tidy: all lines of the block, in which the number of an unreadable one is looked for.
        first: number of the first line of the block.
        on_bad_line: called for each unreadable line.
    """
    if _looks_canonical(b"\n".join(kept)):
        return kept
    canonical = []
    for line in kept:
        if _is_canonical(line):
            canonical.append(line)
            continue
        try:
            canonical.append(_serialize(line))
        except SyntaxError as error:
            on_bad_line(_find_number(line, tidy, first), f"is not N-Triples: {error.msg}")
    return canonical


def _find_number(line: bytes, block: bytes, first: int) -> int:
    """Return the number of a line of a block whose first line has the number `first`. This is slow.

    Of two equal lines it is the number of the first one.
    """
    start = 0
    if not block.startswith(line + b"\n"):
        start = block.index(b"\n" + line + b"\n") + 1
    return first + block.count(b"\n", 0, start)


def _is_canonical(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return _CANONICAL.fullmatch(line) is not None and _STRING not in line


def _looks_canonical(text: bytes) -> bool:
    """Test fast whether all lines are canonical. False means that each line must be checked.

    Quotes are only counted, so a malformed line may pass; the engine's parser, which reads the lines later, refuses it.
    """
    for part in _CONTROL_ESCAPES + _NEVER_WRITTEN:
        if part in text:
            return False
    if _CAPITALS.search(text):
        return False
    # Each triple with a text has two quotes that are not escaped: one after "> ", one at the end of the text. A text
    # that ends in a backslash, written as "a\\", fails this test, which only costs the check of each line.
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
    """Return the lines of a truthy statement with a date or a quantity, as a full dump has them.

    For the height 206 cm of Q42, with the hash of property and value as the name of the nodes:

        wd:Q42        wdt:P2048                "206"^^xsd:decimal
        wd:Q42        p:P2048                  wds:Q42-HASH
        wds:Q42-HASH  rdf:type                 wikibase:BestRank
        wds:Q42-HASH  psv:P2048                wdv:HASH
        wdv:HASH      wikibase:quantityAmount  "206"^^xsd:decimal
        wdv:HASH      wikibase:quantityUnit    wd:Q174728

    Args:
        entity: the id of the subject.
        relation: the id of the property.
        value: the date or the quantity in the form of `values.py`, such as "^1984-12-30T00:00:00Z/11" or "206Q174728".
    """
    if value.startswith("^"):
        time, _, precision = value[1:].partition("/")
        literal = f'"{time}"^^<{XSD}dateTime>'
        details = {"timeValue": literal, "timePrecision": f'"{precision}"^^<{XSD}integer>'}
    else:
        amount, _, unit = value.partition("Q")
        literal = f'"{amount}"^^<{XSD}decimal>'
        details = {"quantityAmount": literal, "quantityUnit": f"<{ENTITY}Q{unit or _UNIT_OF_NUMBERS}>"}
    base = "http://www.wikidata.org/"
    name = blake2b(f"{relation} {value}".encode(), digest_size=16).hexdigest()
    item = f"<{ENTITY}{entity}>"
    node = f"<{ENTITY}statement/{entity}-{name}>"
    value_node = f"<{base}value/{name}>"
    lines = [
        f"{item} <{DIRECT}{relation}> {literal} .",
        f"{item} <{base}prop/{relation}> {node} .",
        f"{node} {_RDF_TYPE} <http://wikiba.se/ontology#BestRank> .",
        f"{node} <{base}prop/statement/value/{relation}> {value_node} .",
    ]
    for predicate, term in details.items():
        lines.append(f"{value_node} <http://wikiba.se/ontology#{predicate}> {term} .")
    return [line.encode() for line in lines]


def text_line(entity: str, kind: str, text: str, language: str) -> bytes:
    """Return the line of a text of the `kind` "label", "alias" or "description"; lone surrogates become "?"."""
    written = Literal(text.encode("utf-8", errors="replace").decode(), language=language)
    return f"<{ENTITY}{entity}> <{KIND_IRIS[kind]}> {written} .".encode()


def statement_numbers(lines: Sequence[bytes]) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Return the id numbers (subject, property, object) of the truthy statements in `lines`: int64 [statements, 3]."""
    statements = _IDS.findall(b"\n".join(lines))
    numbers = b" ".join([b"%s %s %s" % ids for ids in statements]).decode()  # parsed as one text, which is fast
    import numpy as np

    return np.fromstring(numbers, dtype=np.int64, sep=" ").reshape(-1, 3)


def read_names(lines: Iterator[bytes] | Sequence[bytes]) -> Iterator[Name]:
    """Yield the labels and aliases in the lines, as (id, text, language, kind)."""
    for line in lines:
        match = _NAME.fullmatch(line)
        if match is None:
            continue
        entity, iri, text, language = match.groups()
        kind = _KINDS.get(iri)
        if kind in ("label", "alias"):
            yield entity.decode(), _unescape(text.decode()), language.decode(), kind


def _unescape(text: str) -> str:
    """Return a text with the characters for which its escapes stand."""
    if "\\" not in text:
        return text
    return _ESCAPE.sub(_read_escape, text)


def _read_escape(match: re.Match[str]) -> str:
    """Return the character of an escape such as `\\u0007` or `\\n`."""
    if match[1]:
        return chr(int(match[1], 16))
    return _CHARACTERS.get(match[2], match[2])
