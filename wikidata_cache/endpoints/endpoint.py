"""A SPARQL 1.1 endpoint over HTTP as a source: rate-limited, retried, and asked in blocks that it can answer.

`EndpointSource` sends each question as a block of ids. A block that times out or comes back cut off is halved, down to
one id; after successes it grows again (`BlockSizes`). Failures in which waiting helps are retried (`with_retries`) at
the host's own rate (`rate_limit.py`). Every answer keeps an account of its request (`Exchange`).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from wikidata_cache.endpoints.failures import (
    connection_error,
    for_single_id,
    parse_reply,
    truncated_answer,
    wrong_answer,
)
from wikidata_cache.endpoints.rate_limit import RateLimiter, WaitBudget, forbid_when_offline, user_agent
from wikidata_cache.endpoints.transport import Reply, Transport
from wikidata_cache.endpoints.web import largest_answer
from wikidata_cache.errors import EndpointError, TruncatedAnswerError, WrongAnswerError
from wikidata_cache.sources.queries import LITERALS, echo_query
from wikidata_cache.sources.schema import value_problem
from wikidata_cache.sources.source import (
    Answer,
    Binding,
    Exchange,
    Fact,
    Provenance,
    SparqlSource,
    Template,
    read_answer,
)

logger = logging.getLogger(__name__)

_PATIENT = 4  # successes until a larger block is tried
_MOST_PATIENT = 64

MAX_ATTEMPTS = 4  # requests for one question
TRANSIENT = ("throttled", "outage", "unavailable")  # failures in which waiting helps
_TOLD_TO_WAIT = ("throttled", "outage")

T = TypeVar("T")

_SPLITTABLE = ("timeout", "truncated", "cut off", "too long", "too large")  # asking for less helps
_HEADERS = ("date", "server", "age", "x-served-by", "content-type")


class EndpointSource(SparqlSource):
    """A `Source` over a SPARQL endpoint, asked through SPARQLWrapper, one request at a time.

    `timeout` is the wall-clock limit of one request, and `patience` the longest total wait for the right to
    send one, both in seconds. `limiter` is shared by sources that count their requests together. `max_bytes` is the
    largest answer, packed and unpacked; by default KG_MAX_ANSWER_MB, else 50 MB. Redirects are followed within one
    host. Raises OfflineError when KG_OFFLINE is set, MissingContactError for a Wikimedia host without `contact` (or
    KG_EDIT_CONTACT), and EndpointError for whatever the endpoint does wrong.
    """

    def __init__(
        self,
        url: str,
        *,
        contact: str | None = None,
        timeout: float = 90.0,
        patience: float = 180.0,
        limiter: RateLimiter | None = None,
        max_bytes: int | None = None,
    ) -> None:
        forbid_when_offline(url)
        self._transport = Transport(url, user_agent(url, contact), timeout, max_bytes=max_bytes or largest_answer())
        self._patience = patience
        self._limiter = limiter or RateLimiter()
        self._sizes = BlockSizes()

    @property
    def name(self) -> str:
        """The endpoint's URL, as it was given."""
        return self._transport.url

    def provenance(self, ids: Iterable[str] = ()) -> Provenance:
        """The URL, and the present time (UTC), since an endpoint's answers change."""
        return {"kind": "endpoint", "url": self.name, "fetched_at": _utc()}

    def ask(self, template: Template, ids: Sequence[str], *, patience: float | None = None) -> Iterator[Answer]:
        """An answer for each block of ids, in smaller blocks where the endpoint cannot manage larger ones.

        `patience` (seconds) replaces the source's for these questions. Raises EndpointError where waiting, retrying
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
        """The rows of a SELECT query; waits and retries where that can help, else raises EndpointError.

        A user's query has no end mark, so that a second request sees whether answers belong to what is asked.
        """
        rows = self._rows(query, patience, alone=True)[0]
        if foreign := sorted(name for name in {name for row in rows for name in row} if not _stands_in(query, name)):
            raise wrong_answer(
                self.name, f"the variables {', '.join(foreign[:5])[:200]}, which the query does not have"
            )
        echo, mark = echo_query(query)
        if self._rows(echo, patience, alone=True)[0] != [mark]:
            raise wrong_answer(self.name, "the answer to another question (a proxy may ignore the query in the URL)")
        return rows

    def _split(self, template: Template, block: Sequence[str], error: EndpointError) -> None:
        if error.trouble not in _SPLITTABLE:
            raise error
        if len(block) == 1:
            raise for_single_id(error, template.kind, block[0]) from error
        self._sizes.too_many(template, len(block))
        logger.info("%s Asking about %d instead of %d at a time.", error, self._sizes.of(template), len(block))

    def _answer(self, template: Template, block: Sequence[str], patience: float | None) -> Answer:
        query, fetched_at = template.query(block), _utc()
        rows, reply = self._rows(query, patience, alone=len(block) == 1, literals=LITERALS)
        facts = self._facts(template, block, query, rows)
        headers = {name: reply.headers[name] for name in _HEADERS if name in reply.headers}
        digest = hashlib.sha256(reply.body).hexdigest()
        exchange = Exchange(self.name, query, fetched_at, reply.elapsed_ms, len(rows) - 1, digest, headers)
        return Answer(template.name, facts, exchange)

    def _facts(self, template: Template, block: Sequence[str], query: str, rows: Sequence[Binding]) -> Sequence[Fact]:
        """The facts in the rows, checked as an imported snapshot is."""
        try:
            facts = read_answer(template, block, query, rows, self.name)
        except TruncatedAnswerError as error:
            raise truncated_answer(self.name, error.rows) from error
        except WrongAnswerError as error:
            raise wrong_answer(self.name, error.problem) from error
        if problem := next((problem for fact in facts if (problem := value_problem(*fact))), None):
            raise wrong_answer(self.name, problem)
        return facts

    def _rows(
        self, query: str, patience: float | None, *, alone: bool, literals: Container[str] | None = None
    ) -> tuple[list[Binding], Reply]:
        """The rows of a query and the reply they came in, after as many attempts as make sense."""
        forbid_when_offline(self.name)
        return with_retries(
            self._limiter,
            self.name,
            partial(self._once, query, literals),
            patience=self._patience if patience is None else patience,
            attempts=partial(self._attempts, alone=alone),
        )

    def _attempts(self, error: EndpointError, *, alone: bool) -> int:
        """How many attempts to make in all after this failure; switches to POST after HTTP 414."""
        if error.status == 414 and not self._transport.post:
            self._transport.post = True
            return MAX_ATTEMPTS
        if error.trouble in TRANSIENT or (alone and (error.trouble == "cut off" or error.status in (503, 504))):
            return MAX_ATTEMPTS
        return 2 if error.trouble == "cut off" else 1  # one retry for what was transient; else the block is split

    def _once(self, query: str, literals: Container[str] | None) -> tuple[list[Binding], Reply]:
        try:
            reply = self._transport.send(query)
        except Exception as error:  # urllib, http.client and socket share no base class
            raise connection_error(error, self.name, self._transport.timeout) from error
        return parse_reply(reply, self.name, literals=literals), reply


class BlockSizes:
    """The ids to ask for in one query, learned for each template: halved on failure, doubled after successes."""

    def __init__(self) -> None:
        self._sizes: dict[str, _Size] = {}

    def of(self, template: Template) -> int:
        """The number of ids to put into the next query."""
        return self._of(template).ids

    def too_many(self, template: Template, ids: int) -> None:
        """A block of `ids` ids failed: halve the size; if it had just grown, grow it more slowly from now on."""
        size = self._of(template)
        if size.probing:
            size.needed = min(_MOST_PATIENT, 2 * size.needed)
        size.ids, size.streak, size.probing = max(1, ids // 2), 0, False

    def fine(self, template: Template) -> None:
        """A block was answered: double the size after enough of them in a row, up to the template's."""
        size = self._of(template)
        size.streak, size.probing = size.streak + 1, False
        if size.streak >= size.needed and size.ids < size.most:
            size.ids, size.streak, size.probing = min(size.most, 2 * size.ids), 0, True

    def _of(self, template: Template) -> _Size:
        return self._sizes.setdefault(template.name, _Size(template.size, template.size))


@dataclass
class _Size:
    ids: int
    most: int
    streak: int = 0
    needed: int = _PATIENT
    probing: bool = False  # no block of this size has been answered yet


def with_retries(
    limiter: RateLimiter, url: str, once: Callable[[], T], *, patience: float, attempts: Callable[[EndpointError], int]
) -> T:
    """The result of `once`, called again after failures, each time in a slot of `limiter`.

    At most `patience` seconds are waited in all; `attempts` gives the total of attempts that a failure allows.
    Raises the last EndpointError, or where the host asks to wait longer than that, one that says until when.
    """
    left = WaitBudget(patience)
    made = 0
    while True:
        made += 1
        try:
            with limiter.slot(url, left):
                return once()
        except EndpointError as error:
            wait = limiter.wait(url)
            if made >= attempts(error) or wait > left.left:
                if error.trouble in _TOLD_TO_WAIT and wait:
                    raise limiter.too_soon_error(url, left) from error
                raise
            logger.warning("%s Trying again in %.3g s", error, wait)


def _stands_in(query: str, variable: str) -> bool:
    """Whether a variable of an answer is one of the query; Virtuoso names unnamed columns callret-0, ..."""
    return f"?{variable}" in query or f"${variable}" in query or variable.startswith("callret")


def _utc() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
