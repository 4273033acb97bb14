"""`Facts` asks a source about many ids in batches, caches the answers in memory, and filters the statements.

`usable` leaves out statements whose property or whose value's class is on a deny-list, and statements without labels.
`default_label` is the label that decides what is in a subgraph, and `label` the one that is shown (see `Facts`).
`Claim` is a full statement, of any rank except deprecated, with its start and end times.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Container, Iterable
from typing import NamedTuple, TypeVar

from wikidata_cache.errors import CacheMissError, TruthyOnlyError
from wikidata_cache.ids import Statement, check_ids, is_text
from wikidata_cache.languages import DEFAULT_LANGUAGES, Languages, list_families, list_own_languages
from wikidata_cache.sources import templates
from wikidata_cache.sources.queries import parse_words_of
from wikidata_cache.sources.source import Json, Kind, Source, Template
from wikidata_cache.sources.wordings import IN_LANGUAGES, choose_texts, write_keys
from wikidata_cache.subgraphs.options import SubgraphOptions
from wikidata_cache.subgraphs.sampling import other_end
from wikidata_cache.values import describe_value, find_unit, is_value

T = TypeVar("T")


class Facts:
    """The answers of `source`. Each question is asked only once, also where the answer is empty.

    `usable` leaves out statements with a property in `meta` or with an item of a class in `internal`
    (`deny_lists.py`). `languages` is the chain of labels, descriptions and names. Its *default* languages are en, mul
    and the forms of English at its end, and its *own* languages those before them: of the chain zh, ko, en, mul these
    are zh and ko. With this chain, for Q8684 (Seoul):

        default_label, default_labels   "Seoul"
        label, labels                   "首尔": in the first language of the chain that has a label
        own_labels                      {"zh": "首尔", "ko": "서울"}
        names                           ["Seoul", "首尔", "서울"]
        named(["서울"])                 {"서울": ("Q8684", ...)}: the entities by a label in any of the languages
    """

    def __init__(
        self,
        source: Source,
        *,
        meta: Container[str],
        internal: Collection[str],
        languages: Languages = DEFAULT_LANGUAGES,
    ) -> None:
        self.source = source
        self.languages = languages
        self._own_languages = list_own_languages(languages)
        self._families = list_families(languages)
        self._meta = meta
        self.internal = frozenset(internal)  # the classes of Wikimedia-internal items
        # What was warned of already: new objects o* whose statements lack labels, and "values" if these are missing.
        self.warned: set[str] = set()
        self._known: dict[Kind, dict[str, Json]] = defaultdict(dict)  # {kind of fact: {id: answer of the source}}

    def out(self, ids: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
        """Return {id: its (property, object) pairs, with housekeeping; [] for none}."""
        return {entity: _read_pairs(answer) for entity, answer in self._ask(templates.OUT, ids).items()}

    def incoming(self, ids: Iterable[str]) -> dict[str, list[tuple[str, str]] | None]:
        """Return {id: (subject, property) pairs of the statements with the id as value; None for a hub}.

        A hub has more than `queries.HUB` such statements.
        """
        incoming: dict[str, list[tuple[str, str]] | None] = {}
        for entity, answer in self._ask(templates.IN, ids).items():
            incoming[entity] = None
            if answer is not None:
                incoming[entity] = _read_pairs(answer)
        return incoming

    def degrees(self, ids: Iterable[str]) -> dict[str, int]:
        """Return {id: number of statements with the id as value}; counting stops at `queries.HUB` + 1."""
        return dict(self._ask(templates.DEGREE, ids))

    def claims(self, ids: Iterable[str]) -> dict[str, list[Claim]]:
        """Return {id: its statements of every rank except deprecated, with their times; [] for none}."""
        claims = {}
        for entity, answer in self._ask(templates.CLAIMS, ids).items():
            claims[entity] = [Claim(*parts) for parts in answer]
        return claims

    def values(self, ids: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
        """Return {id: the (property, value) pairs of its dates and quantities; [] for none}."""
        return {entity: _read_pairs(answer) for entity, answer in self._ask(templates.VALUES, ids).items()}

    def labels(self, ids: Iterable[str]) -> dict[str, str]:
        """Return {id: label} for the ids that have a label, in the first language of the chain that has one."""
        ids = list(ids)
        return self.default_labels(ids) | self._in_own_language("label", ids)

    def default_labels(self, ids: Iterable[str]) -> dict[str, str]:
        """Return {id: label} for the ids that have a label: en, else mul, en-gb, en-ca, en-us, simple."""
        return {entity: label[0] for entity, label in self._ask(templates.LABELS, ids).items() if label}

    def label(self, entity: str) -> str | None:
        """Return the label of one id in the chain's languages, or the words of a date or a quantity, or None."""
        if not self._own_languages:
            return self.default_label(entity)
        if is_value(entity):
            return describe_value(entity, self.label)
        return self.labels([entity]).get(entity)

    def default_label(self, entity: str) -> str | None:
        """Return the label of one id in the default languages, or the words of a date or a quantity, or None."""
        known = self._known["label"]  # read at once, as this is asked for every statement, and most are prefetched
        if entity not in known:
            if is_value(entity):
                return describe_value(entity, self.default_label)
            self._ask(templates.LABELS, [entity])  # puts the answer into `known`
        if known[entity] is None:
            return None
        text: str = known[entity][0]  # then comes the language
        return text

    def names(self, entity: str) -> list[str]:
        """Return the labels by which an edit may name an entity: the default one, and those of the chain."""
        names = []
        label = self.default_label(entity)
        if label:
            names.append(label)
        if self._own_languages and not is_value(entity):
            for pairs in self._ask_in_own_languages("label", [entity]).values():
                names += [text for code, text in pairs if code in self._own_languages]
        return names

    def own_labels(self, ids: Iterable[str]) -> dict[str, dict[str, str]]:
        """Return {id: {language: label}} in the own languages of the chain."""
        labels: dict[str, dict[str, str]] = defaultdict(dict)
        for key, pairs in self._ask_in_own_languages("label", ids).items():
            entity, _ = parse_words_of(key)
            labels[entity].update((code, text) for code, text in pairs if code in self._own_languages)
        return labels

    def descriptions(self, ids: Iterable[str]) -> dict[str, str]:
        """Return {id: description} for the ids that have a description, in the first language that has one."""
        ids = list(ids)
        default = {entity: text for entity, text in self._ask(templates.DESCRIPTIONS, ids).items() if text}
        return default | self._in_own_language("description", ids)

    def _in_own_language(self, kind: Kind, ids: Iterable[str]) -> dict[str, str]:
        """Return {id: text} for the ids with a label or description in one of the chain's own languages."""
        return choose_texts(self._ask_in_own_languages(kind, ids), self.languages)

    def _ask_in_own_languages(self, kind: Kind, ids: Iterable[str]) -> dict[str, Json]:
        """Return {"Q42 zh": [[code, text], ...]} in the own languages of the chain."""
        if not self._families:
            return {}
        return self._fetch(IN_LANGUAGES[kind], write_keys(kind, check_ids(ids), self._families))

    def types(self, ids: Iterable[str]) -> dict[str, frozenset[str]]:
        """Return {id: classes of which it is an instance (P31); an empty set for none}."""
        return {entity: frozenset(kinds) for entity, kinds in self._ask(templates.TYPES, ids).items()}

    def sitelinks(self, ids: Iterable[str]) -> dict[str, int]:
        """Return {id: number of pages about it in Wikipedia and its sister projects} for the ids that have a count."""
        counts = self._ask(templates.SITELINKS, ids)
        return {entity: count for entity, count in counts.items() if count is not None}

    def named(self, labels: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Return {label: sorted ids of items and properties with exactly this label; () for none}. Case matters.

        The label may be in any language of the chain.
        """
        by_default = self._named_by_default(labels)
        if not self._own_languages:
            return by_default
        in_own = self._named_in_own_languages(by_default.keys())
        return {label: tuple(sorted(in_own[label].union(ids))) for label, ids in by_default.items()}

    def _named_by_default(self, labels: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Return {label: sorted ids with this label in the default languages}.

        Wikidata's labels are in the form NFC. A label from macOS may be in NFD, which looks the same; it is asked for
        in both forms.
        """
        composed = {label: unicodedata.normalize("NFC", label) for label in labels}
        asked = {text for text in (*composed.keys(), *composed.values()) if is_text(text)}
        ids = self._fetch(templates.NAMED, asked)
        named = {}
        for label, nfc in composed.items():  # a label that is not a text was not asked for, and names nothing
            named[label] = tuple(ids.get(nfc) or ids.get(label, ()))
        return named

    def _named_in_own_languages(self, labels: Iterable[str]) -> dict[str, set[str]]:
        """Return {label: ids with this label in the chain's own languages}, in any width of characters."""
        spellings: dict[str, list[str]] = {}
        for label in filter(is_text, labels):
            forms = {unicodedata.normalize("NFC", label), unicodedata.normalize("NFKC", label)}
            spellings[label] = sorted(filter(None, forms))
        every_form = set[str]().union(*spellings.values())
        answers = self._fetch(IN_LANGUAGES["named"], write_keys("named", every_form, self._families))
        named = defaultdict[str, set[str]](set)
        for label, written in spellings.items():
            for key in write_keys("named", written, self._families):
                named[label].update(answers[key])
        return named

    def mentioned(self, ids: Iterable[str]) -> frozenset[str]:
        """Return those of the ids that are the value of at least one statement."""
        return frozenset(entity for entity, is_so in self._ask(templates.MENTIONED, ids).items() if is_so)

    def redirects(self, ids: Iterable[str]) -> dict[str, str]:
        """Return {id: item into which it was merged} for the ids that were merged."""
        return {entity: target for entity, target in self._ask(templates.REDIRECTS, ids).items() if target}

    def ends(self, ends: Iterable[str]) -> dict[str, Json]:
        """Return {end: [number of entities of known type, [[type, count], ...]]}, for ends such as "P19 object".

        `Fact` (kind "ends") describes the values.
        """
        return self._fetch(templates.ENDS, set(ends))

    def at_ends(self, pairs: Iterable[str]) -> dict[str, bool]:
        """Return {pair: whether the item is at that end}, for pairs of an end and an item such as "P19 object Q65"."""
        return self._fetch(templates.AT_END, set(pairs))

    def states(self, statement: Statement) -> bool:
        """Return whether the graph has this truthy statement."""
        pairs = self.out([statement.subject])[statement.subject]
        return (statement.property, statement.object) in pairs

    def statements(self, node: str, options: SubgraphOptions) -> list[Statement]:
        """Return all statements of a prefetched node, with housekeeping; for a hub, no incoming statements."""
        stated = self._known["out"][node]  # [[property, object], ...]
        if options.claims:
            stated = self._known["claims"][node]  # [[property, object, rank, start, end], ...]
        if options.values:
            stated = [*stated, *self._known["values"][node]]  # [[property, date or quantity], ...]
        statements: dict[Statement, None] = {}  # as an ordered set: several claims may have one statement
        for relation, value, *_ in stated:
            statements[Statement(node, relation, value)] = None
        if options.incoming:
            for subject, relation in self._known["in"][node] or ():
                statements[Statement(subject, relation, node)] = None
        return list(statements)

    @property
    def has_values(self) -> bool:
        """Whether any item that was asked for has a date or a quantity."""
        return any(self._known["values"].values())

    def is_hub(self, node: str) -> bool:
        """Return whether a prefetched node has too many incoming statements to expand (more than `queries.HUB`)."""
        known = self._known["in"]
        return node in known and known[node] is None  # a hub's answer, in place of its incoming statements

    def prefetch(self, ids: Collection[str], options: SubgraphOptions, *, also_label: Collection[str] = ()) -> None:
        """Fetch all facts that `usable` needs for these nodes, and the labels of further ids, in few requests."""
        if options.values:
            self.values(ids)  # first, since the Action API answers with the other statements too
        stated = self.out(ids)
        if options.claims:
            # A source without ranks would give empty subgraphs, so it is refused at the first node that shows it.
            claims = self.claims(ids)
            for node in ids:
                if stated[node] and not claims[node]:
                    raise TruthyOnlyError(node, self.source.name)
        if options.incoming:
            self.incoming(ids)
        self._prefetch_types_and_labels(ids, options, also_label)

    def _prefetch_types_and_labels(
        self, ids: Collection[str], options: SubgraphOptions, also_label: Collection[str]
    ) -> None:
        """Fetch the types of the items that the nodes' statements lead to, and the labels of everything in them."""
        relations: set[str] = set()
        others: set[str] = set()
        for node in ids:
            for statement in self.statements(node, options):
                if statement.property not in self._meta:  # housekeeping is left out anyway
                    relations.add(statement.property)
                    others.add(other_end(statement, node))
        items = others
        units: set[str] = set()
        if options.values:
            items = {other for other in others if not is_value(other)}
            for value in others - items:
                unit = find_unit(value)
                if unit is not None:
                    units.add(unit)
        self.types(items)
        self.labels(relations.union(items, units, ids, also_label))

    def usable(
        self, node: str, options: SubgraphOptions, *, labelled: Container[str], dropped: Counter[str]
    ) -> list[Statement]:
        """Return the statements of a prefetched node that are not housekeeping and whose parts have labels.

        Args:
            node: the item.
            options: direction, ranks, and whether dates and quantities count.
            labelled: entities that need no label, because the edit has one for them.
            dropped: counts, by reason, the statements that are left out.
        """
        types = self._known["types"]
        labels = self._known["label"]
        usable = []
        for statement in self.statements(node, options):
            relation = statement.property
            other = other_end(statement, node)
            if relation in self._meta:
                dropped["meta_property"] += 1
            elif not self.internal.isdisjoint(types.get(other, ())):  # a date or a quantity has no class
                dropped["internal_item"] += 1
            elif labels[relation] is None:
                dropped["unlabelled_property"] += 1
            elif self.default_label(other) is None and other not in labelled:
                dropped["unlabelled_item"] += 1
            else:
                usable.append(statement)
        return usable

    def _ask(self, template: Template, ids: Iterable[str]) -> dict[str, Json]:
        """Return {id: value} of the answers to a question about Wikidata ids, after checking their form."""
        return self._fetch(template, set(check_ids(ids)))

    def _fetch(self, template: Template, ids: Collection[str]) -> dict[str, Json]:
        """Return {id: value} of the answers; the source is asked for the ids whose answer is not in memory."""
        known = self._known[template.kind]
        # Sorted, so that the queries do not depend on the order of the edits.
        missing = sorted(entity for entity in ids if entity not in known)
        if missing:
            for answer in self.source.ask(template, missing):
                for kind, entity, value in answer.facts:
                    self._known[kind][entity] = value
        return {entity: known[entity] for entity in ids}


def _read_pairs(answer: Json) -> list[tuple[str, str]]:
    """Return the pairs of a JSON answer, which has lists of two."""
    return [(first, second) for first, second in answer]


def look_up_or_skip(look_up: Callable[[Iterable[str]], dict[str, T]], ids: Iterable[str]) -> dict[str, T]:
    """Return what a method of `Facts` returns for the ids; offline, only for those that the cache has."""
    ids = set(ids)
    while True:
        try:
            return look_up(ids)
        except CacheMissError as miss:
            # A miss of words in a language has keys such as "Q42 zh"; it may come after a miss of English ones.
            missing = ids.intersection({*miss.ids, *(key.partition(" ")[0] for key in miss.ids)})
            if not missing:
                raise
            ids -= missing


class Claim(NamedTuple):
    """A full statement of an item. `rank` is "preferred" or "normal"; times are xsd:dateTime texts, "" for none."""

    property: str
    object: str
    rank: str
    start: str
    end: str


def summarize_claims(claims: Iterable[Claim]) -> dict[str, object]:
    """Return the edge attributes of claims: `rank`, `start` and `end` of the best claim, and all `claims`, best first.

    The best claim has the highest rank, then the latest start, then the latest end. No start counts as the earliest,
    and no end as the latest.
    """
    latest_first = sorted(claims, key=_order_by_time, reverse=True)
    best_first = sorted(latest_first, key=lambda claim: claim.rank != "preferred")  # equal ranks stay in order of time
    described = []
    for claim in best_first:
        described.append({"rank": claim.rank, "start": claim.start or None, "end": claim.end or None})
    return {**described[0], "claims": described}


def _order_by_time(claim: Claim) -> tuple[tuple[float, str], bool, tuple[float, str]]:
    """Return the key by which claims are sorted from early to late."""
    return _parse_moment(claim.start), not claim.end, _parse_moment(claim.end)


def _parse_moment(time: str) -> tuple[float, str]:
    """Return an xsd:dateTime as (year, rest), which can be compared; years BCE begin with a minus.

    "-0044-03-15T00:00:00Z" -> (-44, "03-15T00:00:00Z"). Any other text, such as "", comes before all times.
    """
    year, _, rest = time.removeprefix("-").partition("-")
    try:
        number = int(year)
    except ValueError:  # not a time, or a year of more digits than Python reads
        return -math.inf, time
    if time.startswith("-"):
        number = -number
    return number, rest
