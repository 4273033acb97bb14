"""Wikidata's Action API, one polite request at a time: two searches, and what is said of up to 50 entities."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request

from wikidata_cache.endpoints.failures import no_reply, rows_of
from wikidata_cache.endpoints.rate_limit import Pace
from wikidata_cache.endpoints.retry import MOST, PASSING, insist
from wikidata_cache.endpoints.rules import forbid_when_offline, user_agent
from wikidata_cache.endpoints.transport import Reply, Transport
from wikidata_cache.errors import EndpointError, EndpointTrouble
from wikidata_cache.labels.label_index import EntityKind
from wikidata_cache.sources.queries import LANGUAGES
from wikidata_cache.sources.source import batches

WIKIDATA_API = "https://www.wikidata.org/w/api.php"

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
