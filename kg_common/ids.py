"""Wikidata ids: an item is Q and a number, a property P and a number."""

from __future__ import annotations

import re

_ITEM = re.compile(r"Q[1-9][0-9]*", re.ASCII)
_PROPERTY = re.compile(r"P[1-9][0-9]*", re.ASCII)
_ADDRESS = re.compile(r"https?://www\.wikidata\.org/(?:entity|wiki|prop/direct)/(?:Property:)?([QP][0-9]+)")


def is_item(text: str) -> bool:
    """Return whether the text is an item id such as Q42."""
    return _ITEM.fullmatch(text) is not None


def is_property(text: str) -> bool:
    """Return whether the text is a property id such as P31."""
    return _PROPERTY.fullmatch(text) is not None


def is_entity(text: str) -> bool:
    """Return whether the text is an item id or a property id."""
    return is_item(text) or is_property(text)


def bare_id(text: str) -> str:
    """Return the id in an entity's web address, such as https://www.wikidata.org/wiki/Q42; return other text as is."""
    address = _ADDRESS.fullmatch(text)
    return address[1] if address else text
