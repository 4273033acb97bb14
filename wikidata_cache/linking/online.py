"""Link with Wikidata's Action API (https://www.wikidata.org/w/api.php), which the option --online chooses.

`ActionApi` uses wbsearchentities, search, and wbgetentities (50 ids per request), with the same rate limits and retries
as endpoints. `OnlineKnowledge` answers the questions of linking from it, and has the answers in memory only. The
format of entities: https://doc.wikimedia.org/Wikibase/master/php/docs_topics_json.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlencode
from urllib.request import Request

from wikidata_cache import safe_json
from wikidata_cache.endpoints.endpoint import MAX_ATTEMPTS, TRANSIENT, with_retries
from wikidata_cache.endpoints.failures import connection_error, parse_reply, printable, seconds_to_wait, wrong_answer
from wikidata_cache.endpoints.rate_limit import RateLimiter, forbid_when_offline, user_agent
from wikidata_cache.endpoints.transport import Reply, Transport
from wikidata_cache.errors import EndpointError, EndpointTrouble
from wikidata_cache.ids import LANGUAGES, WIKIDATA_API, is_entity, is_item, is_property
from wikidata_cache.labels.label_index import EntityKind, Match, NameKind
from wikidata_cache.linking.candidates import name_reason
from wikidata_cache.linking.knowledge import EntityInfo
from wikidata_cache.sources.source import batches

T = TypeVar("T")
Json = Any
Name = tuple[str, str, NameKind]  # text, language, kind

_BATCH = 50  # ids per request of wbgetentities
_PER_SEARCH = 15  # hits per search; one request fetches the entities of both searches, with all their statements
_LONGEST = 250  # characters of a name; the searches refuse longer texts
_PASSING: Mapping[str, EndpointTrouble] = {
    "maxlag": "unavailable",
    "readonly": "unavailable",
    "ratelimited": "throttled",
}
_NAMESPACES = {"item": "0", "property": "120"}
_RANKS = ("preferred", "normal", "deprecated")
_SUGGESTION = "Check the URL (api.php of a Wikibase), or link offline."
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError)  # what the parsers raise for JSON of another shape


@dataclass(frozen=True)
class ApiEntity:
    """An entity as the API describes it. `statements` are pairs (property, item) of best rank.

    If the requested entity was merged into another one, `id` is the id of that other entity.
    """

    id: str
    names: tuple[Name, ...]
    label: str | None
    description: str | None
    statements: frozenset[tuple[str, str]]


class ActionApi:
    """The Action API of Wikidata or of another Wikibase.

    Args:
        url: the address of api.php.
        contact: your e-mail address or URL (default: KG_EDIT_CONTACT); Wikimedia hosts require it.
        timeout: seconds per request.
        patience: seconds to wait in all where a host requires it.
        limiter: the rate limits to obey; by default of this object only.

    Raises:
        OfflineError: KG_OFFLINE is set.
        MissingContactError: a Wikimedia host without a contact.
        EndpointError: any failure of a request.
    """

    def __init__(
        self,
        url: str = WIKIDATA_API,
        *,
        contact: str | None = None,
        timeout: float = 30.0,
        patience: float = 180.0,
        limiter: RateLimiter | None = None,
    ) -> None:
        forbid_when_offline(url)
        self.url = url
        self._transport = _Get(url, user_agent(url, contact), timeout)
        self._patience = patience
        self._limiter = limiter or RateLimiter()

    def search(self, text: str, *, limit: int = 10, kind: EntityKind = "item") -> list[str]:
        """Return the ids of two searches: names that begin with the text, then words anywhere (at most 50 ids each)."""
        if not text.strip() or len(text) > _LONGEST:
            return []
        most = str(min(limit, _BATCH))
        by_name = {"action": "wbsearchentities", "search": text, "language": "en", "uselang": "en", "type": kind}
        hits = self._get(by_name | {"limit": most}, "search", lambda hits: [_checked_id(hit["id"]) for hit in hits])
        if terms := " ".join(re.findall(r"\w+", text)):  # this removes the operators of the search syntax
            by_word = {"action": "query", "list": "search", "srsearch": terms, "srnamespace": _NAMESPACES[kind]}
            # Titles of pages are such as "Q42" or "Property:P31".
            hits += self._get(
                by_word | {"srlimit": most},
                "query",
                lambda answer: [_checked_id(page["title"].rpartition(":")[2]) for page in answer["search"]],
            )
        return list(dict.fromkeys(hits))

    def entities(self, ids: Iterable[str]) -> dict[str, ApiEntity]:
        """Return the existing entities by requested id; a merged id gives the entity into which it was merged."""
        found: dict[str, ApiEntity] = {}
        request = {
            "action": "wbgetentities",
            "props": "labels|aliases|descriptions|claims",
            "languages": "|".join(LANGUAGES),
        }
        for block in batches(sorted(set(ids)), size=_BATCH):
            found |= self._get(request | {"ids": "|".join(block)}, "entities", partial(_parse_entities, wanted=block))
        return found

    def _get(self, parameters: Mapping[str, str], field: str, parse: Callable[[Json], T]) -> T:
        """Send a request and return the parsed `field` of its answer; retry where waiting helps."""
        forbid_when_offline(self.url)
        query = urlencode({**parameters, "format": "json", "formatversion": "2"})
        return with_retries(
            self._limiter,
            self.url,
            lambda: self._once(query, field, parse),
            patience=self._patience,
            attempts=lambda error: MAX_ATTEMPTS if error.trouble in (*TRANSIENT, "cut off") else 1,
        )

    def _once(self, query: str, field: str, parse: Callable[[Json], T]) -> T:
        try:
            reply = self._transport.send(query)
        except Exception as error:  # urllib, http.client and socket share no base class
            raise connection_error(error, self.url, self._transport.timeout) from error
        content = self._field(reply, field)
        try:
            return parse(content)
        except _MALFORMED as error:
            raise wrong_answer(
                self.url, f"found JSON that is not an answer of the API ({type(error).__name__}: {error})"
            ) from error

    def _field(self, reply: Reply, field: str) -> Json:
        try:
            answer = safe_json.parse(reply.body) if reply.whole and reply.status == 200 else None
        except ValueError:
            answer = None
        if isinstance(answer, dict) and field in answer:
            return answer[field]
        if isinstance(answer, dict) and isinstance(error := answer.get("error"), dict):
            code = str(error.get("code", "unknown"))
            raise EndpointError(
                self.url,
                _PASSING.get(code, "rejected"),
                printable(f"the API answers {code}: {error.get('info', '')}"),
                _SUGGESTION,
                status=reply.status,
                retry_after=seconds_to_wait(reply.headers),
            )
        parse_reply(reply, self.url)  # raises for every reply that is not a SPARQL answer
        raise EndpointError(self.url, "bad answer", "found SPARQL results; expected JSON of the API", _SUGGESTION)


@dataclass
class _Get(Transport):
    """A `Transport` that sends URL parameters by GET instead of SPARQL."""

    def _request(self, query: str) -> Request:
        headers = {"User-Agent": self.agent.replace("SPARQLWrapper/2", "urllib"), "Accept-Encoding": "gzip"}
        return Request(f"{self.url}?{query}", headers=headers)  # noqa: S310 it is http


def _parse_entities(answer: Json, wanted: Collection[str]) -> dict[str, ApiEntity]:
    """Return the existing entities in an answer of wbgetentities, by the id that was requested."""
    if others := answer.keys() - set(wanted):
        raise ValueError(f"found entities that were not requested: {', '.join(map(str, sorted(others)))[:80]}")
    return {entity: _parse_entity(content) for entity, content in answer.items() if "missing" not in content}


def _parse_entity(content: Json) -> ApiEntity:
    def texts(field: str) -> dict[str, str]:  # by language; the API writes an empty object as []
        return {str(language): _text(one) for language, one in (content.get(field) or {}).items()}

    labels, descriptions = texts("labels"), texts("descriptions")
    aliases = {language: [_text(one) for one in found] for language, found in (content.get("aliases") or {}).items()}
    names: list[Name] = []
    for language in LANGUAGES:
        if label := labels.get(language):
            names.append((label, language, "label"))
        names += [(alias, language, "alias") for alias in aliases.get(language, ())]

    # Truthy statements have the best rank that their property has; deprecated ones never count. Values that are not
    # items are left out, and so are statements without a value.
    statements = set()
    for relation, claims in (content.get("claims") or {}).items():
        if not is_property(relation):
            raise ValueError(f"found statements of {relation!r:.80}, which is not a property")
        ranks = [claim["rank"] for claim in claims]
        if wrong := [rank for rank in ranks if rank not in _RANKS]:
            raise ValueError(f"expected a rank, found {wrong[0]!r:.80}")
        best = next((rank for rank in ("preferred", "normal") if rank in ranks), None)
        for claim, rank in zip(claims, ranks, strict=True):
            value = claim["mainsnak"].get("datavalue", {}).get("value")
            item = value.get("id", "") if isinstance(value, Mapping) else ""
            if rank == best and is_item(item):
                statements.add((relation, item))

    label, description = (
        next((texts[language] for language in LANGUAGES if language in texts), None) for texts in (labels, descriptions)
    )
    return ApiEntity(_checked_id(content["id"]), tuple(names), label, description, frozenset(statements))


def _text(content: Json) -> str:
    """Return the text of a label, description or alias, with lone surrogates replaced."""
    text = content["value"]
    if not isinstance(text, str):
        raise TypeError(f"expected a text, found {text!r:.80}")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _checked_id(entity: Json) -> str:
    if not is_entity(entity):
        raise ValueError(f"expected an id, found {entity!r:.80}")
    return str(entity)


class OnlineKnowledge:
    """`Knowledge` from an `ActionApi`. Each search and each entity is requested once; nothing is written to disk.

    All methods that send requests raise EndpointError.
    """

    def __init__(self, api: ActionApi) -> None:
        self._api = api
        self._entities: dict[str, ApiEntity | None] = {}
        self._searches: dict[tuple[str, EntityKind, int], list[str]] = {}

    @property
    def name(self) -> str:
        """The URL of the API, for messages."""
        return self._api.url

    @property
    def is_remote(self) -> bool:
        """True: every question is a request."""
        return True

    def prefetch_names(self, texts: Iterable[str]) -> None:
        """Do nothing: a search takes only one name."""

    def similar_properties(self, text: str) -> Sequence[Match]:
        """Return (): the searches find similar names themselves."""
        return ()

    def named(self, text: str, *, limit: int, entity: EntityKind) -> Sequence[Match]:
        """Return the entities that either search finds, each with its best matching name."""
        search = text, entity, min(limit, _PER_SEARCH)
        if search not in self._searches:
            self._searches[search] = self._api.search(text, limit=search[2], kind=entity)
        matches = []
        for found_id, found in self._fetched(self._searches[search]).items():
            names = [Match(found_id, name, language, kind, 0) for name, language, kind in found.names]
            if names:
                matches.append(max(names, key=lambda match: name_reason(match, text).points))
        return matches

    def info(self, ids: Iterable[str]) -> Mapping[str, EntityInfo]:
        """Return the facts that Wikidata has about each of the ids."""
        wanted = sorted(set(ids))
        fetched = self._fetched(wanted)
        about = dict.fromkeys(wanted, EntityInfo())
        for entity, found in fetched.items():
            types = frozenset(value for relation, value in found.statements if relation == "P31")
            merged = found.id if found.id != entity else None
            about[entity] = EntityInfo(found.label, found.description, types, found.statements, merged)
        return about

    def labels(self, ids: Iterable[str]) -> Mapping[str, str]:
        """Return {id: label} for the ids that have a label."""
        return {entity: label for entity, found in self._fetched(sorted(set(ids))).items() if (label := found.label)}

    def _fetched(self, ids: Sequence[str]) -> dict[str, ApiEntity]:
        if missing := [entity for entity in ids if entity not in self._entities]:
            found = self._api.entities(missing)
            self._entities |= {entity.id: entity for entity in found.values()}
            self._entities |= {entity_id: found.get(entity_id) for entity_id in missing}
        return {entity_id: entity for entity_id in ids if (entity := self._entities[entity_id])}
