"""Link with Wikidata's Action API (https://www.wikidata.org/w/api.php), which the option --online chooses.

`ActionApi` uses wbsearchentities, search, and wbgetentities (50 ids per request), with the same rate limits and retries
as endpoints. `OnlineKnowledge` answers the questions of linking from it, and keeps the answers in memory only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from urllib.parse import urlencode
from urllib.request import Request

from wikidata_cache import safe_json
from wikidata_cache.endpoints.endpoint import MAX_ATTEMPTS, TRANSIENT, with_retries
from wikidata_cache.endpoints.failures import connection_error, parse_reply, printable, seconds_to_wait, wrong_answer
from wikidata_cache.endpoints.rate_limit import RateLimiter, forbid_when_offline, user_agent
from wikidata_cache.endpoints.transport import Reply, Transport
from wikidata_cache.errors import EndpointError, EndpointTrouble
from wikidata_cache.ids import LANGUAGES, WIKIDATA_API, is_entity
from wikidata_cache.labels.label_index import EntityKind, Match
from wikidata_cache.linking.api_json import (
    MALFORMED,
    ApiEntity,
    Json,
    parse_entities,
    parse_pages,
    parse_search,
)
from wikidata_cache.linking.candidates import for_name
from wikidata_cache.linking.knowledge import EntityInfo
from wikidata_cache.sources.source import batches

T = TypeVar("T")

_BATCH = 50  # ids per request of wbgetentities
_LONGEST = 250  # characters of a name; the searches refuse longer texts
_PASSING: Mapping[str, EndpointTrouble] = {
    "maxlag": "unavailable",
    "readonly": "unavailable",
    "ratelimited": "throttled",
}
_PROPS = "labels|aliases|descriptions|claims"
_NAMESPACES = {"item": "0", "property": "120"}
_SUGGESTION = "Check the URL (api.php of a Wikibase), or link offline."

_PER_SEARCH = 15  # hits per search; one request fetches the entities of both searches, with all their statements


class ActionApi:
    """The Action API of Wikidata or of another Wikibase, at `url`.

    `contact`, `timeout`, `patience` and `limiter` have the same meaning as for `EndpointSource`. Raises OfflineError if
    KG_OFFLINE is set, MissingContactError for a Wikimedia host without `contact` (or KG_EDIT_CONTACT), and
    EndpointError for any failure of a request.
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
        by_name = {"action": "wbsearchentities", "search": text, "language": "en", "uselang": "en", "type": kind}
        found = self._get(by_name | {"limit": str(min(limit, _BATCH))}, "search", parse_search)
        if terms := " ".join(re.findall(r"\w+", text)):  # this removes the operators of the search syntax
            by_word = {"action": "query", "list": "search", "srsearch": terms, "srnamespace": _NAMESPACES[kind]}
            found += self._get(by_word | {"srlimit": str(min(limit, _BATCH))}, "query", parse_pages)
        return list(dict.fromkeys(found))

    def entities(self, ids: Iterable[str]) -> dict[str, ApiEntity]:
        """Return the existing entities by requested id; a merged id gives the entity into which it was merged."""
        found: dict[str, ApiEntity] = {}
        ask = {
            "action": "wbgetentities",
            "props": _PROPS,
            "languages": "|".join(LANGUAGES),
        }
        for block in batches(sorted(set(ids)), size=_BATCH):
            found |= self._get(ask | {"ids": "|".join(block)}, "entities", partial(parse_entities, asked=block))
        return found

    def _get(self, parameters: Mapping[str, str], wanted: str, parse: Callable[[Json], T]) -> T:
        """Send a request and return the field `wanted` of its answer, parsed; retry where waiting helps."""
        forbid_when_offline(self.url)
        query = urlencode({**parameters, "format": "json", "formatversion": "2"})
        return with_retries(
            self._limiter,
            self.url,
            lambda: self._once(query, wanted, parse),
            patience=self._patience,
            attempts=lambda error: MAX_ATTEMPTS if error.trouble in (*TRANSIENT, "cut off") else 1,
        )

    def _once(self, query: str, wanted: str, parse: Callable[[Json], T]) -> T:
        try:
            reply = self._transport.send(query)
        except Exception as error:  # urllib, http.client and socket share no base class
            raise connection_error(error, self.url, self._transport.timeout) from error
        found = self._answer(reply, wanted)
        try:
            return parse(found)
        except MALFORMED as error:
            raise wrong_answer(
                self.url, f"found JSON that is not an answer of the API ({type(error).__name__}: {error})"
            ) from error

    def _answer(self, reply: Reply, wanted: str) -> Json:
        try:
            answer = safe_json.parse(reply.body) if reply.whole and reply.status == 200 else None
        except ValueError:
            answer = None
        if isinstance(answer, dict) and wanted in answer:
            return answer[wanted]
        if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
            raise self._refusal(answer["error"], reply)
        parse_reply(reply, self.url)  # raises for every reply that is not a SPARQL answer
        raise EndpointError(self.url, "bad answer", "found SPARQL results; expected JSON of the API", _SUGGESTION)

    def _refusal(self, error: Json, reply: Reply) -> EndpointError:
        code = str(error.get("code", "unknown"))
        trouble = _PASSING.get(code, "rejected")
        after = seconds_to_wait(reply.headers)
        found = printable(f"the API says {code}: {error.get('info', '')}")
        return EndpointError(self.url, trouble, found, _SUGGESTION, status=reply.status, retry_after=after)


@dataclass
class _Get(Transport):
    """A `Transport` that sends URL parameters by GET instead of SPARQL."""

    def _request(self, query: str) -> Request:
        headers = {"User-Agent": self.agent.replace("SPARQLWrapper/2", "urllib"), "Accept-Encoding": "gzip"}
        return Request(f"{self.url}?{query}", headers=headers)  # noqa: S310 it is http


class OnlineKnowledge:
    """`Knowledge` from an `ActionApi`. Each search and each entity is requested once; nothing is written to disk."""

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
        """Return the entities that either search finds, each with its best matching name; raises EndpointError."""
        asked = text, entity, min(limit, _PER_SEARCH)
        if asked not in self._searches:
            self._searches[asked] = self._api.search(text, limit=asked[2], kind=entity)
        ids = [one for one in self._searches[asked] if is_entity(one)]
        said = self._said(ids)
        return [best for one in ids if one in said and (best := _best(one, said[one], text))]

    def info(self, ids: Iterable[str]) -> Mapping[str, EntityInfo]:
        """Return what Wikidata states about each of the ids; raises EndpointError."""
        wanted = sorted(set(ids))
        said = self._said(wanted)
        return {entity: _entity_info(entity, said[entity]) if entity in said else EntityInfo() for entity in wanted}

    def labels(self, ids: Iterable[str]) -> Mapping[str, str]:
        """Return {id: label} for the ids that have a label; raises EndpointError."""
        said = self._said(sorted(set(ids)))
        return {entity: label for entity, found in said.items() if (label := found.label)}

    def _said(self, ids: Sequence[str]) -> dict[str, ApiEntity]:
        if missing := [entity for entity in ids if entity not in self._entities]:
            found = self._api.entities(missing)
            self._entities |= {said.id: said for said in found.values()}
            self._entities |= {entity: found.get(entity) for entity in missing}
        return {entity: said for entity in ids if (said := self._entities[entity])}


def _best(entity: str, said: ApiEntity, text: str) -> Match | None:
    matches = [Match(entity, name, language, kind, 0) for name, language, kind in said.names]
    return max(matches, key=lambda match: for_name(match, text).points, default=None)


def _entity_info(entity: str, said: ApiEntity) -> EntityInfo:
    types = frozenset(value for relation, value in said.statements if relation == "P31")
    merged = said.id if said.id != entity else None
    return EntityInfo(said.label, said.description, types, said.statements, merged)
