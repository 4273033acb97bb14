"""Wikidata's ids and the IRIs that carry them.

Which release this is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from wikidata_cache.errors import BadOptionError

ENTITY = "http://www.wikidata.org/entity/"
DIRECT = "http://www.wikidata.org/prop/direct/"
RDFS_LABEL = "http://www.w3.org/2000/01/rdf-schema#label"
WIKIDATA_API = "https://www.wikidata.org/w/api.php"

_ITEM = re.compile(r"Q[1-9][0-9]*", re.ASCII)
_PROPERTY = re.compile(r"P[1-9][0-9]*", re.ASCII)


class Statement(NamedTuple):
    """A truthy item-valued statement, by id: Q1345 P17 Q30."""

    subject: str
    property: str
    object: str


def is_item(text: str) -> bool:
    """Whether the text is an item id such as Q42."""
    return _ITEM.fullmatch(text) is not None


def is_property(text: str) -> bool:
    """Whether the text is a property id such as P31."""
    return _PROPERTY.fullmatch(text) is not None


def is_entity(text: str) -> bool:
    """Whether the text is an item or a property id."""
    return is_item(text) or is_property(text)


def local_id(iri: str) -> str:
    """The id at the end of a Wikidata IRI."""
    return iri.rpartition("/")[2]


def check_ids(ids: Iterable[str]) -> list[str]:
    """The distinct ids, sorted; BadOptionError where one is neither Q.. nor P.. (as a label would be)."""
    distinct = sorted(set(ids))
    for entity in distinct:
        if not is_entity(entity):
            raise BadOptionError(
                f"{entity!r} is not a Wikidata id: expected Q or P and a number, such as Q42. "
                f"To find the id of a label, use `wikidata-cache find LABEL` (WikidataCache.find)."
            )
    return distinct


def release() -> str:
    """The installed version, or "0" where the package runs uninstalled."""
    try:
        return version("kg-edit")
    except PackageNotFoundError:
        return "0"


# English first; "mul" holds the names for which Wikidata has deleted the English copy.
LANGUAGES = ("en", "mul", "en-gb", "en-ca", "en-us", "simple")
