"""All questions about ids (`Template`s): the version, the SPARQL (`queries.py`), and the function that reads the rows.

The name of a template ends in a version, which is part of the query log of a cache. The docstring of each query names
the row variables; the docstring of `Fact` describes the values.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from operator import itemgetter

from wikidata_cache.ids import LANGUAGES, is_entity, is_item, is_property, local_id
from wikidata_cache.sources import queries
from wikidata_cache.sources.source import Binding, Fact, Template

_TIME = re.compile(r"\+?(?P<sign>-?)(?P<year>\d+)-(?P<rest>\d\d-\d\dT\d\d:\d\d:\d\d)(\.0+)?(Z|\+00:00)?", re.ASCII)


def _read_out(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    statements: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for row in rows:
        if "o" in row:
            pair = local_id(row["p"]), local_id(row["o"])
            if is_property(pair[0]) and is_item(pair[1]):
                statements[local_id(row["s"])].add(pair)
    own = [Fact("out", entity, [list(pair) for pair in sorted(statements[entity])]) for entity in ids]

    # The labels and types of the values come in the same answer; a row about anything else is a wrong answer.
    about_values = [row for row in rows if "e" in row]
    values = {row["o"] for row in rows if "o" in row}
    if other := next((row["e"] for row in about_values if row["e"] not in values), None):
        raise ValueError(f"a row about {other[:80]!r}, which is not the value of any statement")
    objects = sorted({target for pairs in statements.values() for _, target in pairs})
    return own + _read_labels(objects, about_values) + _types(objects, about_values, "e", "t")


def _read_in(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in rows:
        found[local_id(row["e"])].append((local_id(row["s"]), local_id(row["p"])))
    facts = []
    for entity in ids:
        pairs = sorted([s, p] for s, p in set(found[entity]) if is_item(s) and is_property(p))
        facts.append(Fact("in", entity, None if len(found[entity]) > queries.HUB else pairs))
    return facts


def _read_degrees(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    counts = {local_id(row["e"]): int(row["n"]) for row in rows}
    if len(counts) < len(rows):
        raise ValueError("two counts of one id")
    return [Fact("degree", entity, counts.get(entity, 0)) for entity in ids]


def _read_claims(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    found: dict[str, set[tuple[str, str, str, str, str]]] = defaultdict(set)
    for row in rows:
        relation, target = local_id(row["p"]), local_id(row["o"])
        rank = row["rank"].rpartition("#")[2].removesuffix("Rank").lower()
        if is_property(relation) and is_item(target):
            claim = relation, target, rank, _time(row.get("start", "")), _time(row.get("end_time", ""))
            found[local_id(row["s"])].add(claim)
    return [Fact("claims", entity, [list(claim) for claim in sorted(found[entity])]) for entity in ids]


def _time(text: str) -> str:
    """Return an xsd:dateTime in the form that Wikidata writes; engines rewrite time zones and years BCE."""
    found = _TIME.fullmatch(text)
    return f"{found['sign']}{int(found['year']):04d}-{found['rest']}Z" if found else text


def _read_types(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    return _types(ids, rows, "s", "o")


def _types(ids: Iterable[str], rows: Sequence[Binding], subject: str, kind: str) -> list[Fact]:
    found = _gathered(rows, subject, kind)  # half of all rows; a FILTER in the query would cost more than checking here
    return [Fact("types", entity, sorted(filter(is_item, found[entity]))) for entity in ids]


def _read_labels(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    return [Fact("label", entity, best) for entity, best in _best_wordings(ids, rows)]


def _read_descriptions(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    return [Fact("description", entity, best and best[0]) for entity, best in _best_wordings(ids, rows)]


def _best_wordings(ids: Iterable[str], rows: Sequence[Binding]) -> list[tuple[str, list[str] | None]]:
    """Return (id, [text, language]) per id, in the first of LANGUAGES that has a text; (id, None) if none has."""
    ranked: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for row in rows:
        if row.get("l", "").strip():
            ranked[local_id(row["e"])].append((LANGUAGES.index(row["lang"]), row["l"]))
    best = {entity: min(found) for entity, found in ranked.items()}
    return [(e, [best[e][1], LANGUAGES[best[e][0]]] if e in best else None) for e in ids]


def _read_named(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        found[row["l"]].add(local_id(row["e"]))
    return [Fact("named", label, sorted(filter(is_entity, found[label]))) for label in ids]


def _read_mentioned(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    found = {local_id(row["e"]) for row in rows}
    return [Fact("mentioned", entity, entity in found) for entity in ids]


def _read_redirects(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    found = _gathered(rows, "s", "o")
    return [Fact("redirect", entity, min(found[entity], default=None)) for entity in ids]


def _gathered(rows: Sequence[Binding], subject: str, value: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if value in row:
            found[local_id(row[subject])].add(local_id(row[value]))
    return found


def _read_ends(ends: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    """Return facts with the value [number of entities of known type, [[type, number of its entities], ...]]."""
    found: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for row in rows:
        if "t" in row:
            found[row["r"]].add((local_id(row["e"]), local_id(row["t"])))
    facts = []
    for end in ends:
        counts = Counter(kind for _, kind in found[end])
        entities = {entity for entity, _ in found[end]}
        facts.append(Fact("ends", end, [len(entities), [[kind, n] for kind, n in sorted(counts.items())]]))
    return facts


def _read_at_end(keys: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    """Return facts with the value True or False: whether the item is at that end of the relation in any statement."""
    found = {f"{row['r']} {local_id(row['e'])}" for row in rows if "e" in row}
    return [Fact("at_end", key, key in found) for key in keys]


def _subject(row: Binding) -> str:
    return local_id(row["s"])


def _entity(row: Binding) -> str:
    return local_id(row["e"])


def _statement(row: Binding) -> str | None:
    """Return the subject of a row of "out"; None for a row about an object, which `_read_out` checks."""
    return None if "e" in row and "s" not in row else _subject(row)


def _place(row: Binding) -> str:
    return f"{row['r']} {_entity(row)}"


OUT = Template("out/1", "out", queries.out_query, _read_out, _statement)
IN = Template("in/1", "in", queries.in_query, _read_in, _entity, size=20)
DEGREE = Template("degree/1", "degree", queries.degree_query, _read_degrees, _entity, size=50)
CLAIMS = Template("claims/1", "claims", queries.claims_query, _read_claims, _subject)
TYPES = Template("types/1", "types", queries.types_query, _read_types, _subject)
LABELS = Template("labels/1", "label", queries.labels_query, _read_labels, _entity)
DESCRIPTIONS = Template("descriptions/1", "description", queries.descriptions_query, _read_descriptions, _entity)
NAMED = Template("named/1", "named", queries.named_query, _read_named, itemgetter("l"), size=25)
MENTIONED = Template("mentioned/1", "mentioned", queries.mentioned_query, _read_mentioned, _entity)
REDIRECTS = Template("redirects/1", "redirect", queries.redirects_query, _read_redirects, _subject)
ENDS = Template("ends/1", "ends", queries.ends_query, _read_ends, itemgetter("r"), size=10)
AT_END = Template("at_end/1", "at_end", queries.at_end_query, _read_at_end, _place)


TEMPLATES = {
    template.kind: template
    for template in (OUT, IN, DEGREE, CLAIMS, TYPES, LABELS, DESCRIPTIONS, NAMED, MENTIONED, REDIRECTS, ENDS, AT_END)
}
