"""Lines of N-Triples in canonical form, without line end: the one language of all inputs, and what is in them."""

import re
from collections.abc import Iterator, Sequence

import numpy as np

from wikidata_cache.ids import DIRECT, ENTITY, RDFS_LABEL

KIND_IRIS = {
    "label": RDFS_LABEL,
    "alias": "http://www.w3.org/2004/02/skos/core#altLabel",
    "description": "http://schema.org/description",
}
_KINDS = {iri.encode(): kind for kind, iri in KIND_IRIS.items()}
_STATEMENT = f"<{ENTITY}%s> <{DIRECT}%s> <{ENTITY}%s> .".encode()
_ESCAPES = str.maketrans(
    {chr(code): f"\\u{code:04X}" for code in (*range(32), 127)}
    | {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
)
_IDS = re.compile(
    rb"<http://www\.wikidata\.org/entity/Q([0-9]{1,18})> <http://www\.wikidata\.org/prop/direct/P([0-9]{1,18})> "
    rb"<http://www\.wikidata\.org/entity/Q([0-9]{1,18})> \."
)
_NAME = re.compile(rb'<[^>]+/([QP][0-9]+)> <([^>]+)> "(.*)"@([a-z-]+) \.')
_UNESCAPED = re.compile(r"\\(?:u([0-9A-F]{4})|(.))")
_CHARACTERS = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}

Name = tuple[str, str, str, str]  # id, text, language, kind


def statement_line(subject: bytes, relation: bytes, value: bytes) -> bytes:
    """A truthy item-valued statement."""
    return _STATEMENT % (subject, relation, value)


def text_line(entity: str, kind: str, text: str, language: str) -> bytes:
    """A label, alias or description; half characters, which no file can hold, become "?"."""
    line = f'<{ENTITY}{entity}> <{KIND_IRIS[kind]}> "{text.translate(_ESCAPES)}"@{language} .'
    return line.encode("utf-8", errors="replace")


def statement_numbers(lines: Sequence[bytes]) -> "np.ndarray[tuple[int, int], np.dtype[np.int64]]":
    """The numbers of subject, property and object of each statement among the lines, one row each."""
    found = _IDS.findall(b"\n".join(lines))
    numbers = b" ".join([b"%s %s %s" % ids for ids in found]).decode()
    return np.fromstring(numbers, dtype=np.int64, sep=" ").reshape(-1, 3)


def names(lines: Iterator[bytes] | Sequence[bytes]) -> Iterator[Name]:
    """The labels and aliases among the lines."""
    for line in lines:
        found = _NAME.fullmatch(line)
        kind = _KINDS.get(found[2]) if found else None
        if found and kind in ("label", "alias"):
            text = found[3].decode()
            yield found[1].decode(), _plain(text) if "\\" in text else text, found[4].decode(), kind


def _plain(text: str) -> str:
    return _UNESCAPED.sub(
        lambda found: chr(int(found[1], 16)) if found[1] else _CHARACTERS.get(found[2], found[2]), text
    )
