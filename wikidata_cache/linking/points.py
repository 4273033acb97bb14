"""How many points each kind of evidence is worth. Names decide first, then the relation, then how much is said."""

import math
from collections.abc import Mapping

from wikidata_cache.labels.label_index import Match
from wikidata_cache.labels.names import normalise, words
from wikidata_cache.linking.candidates import Reason
from wikidata_cache.linking.knowledge import About
from wikidata_cache.linking.relation_values import Ends

ID = 30.0  # the text is the entity's id
STATED = 20.0  # subject, relation and object are stated together in the graph
LABEL = 10.0  # the label, written exactly so
ALIAS = 8.0  # another name, written exactly so
OTHERWISE_WRITTEN = -1.0  # a name but for case, accents and spaces
WORDS = 3.0  # all words of the text are in a name
FOUND = 1.0  # a search gives it for the text, though its names say otherwise
TYPE = 3.0  # of a type that the relation's other values (or subjects) have
OTHER_TYPE = -2.0  # of other types
AT_THIS_END = 4.0  # is a value (or subject) of the relation elsewhere in the graph
LIKE_OLD = 1.0  # the new target is of a type of the old one
IN_GRAPH = 1.0  # the graph states something about it
TENFOLD = 1.0  # ten times as many statements

_COMMON = 0.1  # a type that a tenth of a relation's values have is what the relation expects

_ENOUGH = 30  # entities; of fewer, an absent type says nothing


def for_name(match: Match, text: str) -> Reason:
    """How the text and the name agree."""
    kind = "label" if match.kind == "label" else "alias"
    points = LABEL if match.kind == "label" else ALIAS
    if match.text == text:
        return Reason(points, f"its {kind}, written exactly so")
    if normalise(match.text) == normalise(text):
        return Reason(points + OTHERWISE_WRITTEN, f"its {kind}, written {match.text!r}")
    if set(words(normalise(text))) <= set(words(normalise(match.text))):
        return Reason(WORDS, f"all words are in its {kind} {match.text!r}")
    return Reason(FOUND, f"found by a search; its {kind} is {match.text!r}")


def for_type(about: About, ends: Ends, names: Mapping[str, str]) -> Reason | None:
    """Whether the entity is of a type that the relation's sampled values (or subjects) have; None if unknown."""
    if not about.types:
        return None
    best = max(sorted(about.types), key=lambda kind: ends.shares.get(kind, 0.0))
    share = ends.shares.get(best, 0.0)
    who = "values" if ends.role == "object" else "subjects"
    if share >= _COMMON:
        return Reason(TYPE, f"{names.get(best, best)}, as {share:.0%} of the {who} of {ends.relation}")
    if share > 0:
        return Reason(TYPE / 2, f"{names.get(best, best)}, as few of the {who} of {ends.relation}")
    if ends.sampled < _ENOUGH:
        return None
    return Reason(OTHER_TYPE, f"of no type that the {who} of {ends.relation} have")


def for_statements(about: About) -> Reason:
    """Whether the graph states anything about the entity, and how much."""
    if about.statements is None:
        return Reason(0.0, "the cache does not hold its statements")
    if not (number := len(about.statements)):
        return Reason(0.0, "nothing is stated about it")
    said = f"{number} statements" if number > 1 else "one statement"
    return Reason(IN_GRAPH + round(TENFOLD * math.log10(number), 1), f"{said} about it")
