"""A SPARQL endpoint over HTTP as a source: polite, with its own deadline, and clear about how it failed.

How many ids to put into one question: halved where that was too many, grown again slowly.

To ask again, at the host's pace, as long as that makes sense.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from wikidata_cache.endpoints.failures import about, misfit, no_reply, rows_of, truncated
from wikidata_cache.endpoints.rate_limit import Pace, Patience, forbid_when_offline, user_agent
from wikidata_cache.endpoints.transport import Reply, Transport
from wikidata_cache.errors import EndpointError, TruncatedAnswerError
from wikidata_cache.sources.facts import Answer, Binding, Exchange
from wikidata_cache.sources.source import Provenance, SparqlSource, Template, whole

_PATIENT = 4  # successes until a larger block is tried
_MOST_PATIENT = 64


@dataclass
class _Size:
    ids: int
    most: int
    streak: int = 0
    needed: int = _PATIENT
    probing: bool = False  # nothing has yet come back at this size


class BlockSizes:
    """The size that an endpoint bears with, learned for each template."""

    def __init__(self) -> None:
        self._sizes: dict[str, _Size] = {}

    def of(self, template: Template) -> int:
        """How many ids to ask about at once."""
        return self._of(template).ids

    def too_many(self, template: Template, ids: int) -> None:
        """So many ids failed: halve, and be slower to grow where the failure came from growing."""
        size = self._of(template)
        if size.probing:
            size.needed = min(_MOST_PATIENT, 2 * size.needed)
        size.ids, size.streak, size.probing = max(1, ids // 2), 0, False

    def fine(self, template: Template) -> None:
        """A block came back: after enough of them in a row, double."""
        size = self._of(template)
        size.streak, size.probing = size.streak + 1, False
        if size.streak >= size.needed and size.ids < size.most:
            size.ids, size.streak, size.probing = min(size.most, 2 * size.ids), 0, True

    def _of(self, template: Template) -> _Size:
        return self._sizes.setdefault(template.name, _Size(template.size, template.size))


logger = logging.getLogger(__name__)

MOST = 4  # requests for one question
PASSING = ("throttled", "outage", "unavailable")  # troubles in which waiting helps
_TOLD_TO_WAIT = ("throttled", "outage")

T = TypeVar("T")


def insist(
    pace: Pace, url: str, once: Callable[[], T], *, patience: float, attempts: Callable[[EndpointError], int]
) -> T:
    """What `once` gives, each time in a turn of `pace`; at most `patience` seconds are waited in all.

    `attempts` says how many requests a failure is worth. Raises the last EndpointError, or where the host has
    asked to wait for longer, one that says until when.
    """
    left = Patience(patience)
    made = 0
    while True:
        made += 1
        try:
            with pace.turn(url, left):
                return once()
        except EndpointError as error:
            wait = pace.wait(url)
            if made >= attempts(error) or wait > left.left:
                if error.trouble in _TOLD_TO_WAIT and wait:
                    raise pace.refusal(url, left) from error
                raise
            logger.warning("%s Trying again in %.3g s", error, wait)


_DIVISIBLE = ("timeout", "truncated", "cut off", "too long")  # asking for less helps
_HEADERS = ("date", "server", "age", "x-served-by", "content-type")


class EndpointSource(SparqlSource):
    """A `Source` over a SPARQL endpoint, asked through SPARQLWrapper, one request at a time.

    `timeout` is the wall-clock limit of one request, and `patience` the longest total wait for the right to
    send one, both in seconds. `pace` is shared by sources whose hosts count their requests together. Raises
    OfflineError when KG_OFFLINE is set, MissingContactError for a Wikimedia host without `contact` (or
    KG_EDIT_CONTACT), and EndpointError for whatever the endpoint does wrong.
    """

    def __init__(
        self,
        url: str,
        *,
        contact: str | None = None,
        timeout: float = 90.0,
        patience: float = 180.0,
        pace: Pace | None = None,
    ) -> None:
        forbid_when_offline(url)
        self._transport = Transport(url, user_agent(url, contact), timeout)
        self._patience = patience
        self._pace = pace or Pace()
        self._sizes = BlockSizes()

    @property
    def name(self) -> str:
        """The endpoint's URL."""
        return self._transport.url

    def provenance(self, ids: Iterable[str] = ()) -> Provenance:
        """The URL, and the present time (UTC), since an endpoint's answers change."""
        return {"kind": "endpoint", "url": self.name, "fetched_at": _utc()}

    def ask(self, template: Template, ids: Sequence[str], *, patience: float | None = None) -> Iterator[Answer]:
        """An answer for each block of ids, in smaller blocks where the endpoint cannot manage larger ones.

        `patience` replaces the source's for these questions. Raises EndpointError where waiting, retrying
        and splitting down to one id do not help.
        """
        left = list(ids)
        while left:
            block = left[: self._sizes.of(template)]
            try:
                answer = self._answer(template, block, patience)
            except EndpointError as error:
                self._split(template, block, error)
                continue
            self._sizes.fine(template)
            del left[: len(block)]
            yield answer

    def select(self, query: str, *, patience: float | None = None) -> list[Binding]:
        """The rows of a SELECT query; waits and retries where that can help, else raises EndpointError."""
        return self._rows(query, patience, alone=True)[0]

    def _split(self, template: Template, block: Sequence[str], error: EndpointError) -> None:
        if error.trouble not in _DIVISIBLE:
            raise error
        if len(block) == 1:
            raise about(error, template.kind, block[0]) from error
        self._sizes.too_many(template, len(block))
        logger.info("%s Asking about %d instead of %d at a time.", error, self._sizes.of(template), len(block))

    def _answer(self, template: Template, block: Sequence[str], patience: float | None) -> Answer:
        query, fetched_at = template.query(block), _utc()
        rows, reply = self._rows(query, patience, alone=len(block) == 1)
        try:
            rows = whole(rows, self.name)
            facts = template.read(block, rows)
        except TruncatedAnswerError as error:
            raise truncated(self.name, error.rows) from error
        except (KeyError, ValueError) as error:
            raise misfit(self.name, error) from error
        headers = {name: reply.headers[name] for name in _HEADERS if name in reply.headers}
        digest = hashlib.sha256(reply.body).hexdigest()
        exchange = Exchange(self.name, query, fetched_at, reply.elapsed_ms, len(rows), digest, headers)
        return Answer(template.name, facts, exchange)

    def _rows(self, query: str, patience: float | None, *, alone: bool) -> tuple[list[Binding], Reply]:
        """The rows of a query and the reply they came in, after as many attempts as make sense."""
        forbid_when_offline(self.name)
        return insist(
            self._pace,
            self.name,
            partial(self._once, query),
            patience=self._patience if patience is None else patience,
            attempts=partial(self._attempts, alone=alone),
        )

    def _attempts(self, error: EndpointError, *, alone: bool) -> int:
        """How often to ask in all, now that this has happened."""
        if error.status == 414 and not self._transport.post:
            self._transport.post = True
            return MOST
        if error.trouble in PASSING or (alone and (error.trouble == "cut off" or error.status in (503, 504))):
            return MOST
        return 2 if error.trouble == "cut off" else 1  # what passes is gone by then; else split

    def _once(self, query: str) -> tuple[list[Binding], Reply]:
        try:
            reply = self._transport.send(query)
        except Exception as error:  # urllib, http.client and socket share no base class
            raise no_reply(error, self.name, self._transport.timeout) from error
        return rows_of(reply, self.name), reply


def _utc() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
