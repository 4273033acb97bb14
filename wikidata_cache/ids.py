"""Wikidata ids and IRIs: constants, checks and conversions that all modules share.

An item id is Q and a number, a property id P and a number (https://www.wikidata.org/wiki/Wikidata:Identifiers).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from kg_common.ids import is_entity
from wikidata_cache.errors import BadOptionError

ENTITY = "http://www.wikidata.org/entity/"
DIRECT = "http://www.wikidata.org/prop/direct/"
RDFS_LABEL = "http://www.w3.org/2000/01/rdf-schema#label"
SAME_AS = "http://www.w3.org/2002/07/owl#sameAs"  # of an item that was merged into another one
WIKIDATA_API = "https://www.wikidata.org/w/api.php"

_WIKIDATA = "http://www.wikidata.org/"
_NAMESPACES = {_WIKIDATA + path for path in ("entity", "prop/direct", "prop/statement", "prop/statement/value")}


class Statement(NamedTuple):
    """A truthy statement whose value is an item, as three ids: for example Q1345 P17 Q30."""

    subject: str
    property: str
    object: str


def is_text(text: str) -> bool:
    """Return whether a text can be encoded as UTF-8, so that RDF and files can hold it: it has no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_ids(ids: Iterable[str]) -> list[str]:
    """Return the distinct ids, sorted as text; raise BadOptionError for a text that is not an id."""
    distinct = sorted(set(ids))
    for entity in distinct:
        if not is_entity(entity):
            raise BadOptionError(
                f"{entity!r} is not a Wikidata id: expected Q or P and a number, such as Q42. "
                f"To find the id of a label, use `wikidata-cache find LABEL` (WikidataCache.find)."
            )
    return distinct


def local_id(iri: str) -> str:
    """Return the id in a Wikidata IRI: "Q42" for "http://www.wikidata.org/entity/Q42"; "" for any other IRI."""
    namespace, _, name = iri.rpartition("/")
    return name if namespace in _NAMESPACES else ""
