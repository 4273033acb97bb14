"""A SPARQL endpoint over HTTP as a source: polite, with its own deadline, and clear about how it failed."""

import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit

from wikidata_cache.endpoints.failures import bad_answer, classify, too_slow
from wikidata_cache.errors import EndpointError, MissingContactError, OfflineError
from wikidata_cache.release import release
from wikidata_cache.sources.answer import Row
from wikidata_cache.sources.source import Provenance, SparqlSource

logger = logging.getLogger(__name__)

_WIKIMEDIA = ("wikidata.org", "wikimedia.org", "wikipedia.org", "mediawiki.org")
_ATTEMPTS = 3
_GET_LIMIT = 7_500  # bytes of URL; longer questions go by POST
_RETRIED = ("throttled", "unavailable")


class EndpointSource(SparqlSource):
    """A `Source` over a SPARQL endpoint, asked through SPARQLWrapper, one request at a time.

    `timeout` is the wall-clock limit of one request, and `patience` the longest total wait between retries,
    both in seconds. Raises OfflineError when KG_OFFLINE is set, MissingContactError for a Wikimedia host
    without `contact` (or KG_EDIT_CONTACT), and EndpointError for whatever the endpoint does wrong.
    """

    def __init__(self, url: str, *, contact: str | None = None, timeout: float = 90.0, patience: float = 60.0) -> None:
        forbid_when_offline(url)
        self._url = url
        self._agent = _user_agent(url, contact or os.environ.get("KG_EDIT_CONTACT", ""))
        self._timeout = timeout
        self._patience = patience

    @property
    def name(self) -> str:
        """The endpoint's URL."""
        return self._url

    def provenance(self, ids: Iterable[str] = ()) -> Provenance:
        """The URL, and the present time (UTC), since an endpoint's answers change."""
        fetched_at = datetime.now(UTC).isoformat(timespec="seconds")
        return {"kind": "endpoint", "url": self._url, "fetched_at": fetched_at}

    def select(self, query: str) -> list[Row]:
        """The rows of a SELECT query; waits and retries where that can help, else raises EndpointError."""
        forbid_when_offline(self._url)
        left = self._patience
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._ask(query)
            except EndpointError as error:
                wait = float(attempt) if error.retry_after is None else error.retry_after
                if error.trouble not in _RETRIED or attempt == _ATTEMPTS or wait > left:
                    raise
                logger.warning("%s Trying again in %g s", error, wait)
                time.sleep(wait)
                left -= wait
        raise AssertionError("unreachable")

    def _ask(self, query: str) -> list[Row]:
        deadline = time.monotonic() + self._timeout
        try:
            response = self._send(query)
            content_type = response.headers.get("Content-Type", "")
            body = self._read(response, deadline)
        except EndpointError:
            raise
        except Exception as error:  # urllib, http.client, socket and SPARQLWrapper share no base class
            raise classify(error, self._url, self._timeout) from error
        return _rows(body, content_type, self._url)

    def _send(self, query: str) -> HTTPResponse:
        from SPARQLWrapper import GET, JSON, POST, SPARQLWrapper  # here, since only endpoints need it

        wrapper = SPARQLWrapper(self._url, returnFormat=JSON, agent=self._agent)
        wrapper.setOnlyConneg(True)
        wrapper.setTimeout(self._timeout)  # type: ignore[arg-type]  # its socket takes fractions of a second
        wrapper.setQuery(query)
        wrapper.setMethod(POST if len(self._url) + len(query) * 1.5 > _GET_LIMIT else GET)
        response: HTTPResponse = wrapper.query().response
        return response

    def _read(self, response: HTTPResponse, deadline: float) -> bytes:
        # A socket timeout restarts with every packet, so a slow drip needs a deadline of our own.
        chunks = []
        with response:
            while chunk := response.read1(1 << 16):
                chunks.append(chunk)
                if time.monotonic() > deadline:
                    raise too_slow(self._url, self._timeout)
        return b"".join(chunks)


def forbid_when_offline(url: str) -> None:
    """Raise OfflineError where the environment sets KG_OFFLINE to anything but 0 or nothing."""
    if os.environ.get("KG_OFFLINE", "").strip().lower() not in ("", "0", "false", "no"):
        raise OfflineError(
            f"{url} is an endpoint, and KG_OFFLINE is set. Unset KG_OFFLINE, or give a graph file "
            f"(FILE.nt.gz), a folder of them, or oxigraph:FOLDER."
        )


def _user_agent(url: str, contact: str) -> str:
    host = urlsplit(url).hostname or ""
    wikimedia = any(host == domain or host.endswith("." + domain) for domain in _WIKIMEDIA)
    reachable = contact.isprintable() and ("@" in contact or "://" in contact)
    if (wikimedia and not reachable) or not contact.isprintable():
        raise MissingContactError(
            f"{host} asks every client to say whom to write to, and found contact={contact!r}. Give "
            f"contact='you@example.org' (or a URL of yours), or set KG_EDIT_CONTACT. It is sent along."
        )
    return f"wikidata-cache/{release()} ({contact or 'no contact given'}) SPARQLWrapper/2"


def _rows(body: bytes, content_type: str, url: str) -> list[Row]:
    """SPARQL 1.1 JSON results as rows; a cut-off or foreign answer raises EndpointError."""
    if "json" not in content_type:
        raise bad_answer(url, content_type, body)
    try:
        bindings: list[Mapping[str, Mapping[str, Any]]] = json.loads(body)["results"]["bindings"]
        return [{name: str(term["value"]) for name, term in row.items()} for row in bindings]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise bad_answer(url, content_type, body) from error
