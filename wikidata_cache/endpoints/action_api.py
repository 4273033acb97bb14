"""Wikidata's Action API (https://www.wikidata.org/w/api.php): names to link, and a second road to facts about ids.

`ActionApi` uses wbsearchentities, search, and wbgetentities (50 ids per request), with the same rate limits and retries
as endpoints. As a source, it has the facts that the query service would give, and is asked while that service refuses
or limits requests. The format of entities: https://doc.wikimedia.org/Wikibase/master/php/docs_topics_json.html

The class sends requests; the functions after it parse what comes back (`_parse_...`), and turn an entity into the
values of facts (`_to_values`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlencode
from urllib.request import Request

from kg_common import json_text
from kg_common.ids import is_entity, is_item, is_property
from wikidata_cache.endpoints.endpoint import (
    MAX_ATTEMPTS,
    TRANSIENT,
    EndpointSource,
    now,
    record_exchange,
)
from wikidata_cache.endpoints.failures import (
    explain_wrong_answer,
    make_printable,
    parse_reply,
    read_retry_after,
    read_term,
)
from wikidata_cache.endpoints.rate_limit import WaitBudget
from wikidata_cache.endpoints.transport import Reply, Transport
from wikidata_cache.errors import EndpointError, EndpointTrouble
from wikidata_cache.ids import is_text
from wikidata_cache.labels.label_index import EntityKind, NameKind
from wikidata_cache.languages import DEFAULT_LANGUAGES, Languages, list_codes, list_searched_languages
from wikidata_cache.offline import forbid_when_offline
from wikidata_cache.sources.queries import parse_words_of
from wikidata_cache.sources.source import Answer, Binding, Exchange, Fact, Kind, Template, batches
from wikidata_cache.values import json_value, rdf_time

T = TypeVar("T")
Json = Any
Name = tuple[str, str, NameKind]  # text, language, kind
Claim = tuple[str, str, str, str, str]  # property, item, rank, start, end

_BATCH = 50  # ids per request of wbgetentities
_LONGEST = 250  # characters of a name; the searches refuse longer texts
_TEMPORARY_ERRORS: Mapping[str, EndpointTrouble] = {  # codes of errors after which a later request may succeed
    "maxlag": "unavailable",
    "readonly": "unavailable",
    "ratelimited": "throttled",
}
_NAMESPACES = {"item": "0", "property": "120"}
_RANKS = ("preferred", "normal", "deprecated")
_SUGGESTION = "Check the URL (api.php of a Wikibase), or work offline."
# The parts of entities that answer a kind of question, as the API names them.
_TEXTS = ("labels", "descriptions")
_PARTS: Mapping[Kind, tuple[str, ...]] = {
    "label": _TEXTS,
    "description": _TEXTS,
    "redirect": _TEXTS,
    "mentioned": _TEXTS,
    "out": (*_TEXTS, "claims"),
    "claims": (*_TEXTS, "claims"),
    "types": (*_TEXTS, "claims"),
    "values": (*_TEXTS, "claims"),
    "sitelinks": ("sitelinks",),
}
# The part for a kind of question about texts in other languages than English.
_PARTS_IN: Mapping[Kind, str] = {"label_in": "labels", "description_in": "descriptions"}
# Facts of these kinds are kept whenever their parts come in an answer, whatever was asked. The other kinds of `_PARTS`
# are kept only if they were asked for, since few runs need them.
_KEPT_KINDS: tuple[Kind, ...] = ("label", "description", "redirect", "out", "claims", "types")
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError)  # what the parsers raise for JSON of another shape


@dataclass(frozen=True)
class ApiEntity:
    """An entity as the API describes it. What was not asked for is empty or None.

    In the API, "claims" are all statements. Here, as in `Fact`, they are those of every rank except deprecated.
    """

    id: str  # of a merged entity, the id of the one into which it was merged
    names: tuple[Name, ...]  # all labels and aliases in the requested languages, the preferred language first
    label: str | None  # the label in the preferred language that has one
    description: str | None  # likewise
    truthy: frozenset[tuple[str, str]]  # (property, item) of the statements of best rank
    claims: tuple[Claim, ...]  # the statements with an item as value, of every rank except deprecated, with times
    sitelink_count: int | None = None
    values: frozenset[tuple[str, str]] = frozenset()  # (property, date or quantity) of the statements of best rank
    labels: Mapping[str, str] = field(default_factory=dict)  # {language: label}
    descriptions: Mapping[str, str] = field(default_factory=dict)  # {language: description}


_EMPTY_ENTITY = ApiEntity(id="", names=(), label=None, description=None, truthy=frozenset(), claims=())


@dataclass
class _GetTransport(Transport):
    """A `Transport` that sends URL parameters by GET instead of SPARQL; `post` has no effect."""

    def _request(self, query: str) -> Request:
        separator = "?"
        if "?" in self.url:  # it has parameters of its own
            separator = "&"
        agent = self.agent.replace("SPARQLWrapper/2", "urllib")  # the library that builds this request
        headers = {"User-Agent": agent, "Accept-Encoding": "gzip"}
        return Request(f"{self.url}{separator}{query}", headers=headers)  # noqa: S310 it is http


class ActionApi(EndpointSource):
    """The Action API of Wikidata or of another Wikibase: searches for names, and a `Source` of facts about ids.

    As a source, it answers questions about the ids themselves ("out", "claims", "types", "label", "description",
    "redirect", "sitelinks", "values"), at most 50 ids per request; an answer also has the facts of other kinds that its
    request brought. An entity that exists counts as "mentioned". Other questions, and users' queries, need SPARQL.

    `url` is the address of api.php; the other arguments and the errors are those of `EndpointSource`.
    """

    most_ids = _BATCH
    transport_class = _GetTransport

    def search(
        self,
        text: str,
        *,
        limit: int = 10,
        kind: EntityKind = "item",
        languages: Languages = DEFAULT_LANGUAGES,
    ) -> list[str]:
        """Return the ids of two searches: names that begin with the text, then words anywhere (at most 50 ids each).

        Names are searched once for each family of languages in the chain (see `list_searched_languages`), each time for
        at most `limit` ids; words are searched once.
        """
        if not text.strip() or len(text) > _LONGEST or not is_text(text):
            return []
        most = str(min(limit, _BATCH))
        hits = list[str]()
        for code in list_searched_languages(languages):
            by_name = {"action": "wbsearchentities", "search": text, "language": code, "uselang": code, "type": kind}
            named, _ = self._get(by_name | {"limit": most}, "search", _parse_hits)
            hits += named
        terms = " ".join(re.findall(r"\w+", text))  # without the operators of the search syntax
        if terms:
            by_word = {"action": "query", "list": "search", "srsearch": terms, "srnamespace": _NAMESPACES[kind]}
            more, _ = self._get(by_word | {"srlimit": most}, "query", _parse_pages)
            hits += more
        return list(dict.fromkeys(hits))

    def entities(self, ids: Iterable[str], *, languages: Languages = DEFAULT_LANGUAGES) -> dict[str, ApiEntity]:
        """Return the existing entities by requested id; a merged id gives the entity into which it was merged.

        Names, label and description are in these languages.
        """
        entities: dict[str, ApiEntity] = {}
        for block in batches(sorted(set(ids)), size=_BATCH):
            found, _ = self._get_entities(block, ("labels", "aliases", "descriptions", "claims"), languages)
            entities |= found
        return entities

    def _get_entities(
        self, ids: Sequence[str], parts: Sequence[str], languages: Languages = DEFAULT_LANGUAGES
    ) -> tuple[dict[str, ApiEntity], Exchange]:
        """Return the existing entities of at most 50 ids, as `entities` does, and the request.

        Args:
            ids: the ids.
            parts: the parts of each entity to ask for, as the API names them.
            languages: those of texts.
        """
        request = {
            "action": "wbgetentities",
            "props": "|".join(parts),
            "languages": "|".join(languages),
            "ids": "|".join(ids),
        }

        def parse(content: Json) -> dict[str, ApiEntity]:
            return _parse_entities(content, requested=ids, languages=languages)

        return self._get(request, "entities", parse)

    def can_answer(self, template: Template | None) -> bool:
        """Return whether the source answers a question; None stands for a user's query."""
        return template is not None and (template.kind in _PARTS or template.kind in _PARTS_IN)

    def select(self, query: str) -> list[Binding]:
        """Raise EndpointError, since the API has no SPARQL."""
        raise self._explain_no_sparql("a SPARQL query")

    def _answer(self, template: Template, block: Sequence[str]) -> Answer:
        if not self.can_answer(template):
            raise self._explain_no_sparql(f"a question of the kind {template.kind!r}")
        if template.kind in _PARTS_IN:
            return self._answer_in_languages(template, block)
        parts = _PARTS[template.kind]
        entities, exchange = self._get_entities(block, parts)
        # The facts of other kinds that the same parts hold are kept, too: after a question of the kind "out", also the
        # labels, descriptions, redirects, claims and types.
        kinds: set[Kind] = {template.kind}
        for kind in _KEPT_KINDS:
            if set(_PARTS[kind]) <= set(parts):
                kinds.add(kind)
        facts = []
        for requested in block:
            values = _to_values(requested, entities.get(requested))
            facts += [Fact(kind, requested, value) for kind, value in values.items() if kind in kinds]
        return Answer("wbgetentities/1", facts, exchange)

    def _answer_in_languages(self, template: Template, block: Sequence[str]) -> Answer:
        """Return the texts of ids in languages, which keys such as "Q42 zh" ask for."""
        pairs = [parse_words_of(key) for key in block]
        codes = list[str]()
        for family in sorted({family for _, family in pairs}):
            codes += list_codes(family)
        ids = sorted({entity for entity, _ in pairs})
        entities, exchange = self._get_entities(ids, [_PARTS_IN[template.kind]], tuple(codes))
        facts = []
        for key, (requested, family) in zip(block, pairs, strict=True):
            texts = _select_texts(requested, entities.get(requested), template.kind)
            wanted = []
            for code in sorted(list_codes(family)):
                if texts.get(code, "").strip():
                    wanted.append([code, texts[code]])
            facts.append(Fact(template.kind, key, wanted))
        return Answer("wbgetentities/1", facts, exchange)

    def _explain_no_sparql(self, what: str) -> EndpointError:
        """Return the error for what only SPARQL can answer."""
        advice = "Give a SPARQL endpoint too, or ids instead of labels (`wikidata-cache link EDITS --online`)."
        return EndpointError(self.name, "rejected", f"the Action API can't answer {what}", advice)

    def _get(self, parameters: Mapping[str, str], name: str, parse: Callable[[Json], T]) -> tuple[T, Exchange]:
        """Send a request, with retries where waiting helps.

        Args:
            parameters: the parameters of the request.
            name: the field of the answer to read.
            parse: reads the content of this field; raises one of `_MALFORMED` for what is not an answer of the API.

        Returns:
            What `parse` returns, and the request.
        """
        query = urlencode({**parameters, "format": "json", "formatversion": "2"})
        forbid_when_offline(self.name)
        budget = WaitBudget(self.patience)
        attempts = 0
        while True:
            attempts += 1
            try:
                with self._limiter.take_turn(self.name, budget):  # waits until the API may be asked
                    return self._get_once(query, name, parse)
            except EndpointError as error:
                allowed = 1
                if error.trouble in TRANSIENT or error.trouble == "cut off":
                    allowed = MAX_ATTEMPTS
                self._raise_unless_retry(error, attempts < allowed, budget)

    def _get_once(self, query: str, name: str, parse: Callable[[Json], T]) -> tuple[T, Exchange]:
        """Send a request once; return what `parse` makes of the answer's field `name`, and the request."""
        fetched_at = now()
        reply = self._send(query)
        content = self._read_field(reply, name)
        try:
            if not isinstance(content, dict | list):
                raise TypeError(f"expected an object or a list, found {content!r:.80}")
            parsed = parse(content)
        except _MALFORMED as error:
            problem = f"found JSON that is not an answer of the API ({type(error).__name__}: {error})"
            raise explain_wrong_answer(self.name, problem) from error
        return parsed, record_exchange(self.name, query, reply, fetched_at=fetched_at, rows=len(content))

    def _read_field(self, reply: Reply, name: str) -> Json:
        """Return a field of the answer; raise EndpointError if the reply is anything else."""
        answer = _parse_object(reply)
        if name in answer:
            return answer[name]
        error = answer.get("error")
        if isinstance(error, dict):
            code = str(error.get("code", "unknown"))
            raise EndpointError(
                self.name,
                _TEMPORARY_ERRORS.get(code, "rejected"),
                make_printable(f"the API answers {code}: {error.get('info', '')}"),
                _SUGGESTION,
                status=reply.status,
                retry_after=read_retry_after(reply.headers),
            )
        raise _explain_other_reply(reply, self.name)


def _explain_other_reply(reply: Reply, url: str) -> EndpointError:
    """Return the error for a reply that is not JSON of the API.

    `parse_reply` finds it: there, any reply but the rows of a SPARQL query is an error, such as the page of a proxy.
    """
    try:
        parse_reply(reply, url)  # only for the error that it raises
    except EndpointError as error:
        return error
    return EndpointError(url, "bad answer", "found SPARQL results; expected JSON of the API", _SUGGESTION)


def _parse_object(reply: Reply) -> dict[str, Json]:
    """Return the JSON object of a reply; {} if the reply is incomplete, an error, or anything else than an object."""
    if not reply.is_complete or reply.status != 200:
        return {}
    try:
        answer = json_text.parse(reply.body)
    except ValueError:
        return {}
    if not isinstance(answer, dict):
        return {}
    return answer


def _parse_hits(hits: Json) -> list[str]:
    """Return the ids that wbsearchentities found."""
    return [_check_id(hit["id"]) for hit in hits]


def _parse_pages(answer: Json) -> list[str]:
    """Return the ids in the titles of pages, such as "Q42" or "Property:P31"."""
    return [_check_id(page["title"].rpartition(":")[2]) for page in answer["search"]]


def _parse_entities(answer: Json, requested: Collection[str], languages: Languages) -> dict[str, ApiEntity]:
    """Return the existing entities in an answer of wbgetentities, by the id that was requested."""
    extra = answer.keys() - set(requested)
    if extra:
        raise ValueError(f"found entities that were not requested: {', '.join(map(str, sorted(extra)))[:80]}")
    return {entity: _parse_entity(content, languages) for entity, content in answer.items() if "missing" not in content}


def _parse_entity(content: Json, languages: Languages) -> ApiEntity:
    """Return an entity; `languages` are those of `names`, `label` and `description`, the preferred one first."""
    labels = _parse_texts(content, "labels")
    descriptions = _parse_texts(content, "descriptions")
    statements = _parse_statements(content)
    sitelink_count = None
    if "sitelinks" in content:
        sitelink_count = len(content["sitelinks"])
    return ApiEntity(
        id=_check_id(content["id"]),
        names=tuple(_parse_names(content, labels, languages)),
        label=_choose_text(labels, languages),
        description=_choose_text(descriptions, languages),
        truthy=frozenset(statements.truthy),
        claims=tuple(sorted(statements.claims)),
        sitelink_count=sitelink_count,
        values=frozenset(statements.values),
        labels=labels,
        descriptions=descriptions,
    )


def _parse_texts(content: Json, name: str) -> dict[str, str]:
    """Return the texts of a field by language."""
    return {str(language): read_term(term) for language, term in _read_object(content, name).items()}


def _read_object(content: Json, name: str) -> Json:
    """Return a field whose value is an object; the API leaves an empty one out, or writes it as []."""
    return content.get(name) or {}


def _choose_text(texts: Mapping[str, str], languages: Languages) -> str | None:
    """Return the text in the first language that has one, or None."""
    for language in languages:
        if language in texts:
            return texts[language]
    return None


def _parse_names(content: Json, labels: Mapping[str, str], languages: Languages) -> list[Name]:
    """Return the labels and aliases in the wanted languages, the preferred language first."""
    aliases = {}
    for language, terms in _read_object(content, "aliases").items():
        aliases[language] = [read_term(term) for term in terms]
    names: list[Name] = []
    for language in languages:
        if labels.get(language):
            names.append((labels[language], language, "label"))
        names += [(alias, language, "alias") for alias in aliases.get(language, ())]
    return names


@dataclass
class _Statements:
    """The statements of an entity, in the three fields that `ApiEntity` has.

    `truthy` and `values` have the best rank that their property has. If a claim has several start and end times, there
    is an entry for each pair of them.
    """

    truthy: set[tuple[str, str]] = field(default_factory=set)
    claims: set[Claim] = field(default_factory=set)
    values: set[tuple[str, str]] = field(default_factory=set)


def _parse_statements(content: Json) -> _Statements:
    """Return the statements whose value is an item, a date or a quantity; deprecated ones never count."""
    statements = _Statements()
    for relation, entries in _read_object(content, "claims").items():
        if not is_property(relation):
            raise ValueError(f"found statements of {relation!r:.80}, which is not a property")
        best = _find_best_rank([entry["rank"] for entry in entries])  # never "deprecated"
        for entry in entries:
            rank = entry["rank"]
            datavalue = entry["mainsnak"].get("datavalue", {})
            if rank == best:
                literal = json_value(datavalue)
                if literal:
                    statements.values.add((relation, literal))
            item = _parse_item(datavalue)
            if item is None or rank == "deprecated":
                continue
            if rank == best:
                statements.truthy.add((relation, item))
            for start in _parse_times(entry, "P580"):
                for end in _parse_times(entry, "P582"):
                    statements.claims.add((relation, item, rank, start, end))
    return statements


def _parse_item(datavalue: Json) -> str | None:
    """Return the item that is the value of a statement; None for every other value."""
    value = datavalue.get("value")
    if isinstance(value, Mapping) and is_item(value.get("id", "")):
        return str(value["id"])
    return None


def _find_best_rank(ranks: Collection[Json]) -> str | None:
    """Return "preferred" if a statement of the property has this rank, else "normal" or None."""
    for rank in ranks:
        if rank not in _RANKS:
            raise ValueError(f"expected a rank, found {rank!r:.80}")
    for rank in ("preferred", "normal"):
        if rank in ranks:
            return rank
    return None


def _parse_times(entry: Json, qualifier: str) -> list[str]:
    """Return the values of a qualifier of time as the query service writes them; [""] if there is none."""
    snaks = _read_object(entry, "qualifiers").get(qualifier, ())
    times = [rdf_time(snak["datavalue"]["value"]) for snak in snaks if "datavalue" in snak]
    return times or [""]


def _check_id(entity: Json) -> str:
    if not is_entity(entity):
        raise ValueError(f"expected an id, found {entity!r:.80}")
    return str(entity)


def is_action_api(url: str) -> bool:
    """Return whether a URL is that of an Action API (its path ends in api.php) instead of a SPARQL endpoint."""
    # Not urlsplit, which raises for a malformed URL, such as one of a foreign cache file.
    return re.split("[?#]", url, maxsplit=1)[0].endswith("/api.php")


def _select_texts(requested: str, entity: ApiEntity | None, kind: Kind) -> Mapping[str, str]:
    """Return the labels or descriptions of an id by language; nothing for a missing one and for a merged one."""
    if entity is None or entity.id != requested:
        return {}
    if kind == "label_in":
        return entity.labels
    return entity.descriptions


def _to_values(requested: str, entity: ApiEntity | None) -> dict[Kind, Json]:
    """Return the values of facts about an id, as SPARQL has them.

    A missing id has no statements and texts. A merged one has none either, but a redirect to its new item.
    """
    redirect = None
    content = _EMPTY_ENTITY
    if entity is not None and entity.id == requested:
        content = entity
    elif entity is not None:
        redirect = entity.id
    labels = [[text, language] for text, language, kind in content.names if kind == "label" and text.strip()]
    label = None
    if labels:
        label = labels[0]
    truthy = sorted(content.truthy)
    return {
        "redirect": redirect,
        "label": label,
        "description": content.description,
        "mentioned": entity is not None,
        "out": [list(pair) for pair in truthy],
        "claims": [list(claim) for claim in content.claims],
        "types": [item for relation, item in truthy if relation == "P31"],
        "sitelinks": content.sitelink_count,
        "values": [list(pair) for pair in sorted(content.values)],
    }
