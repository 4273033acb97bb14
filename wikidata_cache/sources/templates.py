"""All questions about ids (`Template`s). Each has its SPARQL, and the function that reads the rows of the answer.

After the parts that several questions share, each question has a block of its own: the function that writes its query,
the function that turns rows into facts, and the template that joins both. The docstring of `Fact` describes the values,
`queries.py` the rules that all queries follow. The name of a template ends in a version, which is part of the query log
of a cache: a query whose text changes gets a new version.

Variables mean the same in all queries: ?s ?p ?o is a statement, ?e an entity that a row is about, ?t a type, ?l a text
and ?lang its language, ?n a number or a statement node, ?r an end of a relation, ?v a date or a quantity, ?node the
node of ?v, which has its precision or unit. Inside a query, ?c leads from ?s to a statement node, and ?x ?q are ?s ?p
in a subquery.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from pyoxigraph import Literal

from kg_common.ids import is_entity, is_item, is_property
from wikidata_cache.ids import DIRECT, ENTITY, RDFS_LABEL, SAME_AS, local_id
from wikidata_cache.languages import DEFAULT_LANGUAGES, Languages
from wikidata_cache.sources.queries import HUB, RelationEnd, parse_item_at_end, parse_relation_end, write_marked_select
from wikidata_cache.sources.source import Binding, Fact, Template
from wikidata_cache.values import DATATYPES, XSD, date_value, literal_value, quantity_value

_WIKIDATA = "http://www.wikidata.org/"
_ONTOLOGY = "http://wikiba.se/ontology#"
_RDFS_LABEL = f"<{RDFS_LABEL}>"
_DESCRIPTION = "<http://schema.org/description>"
_SAMPLE = 1_000  # entities to sample at an end of a relation, to count their types
_TIME = re.compile(r"\+?(?P<sign>-?)(?P<year>\d+)-(?P<rest>\d\d-\d\dT\d\d:\d\d:\d\d)(\.0+)?(Z|\+00:00)?", re.ASCII)
_TRIPLES = {"object": "?s <{direct}{relation}> ?e .", "subject": "?e <{direct}{relation}> ?o ."}


# Parts of several queries.
def _write_ids(ids: Iterable[str]) -> str:
    """Return the ids in SPARQL, such as "wd:Q42 wd:Q5"."""
    return " ".join(f"wd:{entity}" for entity in sorted(ids))


def _filter_item(variable: str) -> str:
    """Return the condition that a variable is an item."""
    return f'FILTER(isIRI(?{variable})) FILTER(STRSTARTS(STR(?{variable}), "{ENTITY}Q"))'


def _filter_truthy(property_: str, value: str) -> str:
    """Return the condition that the variables of a property and a value belong to a truthy item-valued statement."""
    return f'{_filter_item(value)} FILTER(STRSTARTS(STR(?{property_}), "{DIRECT}P"))'


def match_words(variable: str, predicate: str, languages: Languages = DEFAULT_LANGUAGES) -> str:
    """Return the pattern of the texts of an entity in one of these languages: it binds ?l and ?lang.

    Args:
        variable: the variable of the entity.
        predicate: the IRI that states the texts, in angle brackets.
        languages: their codes.
    """
    codes = ", ".join(f'"{language}"' for language in languages)
    return f"?{variable} {predicate} ?l . BIND(LCASE(LANG(?l)) AS ?lang) FILTER(?lang IN ({codes}))"


def _write_triple(end: RelationEnd) -> str:
    """Return the pattern of the statements with ?e at an end of a relation, such as "?s <...P19> ?e ."."""
    return _TRIPLES[end.role].format(direct=DIRECT, relation=end.relation)


def _make_query_writer(variables: str, pattern: str) -> Callable[[Sequence[str]], str]:
    """Return a function that writes the query of a pattern for given ids.

    Args:
        variables: the columns of the answer; the first variable is the one that takes the ids as values.
        pattern: what the query asks about this variable.
    """
    first = variables.split(" ")[0]

    def write_query(ids: Sequence[str]) -> str:
        return write_marked_select(variables, f"VALUES {first} {{ {_write_ids(ids)} }} {pattern}")

    return write_query


# What a row is about, as `Template.about` returns it.
def _read_subject(row: Binding) -> str:
    return local_id(row["s"])


def _read_entity(row: Binding) -> str:
    return local_id(row["e"])


def _read_item_at_end(row: Binding) -> str:
    return f"{row['r']} {local_id(row['e'])}"  # such as "P19 object Q65"


# What several readers of rows share.
def _sort_lists(rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    """Return the rows sorted, as lists, since JSON has no tuples."""
    return [list(row) for row in sorted(rows)]


def _collect_values(rows: Sequence[Binding], about: str, value: str) -> dict[str, set[str]]:
    """Return {id: other ids} of rows in which the variable `about` has the id, and `value` another one."""
    values: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if value in row:
            values[local_id(row[about])].add(local_id(row[value]))
    return values


# The truthy item-valued statements of the ids, with labels and types of their values.
def _write_out_query(ids: Sequence[str]) -> str:
    """Return the query, a union of three parts.

    Rows: s, p, o (statements); e, l, lang (labels of the values); e, t (types of the values).
    """
    subjects = _write_ids(ids)
    statements = f"VALUES ?s {{ {subjects} }} ?s ?p ?o . {_filter_truthy('p', 'o')}"
    # Each part repeats this subquery: engines that evaluate bottom-up would otherwise join with every label there is.
    values = f"{{ SELECT DISTINCT ?e WHERE {{ VALUES ?x {{ {subjects} }} ?x ?q ?e . {_filter_truthy('q', 'e')} }} }}"
    labels = f"{values} {match_words('e', _RDFS_LABEL)}"
    types = f"{values} ?e <{DIRECT}P31> ?t"
    return write_marked_select("?s ?p ?o ?e ?l ?lang ?t", statements, labels, types)


def _read_out(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    """Return the statements (relation, value) of each id, and the labels and types of all values."""
    statements: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for row in rows:
        if "o" in row:
            relation = local_id(row["p"])
            value = local_id(row["o"])
            if is_property(relation) and is_item(value):
                statements[local_id(row["s"])].add((relation, value))
    out_facts = [Fact("out", entity, _sort_lists(statements[entity])) for entity in ids]

    _check_rows_about_values(rows)
    rows_about_values = [row for row in rows if "e" in row]
    values = set[str]()
    for pairs in statements.values():
        values.update(value for _, value in pairs)
    labels = _read_labels(sorted(values), rows_about_values)
    types = _read_types(sorted(values), rows_about_values, about="e", value="t")
    return out_facts + labels + types


def _check_rows_about_values(rows: Sequence[Binding]) -> None:
    """Check that the rows with ?e are about values of the statements in the same answer; others are a wrong answer."""
    values = {row["o"] for row in rows if "o" in row}
    for row in rows:
        if "e" in row and row["e"] not in values:
            raise ValueError(f"a row about {row['e'][:80]!r}, which is not the value of any statement")


def _read_statement_subject(row: Binding) -> str | None:
    """Return the subject of a row; None for a row about a value (`_check_rows_about_values`)."""
    if "e" in row and "s" not in row:
        return None
    return _read_subject(row)


OUT = Template("out/1", "out", _write_out_query, _read_out, _read_statement_subject)


# The truthy statements with the ids as values.
def _write_in_query(ids: Sequence[str]) -> str:
    """Return the query, with at most HUB + 1 statements per id: rows e, p, s."""
    parts = []
    for entity in sorted(ids):
        pattern = f"?s ?p wd:{entity} . {_filter_truthy('p', 's')}"
        parts.append(f"{{ SELECT (wd:{entity} AS ?e) ?p ?s WHERE {{ {pattern} }} LIMIT {HUB + 1} }}")
    return write_marked_select("?e ?p ?s", *parts)


def _read_in(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    incoming: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in rows:
        incoming[local_id(row["e"])].append((local_id(row["s"]), local_id(row["p"])))
    facts = []
    for entity in ids:
        if len(incoming[entity]) > HUB:
            facts.append(Fact("in", entity, None))
            continue
        pairs = {
            (subject, relation) for subject, relation in incoming[entity] if is_item(subject) and is_property(relation)
        }
        facts.append(Fact("in", entity, _sort_lists(pairs)))
    return facts


IN = Template("in/1", "in", _write_in_query, _read_in, _read_entity, size=20)


# The number of truthy statements with the ids as values.
def _write_degree_query(ids: Sequence[str]) -> str:
    """Return the query, which counts up to HUB + 1 statements per id: rows e, n."""
    parts = []
    for entity in sorted(ids):
        pattern = f"?s ?p wd:{entity} . {_filter_truthy('p', 's')}"
        statements = f"{{ SELECT ?s WHERE {{ {pattern} }} LIMIT {HUB + 1} }}"
        parts.append(f"{{ SELECT (wd:{entity} AS ?e) (COUNT(?s) AS ?n) WHERE {{ {statements} }} }}")
    return write_marked_select("?e ?n", *parts)


def _read_degrees(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    # An id without a row has no incoming statement.
    counts = {local_id(row["e"]): int(row["n"]) for row in rows}
    if len(counts) < len(rows):
        raise ValueError("two counts of one id")
    return [Fact("degree", entity, counts.get(entity, 0)) for entity in ids]


DEGREE = Template("degree/1", "degree", _write_degree_query, _read_degrees, _read_entity, size=50)


# All item-valued statements that are not deprecated, with rank, start and end time. A node ?n stands for each:
#
#     wd:Q42    p:P69          wds:HASH                   ?s ?c ?n
#     wds:HASH  wikibase:rank  wikibase:NormalRank        ?n, ?rank
#     wds:HASH  ps:P69         wd:Q691283                 ?n ?p ?o
#     wds:HASH  pq:P580        "1971-01-01T00:00:00Z"     ?n, ?start; with pq:P582 ?end_time
_CLAIMS = (
    "?s ?c ?n . "
    f"?n <{_ONTOLOGY}rank> ?rank . "
    f"?n ?p ?o . "
    f'FILTER(STRSTARTS(STR(?c), "{_WIKIDATA}prop/P")) FILTER(STRSTARTS(STR(?p), "{_WIKIDATA}prop/statement/P")) '
    f"{_filter_item('o')} FILTER(?rank != <{_ONTOLOGY}DeprecatedRank>) "
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
            start_time = _normalize_time(row.get("start", ""))
            end_time = _normalize_time(row.get("end_time", ""))
            claims[local_id(row["s"])].add((relation, target, rank, start_time, end_time))
    return [Fact("claims", entity, _sort_lists(claims[entity])) for entity in ids]


def _normalize_time(text: str) -> str:
    """Return an xsd:dateTime as Wikidata writes it, "1984-12-30T00:00:00Z"; any other text is returned as it is.

    Engines write the same time as "+1984-12-30T00:00:00.0+00:00", and years BCE with more or fewer zeros.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        return text
    return f"{match['sign']}{int(match['year']):04d}-{match['rest']}Z"


CLAIMS = Template(
    "claims/1", "claims", _make_query_writer("?s ?p ?o ?rank ?start ?end_time", _CLAIMS), _read_claims, _read_subject
)


# The classes of which the ids are instances.
def _read_types(ids: Iterable[str], rows: Sequence[Binding], *, about: str = "s", value: str = "o") -> list[Fact]:
    """Return the classes of each id; `about` and `value` are the variables of the id and of its class in the rows."""
    types = _collect_values(rows, about, value)
    # Items are picked here: the types are half of all rows, and a FILTER in the query would take longer.
    return [Fact("types", entity, sorted(filter(is_item, types[entity]))) for entity in ids]


TYPES = Template("types/1", "types", _make_query_writer("?s ?o", f"?s <{DIRECT}P31> ?o"), _read_types, _read_subject)


# Labels and descriptions of the ids.
def _read_labels(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    texts = _choose_texts(rows)
    return [Fact("label", entity, texts.get(entity)) for entity in ids]


def _read_descriptions(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    texts = _choose_texts(rows)
    facts = []
    for entity in ids:
        description = None
        if entity in texts:
            description, _ = texts[entity]
        facts.append(Fact("description", entity, description))
    return facts


def _choose_texts(rows: Sequence[Binding]) -> dict[str, list[str]]:
    """Return {id: [text, language]}, each in the first of DEFAULT_LANGUAGES in which the id has a text."""
    candidates: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for row in rows:
        if row.get("l", "").strip():
            candidates[local_id(row["e"])].append((DEFAULT_LANGUAGES.index(row["lang"]), row["l"]))
    texts = {}
    for entity, ranked in candidates.items():
        rank, text = min(ranked)  # of several texts in one language, the first in alphabetical order
        texts[entity] = [text, DEFAULT_LANGUAGES[rank]]
    return texts


_write_labels_query = _make_query_writer("?e ?l ?lang", match_words("e", _RDFS_LABEL))
LABELS = Template("labels/1", "label", _write_labels_query, _read_labels, _read_entity)

_write_descriptions_query = _make_query_writer("?e ?l ?lang", match_words("e", _DESCRIPTION))
DESCRIPTIONS = Template("descriptions/1", "description", _write_descriptions_query, _read_descriptions, _read_entity)


# The entities with exactly one of these labels in a language of DEFAULT_LANGUAGES.
def _write_named_query(labels: Sequence[str]) -> str:
    """Return the query: rows e, l."""
    literals = []
    for label in sorted(labels):
        literals += [str(Literal(label, language=language)) for language in DEFAULT_LANGUAGES]
    values = f"VALUES ?l {{ {' '.join(literals)} }}"
    return write_marked_select("?e ?l", f'{values} ?e {_RDFS_LABEL} ?l . FILTER(STRSTARTS(STR(?e), "{ENTITY}"))')


def _read_named(labels: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    entities: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        entities[row["l"]].add(local_id(row["e"]))
    return [Fact("named", label, sorted(filter(is_entity, entities[label]))) for label in labels]


NAMED = Template("named/1", "named", _write_named_query, _read_named, itemgetter("l"), size=25)


# Whether the ids are the value of at least one truthy statement.
def _read_mentioned(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    mentioned = {local_id(row["e"]) for row in rows}
    return [Fact("mentioned", entity, entity in mentioned) for entity in ids]


_STATED = f'FILTER EXISTS {{ ?s ?p ?e FILTER(STRSTARTS(STR(?p), "{DIRECT}P")) }}'
MENTIONED = Template("mentioned/1", "mentioned", _make_query_writer("?e", _STATED), _read_mentioned, _read_entity)


# The items into which the ids were merged.
def _read_redirects(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    targets = _collect_values(rows, "s", "o")  # one target on Wikidata; of several in a file, the first by text
    return [Fact("redirect", entity, min(targets[entity], default=None)) for entity in ids]


_MERGED = f"?s <{SAME_AS}> ?o . {_filter_item('o')}"
REDIRECTS = Template("redirects/1", "redirect", _make_query_writer("?s ?o", _MERGED), _read_redirects, _read_subject)


# The types of a sample of the entities at ends of relations, which are such as "P19 object".
def _write_ends_query(ends: Sequence[str]) -> str:
    """Return the query: rows r, e, t.

    The engine chooses which 1,000 entities it samples. Between engines, the shares of types agree, except of rare ones.
    """
    parts = []
    for end in sorted(ends):
        triple = _write_triple(parse_relation_end(end))
        entities = f"{{ SELECT DISTINCT ?e WHERE {{ {triple} FILTER(isIRI(?e)) }} LIMIT {_SAMPLE} }}"
        types = f"?e <{DIRECT}P31> ?t . FILTER(isIRI(?t))"
        parts.append(f'{{ SELECT ("{end}" AS ?r) ?e ?t WHERE {{ {entities} {types} }} }}')
    return write_marked_select("?r ?e ?t", *parts)


def _read_ends(ends: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    """Return facts with the value [number of entities of known type, [[type, number of its entities], ...]]."""
    pairs: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for row in rows:
        if "t" in row:
            pairs[row["r"]].add((local_id(row["e"]), local_id(row["t"])))
    facts = []
    for end in ends:
        entities = {entity for entity, _ in pairs[end]}
        counts = Counter(type_id for _, type_id in pairs[end])
        facts.append(Fact("ends", end, [len(entities), _sort_lists(counts.items())]))
    return facts


ENDS = Template("ends/1", "ends", _write_ends_query, _read_ends, itemgetter("r"), size=10)


# Whether items are at an end of a relation; the keys are such as "P19 object Q65".
def _write_at_end_query(keys: Sequence[str]) -> str:
    """Return the query, with a part for each end, in which the items of this end are values: rows r, e."""
    items: dict[RelationEnd, list[str]] = defaultdict(list)
    for key in sorted(keys):
        end, item = parse_item_at_end(key)
        items[end].append(item)
    parts = []
    for end in sorted(items):
        exists = f"FILTER EXISTS {{ {_write_triple(end)} }}"
        parts.append(f'VALUES ?e {{ {_write_ids(items[end])} }} {exists} BIND("{end.relation} {end.role}" AS ?r)')
    return write_marked_select("?r ?e", *parts)


def _read_at_end(keys: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    """Return facts with the value True or False: whether the item is at that end of the relation in any statement."""
    present = {_read_item_at_end(row) for row in rows}
    return [Fact("at_end", key, key in present) for key in keys]


AT_END = Template("at_end/1", "at_end", _write_at_end_query, _read_at_end, _read_item_at_end)


# The number of pages about the ids in Wikipedia and its sister projects.
def _read_sitelinks(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    counts = {local_id(row["e"]): int(row["n"]) for row in rows}
    return [Fact("sitelinks", entity, counts.get(entity)) for entity in ids]


_PAGES = f"?e <{_ONTOLOGY}sitelinks> ?n"
SITELINKS = Template("sitelinks/1", "sitelinks", _make_query_writer("?e ?n", _PAGES), _read_sitelinks, _read_entity)


# The truthy statements of the ids with a date or a quantity as value.
def _write_values_query(ids: Sequence[str]) -> str:
    """Return the query, a union of three parts: literals alone, dates with precision, quantities with unit.

    Rows: s, p, v, type (the literals); s, p, v and precision, or unit (how statements of best rank state them).
    """
    subjects = f"VALUES ?s {{ {_write_ids(ids)} }}"
    types = ", ".join(f"<{XSD}{name}>" for name in DATATYPES)
    literals = f'{subjects} ?s ?p ?v . FILTER(isLiteral(?v)) FILTER(STRSTARTS(STR(?p), "{DIRECT}P"))'
    stated = (
        f'{subjects} ?s ?c ?n . FILTER(STRSTARTS(STR(?c), "{_WIKIDATA}prop/P")) ?n a <{_ONTOLOGY}BestRank> . '
        f'?n ?p ?node . FILTER(STRSTARTS(STR(?p), "{_WIKIDATA}prop/statement/value/P")) '
    )
    return write_marked_select(
        "?s ?p ?v ?type ?precision ?unit",
        f"{literals} BIND(DATATYPE(?v) AS ?type) FILTER(?type IN ({types}))",
        f"{stated} ?node <{_ONTOLOGY}timeValue> ?v ; <{_ONTOLOGY}timePrecision> ?precision .",
        f"{stated} ?node <{_ONTOLOGY}quantityAmount> ?v ; <{_ONTOLOGY}quantityUnit> ?unit .",
    )


class _LiteralKey(NamedTuple):
    """What joins the two kinds of rows about a date or a quantity; the text is in one normal form."""

    entity: str
    relation: str
    text: str


def _read_values(ids: Sequence[str], rows: Sequence[Binding]) -> list[Fact]:
    """Return the literals (relation, value) of each id, such as dates with their precision.

    This joins two kinds of rows on the entity, the relation and the text of ?v (`_LiteralKey`), for example:

        s=Q42, p=P569, v=1952-03-11T00:00:00Z, type=xsd:dateTime    (the literal)
        s=Q42, p=P569, v=1952-03-11T00:00:00Z, precision=11         (how a statement of best rank states it)

    A graph of truthy statements has only rows of the first kind: its literals stay without precision and unit.
    """
    datatypes: dict[_LiteralKey, str] = {}
    stated: dict[_LiteralKey, set[str | None]] = defaultdict(set)
    for row in rows:
        key = _read_literal_key(row)
        if "type" in row:
            datatypes[key] = row["type"]
        elif "unit" in row:
            unit = local_id(row["unit"]) or row["unit"]  # the IRI, if it is not one of an item of Wikidata
            stated[key].add(quantity_value(row["v"], unit))
        else:
            stated[key].add(date_value(row["v"], int(row["precision"])))

    pairs: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for key, datatype in datatypes.items():
        values = stated.get(key)
        if values is None:
            values = {literal_value(key.text, datatype)}
        for value in values:
            if value and is_property(key.relation):
                pairs[key.entity].add((key.relation, value))
    return [Fact("values", entity, _sort_lists(pairs[entity])) for entity in ids]


def _read_literal_key(row: Binding) -> _LiteralKey:
    """Return the key of a row. Engines may write one literal as "+5" and as "5.0"; the key has one normal form."""
    text = quantity_value(row["v"])  # None if it is not a number
    if text is None:
        text = _normalize_time(row["v"])
    return _LiteralKey(local_id(row["s"]), local_id(row["p"]), text)


VALUES = Template("values/1", "values", _write_values_query, _read_values, _read_subject)


_ALL = (
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
TEMPLATES = {template.kind: template for template in _ALL}
