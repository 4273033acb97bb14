"""Wikidata's JSON dump, an entity a line, into the N-Triples that its truthy RDF dump has for the same entity.

Format: https://doc.wikimedia.org/Wikibase/master/php/docs_topics_json.html. Of the statements of a property only those
of the best rank are kept (truthy), and of these the item-valued ones.
"""

import json
from collections.abc import Collection, Iterator
from typing import Any

from wikidata_cache.ids import is_entity, is_item, is_property
from wikidata_cache.stores.chunks import Chunk
from wikidata_cache.stores.ntriples import BadLineHandler, LineTranslator, statement_line, text_line

Json = Any

_RANKS = ("preferred", "normal")  # the best one that is there is truthy; deprecated never is


def entities(languages: Collection[str], bad: BadLineHandler) -> LineTranslator:
    """A translator of lines of a JSON dump: item-valued statements of best rank, labels, aliases, descriptions."""

    def translate(lines: bytes, first: int) -> list[bytes]:
        kept: list[bytes] = []
        for number, line in enumerate(lines.split(b"\n"), start=first):
            text = line.strip().rstrip(b",")
            if text in (b"", b"[", b"]"):
                continue
            try:
                kept += _entity(json.loads(text), languages)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                bad(number, f"is no entity of a Wikidata JSON dump ({type(error).__name__}: {error})")
        return kept

    return translate


def check_array_closed(chunks: Iterator[Chunk], cut_off: BadLineHandler) -> Iterator[Chunk]:
    """The same chunks; before the last one `cut_off` is called where no line `]` closes the array."""
    held: Chunk | None = None
    last, number = b"]", 0
    for chunk in chunks:
        if text := chunk.lines.rstrip():
            last, number = text[text.rfind(b"\n") + 1 :].strip(), chunk.first + text.count(b"\n")
        if held:
            yield held
        held = chunk
    if last != b"]":
        problem = f"the file is cut off: a dump that begins with '[' ends with ']', and this one with {last[-40:]!r}"
        cut_off(number, problem)
    if held:
        yield held


def _entity(entity: Json, languages: Collection[str]) -> Iterator[bytes]:
    name = entity["id"]
    if is_entity(name):  # not a lexeme
        yield from _texts(name, entity, languages)
        if is_item(name):
            yield from _statements(name, entity)


def _statements(item: str, entity: Json) -> Iterator[bytes]:
    claims = entity.get("claims") or {}  # PHP writes an empty map as []
    for relation, statements in claims.items():
        ranks = {statement["rank"] for statement in statements}
        best = next((rank for rank in _RANKS if rank in ranks), None)
        values = dict.fromkeys(_item_value(statement) for statement in statements if statement["rank"] == best)
        for value in values:
            if value and is_property(relation):
                yield statement_line(item.encode(), relation.encode(), value.encode())


def _item_value(statement: Json) -> str | None:
    """The item that a statement has as its value; None for unknown values, no values and other types."""
    snak = statement["mainsnak"]
    if snak["snaktype"] != "value" or snak["datavalue"]["type"] != "wikibase-entityid":
        return None
    value = snak["datavalue"]["value"]
    name = value.get("id") or f"{'Q' if value['entity-type'] == 'item' else 'P'}{value['numeric-id']}"
    return name if is_item(name) else None


def _texts(name: str, entity: Json, languages: Collection[str]) -> Iterator[bytes]:
    for kind, key in (("label", "labels"), ("description", "descriptions"), ("alias", "aliases")):
        found = entity.get(key) or {}
        for language in languages:
            said = found.get(language) or ()
            for text in said if kind == "alias" else [said] if said else ():
                yield text_line(name, kind, text["value"], language)
