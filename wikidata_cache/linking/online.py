"""Knowledge from Wikidata itself, through its Action API; only for those who ask for it.

Wikidata's Action API, one polite request at a time: two searches, and what is said of up to 50 entities.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request

from wikidata_cache.endpoints.endpoint import MOST, PASSING, insist
from wikidata_cache.endpoints.failures import no_reply, rows_of
from wikidata_cache.endpoints.rate_limit import Pace, forbid_when_offline, user_agent
from wikidata_cache.endpoints.transport import Reply, Transport
from wikidata_cache.errors import EndpointError, EndpointTrouble
from wikidata_cache.ids import LANGUAGES, WIKIDATA_API, is_entity, is_item
from wikidata_cache.labels.label_index import EntityKind, Match, NameKind
from wikidata_cache.linking.candidates import for_name
from wikidata_cache.linking.knowledge import About
from wikidata_cache.sources.source import batches

Json = Any

_BATCH = 50  # ids that wbgetentities takes
_LONGEST = 250  # characters of a name; the searches refuse more
_PASSING: Mapping[str, EndpointTrouble] = {
    "maxlag": "unavailable",
    "readonly": "unavailable",
    "ratelimited": "throttled",
}
_PROPS = "labels|aliases|descriptions|claims"
_NAMESPACES = {"item": "0", "property": "120"}
_WAY_OUT = "Check the URL (api.php of a Wikibase), or link offline."


class ActionApi:
    """The Action API of Wikidata or of another Wikibase, at `url`.

    `contact`, `timeout`, `patience` and `pace` are what they are for `EndpointSource`. Raises OfflineError when
    KG_OFFLINE is set, MissingContactError for a Wikimedia host without `contact` (or KG_EDIT_CONTACT), and
    EndpointError for whatever goes wrong.
    """

    def __init__(
        self,
        url: str = WIKIDATA_API,
        *,
        contact: str | None = None,
        timeout: float = 30.0,
        patience: float = 180.0,
        pace: Pace | None = None,
    ) -> None:
        forbid_when_offline(url)
        self.url = url
        self._transport = _Get(url, user_agent(url, contact), timeout)
        self._patience = patience
        self._pace = pace or Pace()

    def search(self, text: str, *, limit: int = 10, kind: EntityKind = "item") -> list[str]:
        """The ids that either search gives: by the beginnings of names (at most 50), then by words anywhere."""
        if not text.strip() or len(text) > _LONGEST:
            return []
        by_name = {"action": "wbsearchentities", "search": text, "language": "en", "uselang": "en", "type": kind}
        entities = self._get(by_name | {"limit": str(min(limit, _BATCH))}, "search")
        found = [str(entity["id"]) for entity in entities]
        if terms := " ".join(re.findall(r"\w+", text)):  # no operator of the search is left in it
            by_word = {"action": "query", "list": "search", "srsearch": terms, "srnamespace": _NAMESPACES[kind]}
            pages = self._get(by_word | {"srlimit": str(min(limit, _BATCH))}, "query")["search"]
            found += [str(page["title"]).rpartition(":")[2] for page in pages]
        return list(dict.fromkeys(found))

    def entities(self, ids: Iterable[str]) -> dict[str, Json]:
        """The JSON of those ids that exist, by the id that was asked for; redirects are followed."""
        found: dict[str, Json] = {}
        ask = {
            "action": "wbgetentities",
            "props": "labels|aliases|descriptions|claims",
            "languages": "|".join(LANGUAGES),
        }
        for block in batches(sorted(set(ids)), size=_BATCH):
            found |= self._get(ask | {"ids": "|".join(block)}, "entities")
        return {entity: said for entity, said in found.items() if "missing" not in said}

    def _get(self, parameters: Mapping[str, str], wanted: str) -> Json:
        """What one question's answer has under `wanted`, after as many attempts as make sense."""
        forbid_when_offline(self.url)
        query = urlencode({**parameters, "format": "json", "formatversion": "2"})
        return insist(
            self._pace,
            self.url,
            lambda: self._once(query, wanted),
            patience=self._patience,
            attempts=lambda error: MOST if error.trouble in (*PASSING, "cut off") else 1,
        )

    def _once(self, query: str, wanted: str) -> Json:
        try:
            reply = self._transport.send(query)
        except Exception as error:  # urllib, http.client and socket share no base class
            raise no_reply(error, self.url, self._transport.timeout) from error
        return self._answer(reply, wanted)

    def _answer(self, reply: Reply, wanted: str) -> Json:
        try:
            answer = json.loads(reply.body) if reply.whole and reply.status == 200 else None
        except ValueError:
            answer = None
        if isinstance(answer, dict) and wanted in answer:
            return answer[wanted]
        if isinstance(answer, dict) and "error" in answer:
            raise self._refusal(answer["error"], reply)
        rows_of(reply, self.url)  # raises for every reply that is no SPARQL answer
        raise EndpointError(self.url, "bad answer", "found SPARQL results", _WAY_OUT)

    def _refusal(self, error: Json, reply: Reply) -> EndpointError:
        code = str(error.get("code", "unknown"))
        trouble = _PASSING.get(code, "rejected")
        wait = reply.headers.get("retry-after", "")
        after = float(wait) if wait.isdecimal() else None
        found = f"the API says {code}: {error.get('info', '')}"
        return EndpointError(self.url, trouble, found, _WAY_OUT, status=reply.status, retry_after=after)


@dataclass
class _Get(Transport):
    """Sends parameters, not SPARQL."""

    def _request(self, query: str) -> Request:
        headers = {"User-Agent": self.agent.replace("SPARQLWrapper/2", "urllib"), "Accept-Encoding": "gzip"}
        return Request(f"{self.url}?{query}", headers=headers)  # noqa: S310 it is http


_PER_SEARCH = 15  # the entities of both searches go in one request, with all their statements
_RANKS = ("preferred", "normal")  # the best one that is there is truthy; deprecated never is


class OnlineKnowledge:
    """Knowledge of an `ActionApi`. Searches and entities are asked for once; nothing is written to disk."""

    def __init__(self, api: ActionApi) -> None:
        self._api = api
        self._entities: dict[str, Json] = {}
        self._searches: dict[tuple[str, EntityKind, int], list[str]] = {}

    @property
    def name(self) -> str:
        """The API's URL."""
        return self._api.url

    @property
    def far(self) -> bool:
        """Every question is a request."""
        return True

    def ask_names(self, texts: Iterable[str]) -> None:
        """Nothing: a search takes one name."""

    def near_properties(self, text: str) -> Sequence[Match]:
        """None: the searches have found whatever is near."""
        return ()

    def named(self, text: str, *, limit: int, entity: EntityKind) -> Sequence[Match]:
        """What either search gives for the text, each with the name that agrees best; raises EndpointError."""
        asked = text, entity, min(limit, _PER_SEARCH)
        if asked not in self._searches:
            self._searches[asked] = self._api.search(text, limit=asked[2], kind=entity)
        ids = [one for one in self._searches[asked] if is_entity(one)]
        said = self._said(ids)
        return [best for one in ids if one in said and (best := _best(one, said[one], text))]

    def about(self, ids: Iterable[str]) -> Mapping[str, About]:
        """What Wikidata says of each of the ids; raises EndpointError."""
        wanted = sorted(set(ids))
        said = self._said(wanted)
        return {entity: _about(entity, said[entity]) if entity in said else About() for entity in wanted}

    def labels(self, ids: Iterable[str]) -> Mapping[str, str]:
        """The labels of those ids that have one; raises EndpointError."""
        said = self._said(sorted(set(ids)))
        return {entity: label for entity, found in said.items() if (label := _first(found.get("labels")))}

    def _said(self, ids: Sequence[str]) -> dict[str, Json]:
        if missing := [entity for entity in ids if entity not in self._entities]:
            found = self._api.entities(missing)
            self._entities |= {said["id"]: said for said in found.values()}
            self._entities |= {entity: found.get(entity) for entity in missing}
        return {entity: said for entity in ids if (said := self._entities[entity])}


def _best(entity: str, said: Json, text: str) -> Match | None:
    matches = [Match(entity, name, language, kind, 0) for name, language, kind in _names(said)]
    return max(matches, key=lambda match: for_name(match, text).points, default=None)


def _names(said: Json) -> Iterator[tuple[str, str, NameKind]]:
    for language in LANGUAGES:
        if label := (said.get("labels") or {}).get(language):
            yield label["value"], language, "label"
        for alias in (said.get("aliases") or {}).get(language, ()):
            yield alias["value"], language, "alias"


def _about(entity: str, said: Json) -> About:
    pairs = frozenset((relation, value) for relation, value in _truthy(said.get("claims") or {}))
    types = frozenset(value for relation, value in pairs if relation == "P31")
    merged = said["id"] if said["id"] != entity else None
    return About(_first(said.get("labels")), _first(said.get("descriptions")), types, pairs, merged)


def _truthy(claims: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    """The item-valued statements of best rank."""
    for relation, statements in claims.items():
        ranks = {statement["rank"] for statement in statements}
        best = next((rank for rank in _RANKS if rank in ranks), None)
        for statement in statements:
            value = statement["mainsnak"].get("datavalue", {}).get("value")
            item = value.get("id", "") if isinstance(value, Mapping) else ""
            if statement["rank"] == best and is_item(item):
                yield relation, item


def _first(texts: Json) -> str | None:
    """The text in the first of our languages."""
    found: list[str] = [texts[language]["value"] for language in LANGUAGES if language in (texts or {})]
    return found[0] if found else None
