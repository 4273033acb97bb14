"""All questions about ids (`Template`s). Each has its SPARQL, and the function that reads the rows of the answer.

The name of a template ends in a version, which is part of the query log of a cache. The docstring of `Fact` describes
the values. `queries.py` has the rules that all queries follow.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from pyoxigraph import Literal

from kg_common.ids import is_entity, is_item, is_property
from wikidata_cache.ids import DIRECT, ENTITY, LANGUAGES, RDFS_LABEL, SAME_AS, local_id
from wikidata_cache.sources.queries import HUB, RelationEnd, marked_select, parse_item_at_end, parse_relation_end
from wikidata_cache.sources.source import Binding, Fact, Template
from wikidata_cache.values import DATATYPES, XSD, date_value, literal_value, quantity_value

_WIKIDATA = "http://www.wikidata.org/"
_RANK = "http://wikiba.se/ontology#"
_RDFS_LABEL = f"<{RDFS_LABEL}>"
_DESCRIPTION = "<http://schema.org/description>"
_LANGUAGES = ", ".join(f'"{language}"' for language in LANGUAGES)
_SAMPLE = 1_000  # entities to sample at an end of a relation, to count their types
_TIME = re.compile(r"\+?(?P<sign>-?)(?P<year>\d+)-(?P<rest>\d\d-\d\dT\d\d:\d\d:\d\d)(\.0+)?(Z|\+00:00)?", re.ASCII)
_TRIPLES = {"object": "?s <{direct}{relation}> ?e .", "subject": "?e <{direct}{relation}> ?o ."}


# Parts of several queries.
def _names(ids: Iterable[str]) -> str:
    return " ".join(f"wd:{entity}" for entity in sorted(ids))


def _item(variable: str) -> str:
    return f'FILTER(isIRI(?{variable})) FILTER(STRSTARTS(STR(?{variable}), "{ENTITY}Q"))'


def _item_valued(property_: str, value: str) -> str:
    return f'{_item(value)} FILTER(STRSTARTS(STR(?{property_}), "{DIRECT}P"))'


def match_words(variable: str, predicate: str) -> str:
    """Return the pattern of the texts of a variable in a language of LANGUAGES: variables l and lang."""
    return f"?{variable} {predicate} ?l . BIND(LCASE(LANG(?l)) AS ?lang) FILTER(?lang IN ({_LANGUAGES}))"


def _triple(end: RelationEnd) -> str:
    return _TRIPLES[end.role].format(direct=DIRECT, relation=end.relation)


def _query_each(variables: str, pattern: str) -> Callable[[Sequence[str]], str]:
    """Return a function from ids to the query of a pattern, in which the first variable has these ids."""
    first = variables.partition(" ")[0]

    def query(ids: Sequence[str]) -> str:
        return marked_select(variables, f"VALUES {first} {{ {_names(ids)} }} {pattern}")

    return query


# What a row is about.
def _subject(row: Binding) -> str:
    return local_id(row["s"])


def _entity(row: Binding) -> str:
    return local_id(row["e"])


def _item_at_end(row: Binding) -> str:
    return f"{row['r']} {local_id(row['e'])}"


def out_query(ids: Sequence[str]) -> str:
    """Return the query for all truthy item-valued statements of these ids, with labels and types of their values.

    Rows: s, p, o (statements); e, l, lang (labels of the values); e, t (types of the values).
    """
    subjects = _names(ids)
    statements = f"VALUES ?s {{ {subjects} }} ?s ?p ?o . {_item_valued('p', 'o')}"
    # Each part repeats this subquery: engines that evaluate bottom-up would otherwise join with every label there is.
    objects = f"{{ SELECT DISTINCT ?e WHERE {{ VALUES ?x {{ {subjects} }} ?x ?q ?e . {_item_valued('q', 'e')} }} }}"
    labels = f"{objects} {match_words('e', _RDFS_LABEL)}"
    types = f"{objects} ?e <{DIRECT}P31> ?t"
    return marked_select("?s ?p ?o ?e ?l ?lang ?t", statements, labels, types)


def _sorted_lists(rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    """Return the rows sorted, as lists, since JSON has no tuples."""
    return [list(row) for row in sorted(rows)]


def _read_out(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    statements: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for row in rows:
        if "o" in row:
            relation = local_id(row["p"])
            target = local_id(row["o"])
            if is_property(relation) and is_item(target):
                statements[local_id(row["s"])].add((relation, target))
    out_facts = [Fact("out", entity, _sorted_lists(statements[entity])) for entity in ids]

    # The labels and types of the values come in the same answer; a row about anything else is a wrong answer.
    about_values = [row for row in rows if "e" in row]
    values = {row["o"] for row in rows if "o" in row}
    for row in about_values:
        if row["e"] not in values:
            raise ValueError(f"a row about {row['e'][:80]!r}, which is not the value of any statement")
    objects = set[str]()
    for pairs in statements.values():
        objects.update(target for _, target in pairs)
    labels = _read_labels(sorted(objects), about_values)
    types = _read_types(sorted(objects), about_values, "e", "t")
    return out_facts + labels + types


def _about_statement(row: Binding) -> str | None:
    """Return the subject of a row; None for a row about a value, which `_read_out` checks."""
    if "e" in row and "s" not in row:
        return None
    return _subject(row)


OUT = Template("out/1", "out", out_query, _read_out, _about_statement)


def in_query(ids: Sequence[str]) -> str:
    """Return the query for the truthy statements with these ids as values, at most HUB + 1 per id: rows e, p, s."""
    parts = (
        f"{{ SELECT (wd:{entity} AS ?e) ?p ?s WHERE {{ ?s ?p wd:{entity} . "
        f"{_item_valued('p', 's')} }} LIMIT {HUB + 1} }}"
        for entity in sorted(ids)
    )
    return marked_select("?e ?p ?s", *parts)


def _read_in(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    incoming: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in rows:
        incoming[local_id(row["e"])].append((local_id(row["s"]), local_id(row["p"])))
    facts = []
    for entity in ids:
        if len(incoming[entity]) > HUB:
            facts.append(Fact("in", entity, None))
            continue
        pairs = sorted([s, p] for s, p in set(incoming[entity]) if is_item(s) and is_property(p))
        facts.append(Fact("in", entity, pairs))
    return facts


IN = Template("in/1", "in", in_query, _read_in, _entity, size=20)


def degree_query(ids: Sequence[str]) -> str:
    """Return the query for the number of truthy statements with these ids as values, up to HUB + 1: rows e, n."""
    parts = (
        f"{{ SELECT (wd:{entity} AS ?e) (COUNT(?s) AS ?n) WHERE {{ {{ SELECT ?s WHERE {{ ?s ?p wd:{entity} . "
        f"{_item_valued('p', 's')} }} LIMIT {HUB + 1} }} }} }}"
        for entity in sorted(ids)
    )
    return marked_select("?e ?n", *parts)


def _read_degrees(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    # An id without a row has no incoming statement.
    counts = {local_id(row["e"]): int(row["n"]) for row in rows}
    if len(counts) < len(rows):
        raise ValueError("two counts of one id")
    return [Fact("degree", entity, counts.get(entity, 0)) for entity in ids]


DEGREE = Template("degree/1", "degree", degree_query, _read_degrees, _entity, size=50)


# All item-valued statements that are not deprecated.
_CLAIMS = (
    f"?s ?c ?n . ?n <{_RANK}rank> ?rank . ?n ?p ?o . "
    f'FILTER(STRSTARTS(STR(?c), "{_WIKIDATA}prop/P")) FILTER(STRSTARTS(STR(?p), "{_WIKIDATA}prop/statement/P")) '
    f"{_item('o')} FILTER(?rank != <{_RANK}DeprecatedRank>) "
    f"OPTIONAL {{ ?n <{_WIKIDATA}prop/qualifier/P580> ?start FILTER(isLiteral(?start)) }} "
    f"OPTIONAL {{ ?n <{_WIKIDATA}prop/qualifier/P582> ?end_time FILTER(isLiteral(?end_time)) }}"
)


def _read_claims(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    claims: dict[str, set[tuple[str, str, str, str, str]]] = defaultdict(set)
    for row in rows:
        relation = local_id(row["p"])
        target = local_id(row["o"])
        rank = row["rank"].rpartition("#")[2].removesuffix("Rank").lower()
        if is_property(relation) and is_item(target):
            start = _normalize_time(row.get("start", ""))
            end = _normalize_time(row.get("end_time", ""))
            claims[local_id(row["s"])].add((relation, target, rank, start, end))
    return [Fact("claims", entity, _sorted_lists(claims[entity])) for entity in ids]


def _normalize_time(text: str) -> str:
    """Return an xsd:dateTime in the form that Wikidata writes; engines rewrite time zones and years BCE."""
    match = _TIME.fullmatch(text)
    if match is None:
        return text
    return f"{match['sign']}{int(match['year']):04d}-{match['rest']}Z"


CLAIMS = Template("claims/1", "claims", _query_each("?s ?p ?o ?rank ?start ?end_time", _CLAIMS), _read_claims, _subject)


def _read_types(ids: Iterable[str], rows: Sequence[Binding], subject: str = "s", kind: str = "o") -> list[Fact]:
    types = _gather(rows, subject, kind)  # half of all rows; a FILTER in the query would cost more than checking here
    return [Fact("types", entity, sorted(filter(is_item, types[entity]))) for entity in ids]


# The classes of which the ids are instances.
TYPES = Template("types/1", "types", _query_each("?s ?o", f"?s <{DIRECT}P31> ?o"), _read_types, _subject)


def _read_labels(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    return [Fact("label", entity, best) for entity, best in _choose_wordings(ids, rows)]


def _read_descriptions(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    return [Fact("description", entity, best and best[0]) for entity, best in _choose_wordings(ids, rows)]


def _choose_wordings(ids: Iterable[str], rows: Sequence[Binding]) -> list[tuple[str, list[str] | None]]:
    """Return (id, [text, language]) per id, in the first of LANGUAGES that has a text; (id, None) if none has."""
    ranked: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for row in rows:
        if row.get("l", "").strip():
            ranked[local_id(row["e"])].append((LANGUAGES.index(row["lang"]), row["l"]))
    wordings: list[tuple[str, list[str] | None]] = []
    for entity in ids:
        if entity in ranked:
            language, text = min(ranked[entity])
            wordings.append((entity, [text, LANGUAGES[language]]))
        else:
            wordings.append((entity, None))
    return wordings


_WORDINGS = "?e ?l ?lang"
LABELS = Template("labels/1", "label", _query_each(_WORDINGS, match_words("e", _RDFS_LABEL)), _read_labels, _entity)
DESCRIPTIONS = Template(
    "descriptions/1", "description", _query_each(_WORDINGS, match_words("e", _DESCRIPTION)), _read_descriptions, _entity
)


def named_query(labels: Sequence[str]) -> str:
    """Return the query for the entities with exactly one of these labels in a language of LANGUAGES: rows e, l."""
    literals = []
    for label in sorted(labels):
        literals += [str(Literal(label, language=language)) for language in LANGUAGES]
    values = f"VALUES ?l {{ {' '.join(literals)} }}"
    return marked_select("?e ?l", f'{values} ?e {_RDFS_LABEL} ?l . FILTER(STRSTARTS(STR(?e), "{ENTITY}"))')


def _read_named(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    entities: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        entities[row["l"]].add(local_id(row["e"]))
    return [Fact("named", label, sorted(filter(is_entity, entities[label]))) for label in ids]


NAMED = Template("named/1", "named", named_query, _read_named, itemgetter("l"), size=25)


def _read_mentioned(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    mentioned = {local_id(row["e"]) for row in rows}
    return [Fact("mentioned", entity, entity in mentioned) for entity in ids]


# The ids that are the value of at least one truthy statement.
_STATED = f'FILTER EXISTS {{ ?s ?p ?e FILTER(STRSTARTS(STR(?p), "{DIRECT}P")) }}'
MENTIONED = Template("mentioned/1", "mentioned", _query_each("?e", _STATED), _read_mentioned, _entity)


def _read_redirects(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    targets = _gather(rows, "s", "o")  # one target on Wikidata; of several in a file, the first by text
    return [Fact("redirect", entity, min(targets[entity], default=None)) for entity in ids]


def _gather(rows: Sequence[Binding], subject: str, value: str) -> dict[str, set[str]]:
    values: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if value in row:
            values[local_id(row[subject])].add(local_id(row[value]))
    return values


# The items into which the ids were merged.
_MERGED = f"?s <{SAME_AS}> ?o . {_item('o')}"
REDIRECTS = Template("redirects/1", "redirect", _query_each("?s ?o", _MERGED), _read_redirects, _subject)


def ends_query(ends: Sequence[str]) -> str:
    """Return the query for the types of a sample of the entities at these ends of relations: rows r, e, t.

    The engine chooses which 1,000 entities it samples. Between engines, the shares of types agree, except of rare ones.
    """
    parts = []
    for end in sorted(ends):
        triple = _triple(parse_relation_end(end))
        entities = f"{{ SELECT DISTINCT ?e WHERE {{ {triple} FILTER(isIRI(?e)) }} LIMIT {_SAMPLE} }}"
        types = f"?e <{DIRECT}P31> ?t . FILTER(isIRI(?t))"
        parts.append(f'{{ SELECT ("{end}" AS ?r) ?e ?t WHERE {{ {entities} {types} }} }}')
    return marked_select("?r ?e ?t", *parts)


def _read_ends(ends: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    """Return facts with the value [number of entities of known type, [[type, number of its entities], ...]]."""
    pairs: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for row in rows:
        if "t" in row:
            pairs[row["r"]].add((local_id(row["e"]), local_id(row["t"])))
    facts = []
    for end in ends:
        entities = {entity for entity, _ in pairs[end]}
        counts = Counter(kind for _, kind in pairs[end])
        facts.append(Fact("ends", end, [len(entities), _sorted_lists(counts.items())]))
    return facts


ENDS = Template("ends/1", "ends", ends_query, _read_ends, itemgetter("r"), size=10)


def at_end_query(keys: Sequence[str]) -> str:
    """Return the query for those of these keys whose item is at that end of the relation: rows r, e."""
    parts = []
    ends = sorted(parse_item_at_end(key) for key in keys)
    for (relation, role), group in groupby(ends, key=lambda end: (end.relation, end.role)):
        same_end = list(group)
        names = " ".join(f"wd:{end.item}" for end in same_end)
        exists = f"FILTER EXISTS {{ {_triple(same_end[0])} }}"
        parts.append(f'VALUES ?e {{ {names} }} {exists} BIND("{relation} {role}" AS ?r)')
    return marked_select("?r ?e", *parts)


def _read_at_end(keys: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    """Return facts with the value True or False: whether the item is at that end of the relation in any statement."""
    present = {_item_at_end(row) for row in rows if "e" in row}
    return [Fact("at_end", key, key in present) for key in keys]


AT_END = Template("at_end/1", "at_end", at_end_query, _read_at_end, _item_at_end)


def _read_sitelinks(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    counts = {local_id(row["e"]): int(row["n"]) for row in rows}
    return [Fact("sitelinks", entity, counts.get(entity)) for entity in ids]


_PAGES = f"?e <{_RANK}sitelinks> ?n"
SITELINKS = Template("sitelinks/1", "sitelinks", _query_each("?e ?n", _PAGES), _read_sitelinks, _entity)


def values_query(ids: Sequence[str]) -> str:
    """Return the query for the truthy statements of these ids with a date or a quantity as value.

    Rows: s, p, v, type (the literals); s, p, v and precision, or unit (how statements of best rank state them).
    """
    subjects = f"VALUES ?s {{ {_names(ids)} }}"
    types = ", ".join(f"<{XSD}{name}>" for name in DATATYPES)
    literals = f'{subjects} ?s ?p ?v . FILTER(isLiteral(?v)) FILTER(STRSTARTS(STR(?p), "{DIRECT}P"))'
    stated = (
        f'{subjects} ?s ?c ?n . FILTER(STRSTARTS(STR(?c), "{_WIKIDATA}prop/P")) ?n a <{_RANK}BestRank> . '
        f'?n ?p ?node . FILTER(STRSTARTS(STR(?p), "{_WIKIDATA}prop/statement/value/P")) '
    )
    return marked_select(
        "?s ?p ?v ?type ?precision ?unit",
        f"{literals} BIND(DATATYPE(?v) AS ?type) FILTER(?type IN ({types}))",
        f"{stated} ?node <{_RANK}timeValue> ?v ; <{_RANK}timePrecision> ?precision .",
        f"{stated} ?node <{_RANK}quantityAmount> ?v ; <{_RANK}quantityUnit> ?unit .",
    )


def _read_values(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    # A graph of truthy statements has only literals. Where statements are stored too, they state precision and unit.
    literals: dict[tuple[str, str, str], str] = {}
    stated: dict[tuple[str, str, str], set[str | None]] = defaultdict(set)
    for row in rows:
        text = row["v"]
        normal = quantity_value(text) or _normalize_time(text)  # engines may write one literal in several forms
        key = (local_id(row["s"]), local_id(row["p"]), normal)
        if "type" in row:
            literals[key] = row["type"]
        elif "unit" in row:
            stated[key].add(quantity_value(text, local_id(row["unit"]) or row["unit"]))
        else:
            stated[key].add(date_value(text, int(row["precision"])))
    pairs: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for (entity, relation, text), datatype in literals.items():
        values = stated.get((entity, relation, text)) or {literal_value(text, datatype)}
        pairs[entity] |= {(relation, value) for value in values if value and is_property(relation)}
    return [Fact("values", entity, _sorted_lists(pairs[entity])) for entity in ids]


VALUES = Template("values/1", "values", values_query, _read_values, _subject)


TEMPLATES = {
    template.kind: template
    for template in (
        OUT,
        IN,
        DEGREE,
        CLAIMS,
        TYPES,
        LABELS,
        DESCRIPTIONS,
        NAMED,
        MENTIONED,
        REDIRECTS,
        ENDS,
        AT_END,
        SITELINKS,
        VALUES,
    )
}
