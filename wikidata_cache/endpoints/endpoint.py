"""A SPARQL 1.1 endpoint over HTTP as a source, with rate limits, retries, and blocks of ids of a suitable size.

`EndpointSource` sends each question for a block of ids. If the query times out or the answer is cut off, the block is
halved, down to one id; after successes it grows again (`_BlockSize`). If waiting can help, a failed request is sent
again (`_ask_rows`) at the rate of the host (`rate_limit.py`). Every answer has a record of its request (`Exchange`).

An answer to a block has an end mark: its last row repeats a digest of the query, so that a cut-off answer is noticed.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from wikidata_cache.endpoints.failures import (
    explain_connection_error,
    explain_truncated_answer,
    explain_wrong_answer,
    name_single_id,
    parse_reply,
)
from wikidata_cache.endpoints.rate_limit import RateLimiter, WaitBudget, make_user_agent
from wikidata_cache.endpoints.transport import Reply, Transport
from wikidata_cache.endpoints.web import read_answer_limit
from wikidata_cache.errors import EndpointError, TruncatedAnswerError, WrongAnswerError
from wikidata_cache.offline import forbid_when_offline
from wikidata_cache.sources.queries import LITERALS, echo_query
from wikidata_cache.sources.schema import value_problem
from wikidata_cache.sources.source import (
    Answer,
    Binding,
    Exchange,
    Provenance,
    SparqlSource,
    Template,
    read_answer,
)

logger = logging.getLogger(__name__)

_STREAK = 4  # successes in a row before a larger block is tried
_LONGEST_STREAK = 64  # upper limit of that number, which doubles when a larger block fails

MAX_ATTEMPTS = 4  # requests for one question
PATIENCE = 180.0  # seconds that a question may wait in all for its requests to be allowed
TRANSIENT = ("throttled", "outage", "unavailable")  # failures after which waiting helps
_RATE_LIMITED = ("throttled", "outage")  # failures whose error names the time of the next request that is allowed

_SPLITTABLE = ("timeout", "truncated", "cut off", "too long", "too large")  # failures after which a smaller block helps
_HEADERS = ("date", "server", "age", "x-served-by", "content-type")


class EndpointSource(SparqlSource):
    """A `Source` over a SPARQL endpoint; SPARQLWrapper builds the requests, which are sent one at a time.

    Redirects are followed only within one host.

    Args:
        url: the endpoint.
        contact: an address for the User-Agent; default: KG_EDIT_CONTACT.
        timeout: wall-clock limit of one request, in seconds.
        patience: longest total time that a question may wait for its requests to be allowed, in seconds. An
            `EndpointChain` sets the attribute of this name each time it asks the source.
        limiter: shared by sources that count their requests together.
        max_bytes: largest answer, zipped and unzipped; default: KG_MAX_ANSWER_MB, else 50 MB.
    """

    most_ids = 1_000  # of a request: the limit of the service, beside that of the template
    transport_class: type[Transport] = Transport

    def __init__(
        self,
        url: str,
        *,
        contact: str | None = None,
        timeout: float = 90.0,
        patience: float = PATIENCE,
        limiter: RateLimiter | None = None,
        max_bytes: int | None = None,
    ) -> None:
        forbid_when_offline(url)
        agent = make_user_agent(url, contact)
        limit = max_bytes or read_answer_limit()
        self._transport = self.transport_class(url, agent, timeout, limit)
        self.patience = patience
        self._limiter = limiter or RateLimiter()
        self._sizes: dict[str, _BlockSize] = {}  # by the name of the template

    @property
    def name(self) -> str:
        """The endpoint's URL, as it was given."""
        return self._transport.url

    def provenance(self, ids: Iterable[str] = ()) -> Provenance:
        """Return the URL, and the current time (UTC), since the answers of an endpoint change."""
        return {"kind": "endpoint", "url": self.name, "fetched_at": now()}

    def can_answer(self, template: Template | None) -> bool:
        """Return True: SPARQL answers every question, and users' queries (None)."""
        return True

    def ask(self, template: Template, ids: Sequence[str]) -> Iterator[Answer]:
        """Yield an answer for each block of ids; the blocks get smaller if the endpoint cannot answer larger ones."""
        remaining = list(ids)
        most = min(template.size, self.most_ids)
        size = self._sizes.setdefault(template.name, _BlockSize(count=most, most=most))
        while remaining:
            # One block a request; after a failure that a smaller block avoids, the same ids are asked for again.
            block = remaining[: size.count]
            try:
                answer = self._answer(template, block)
                self._check_facts(answer)
            except EndpointError as error:
                if error.trouble not in _SPLITTABLE:
                    raise
                if len(block) == 1:
                    raise name_single_id(error, template.kind, block[0]) from error
                size.shrink(len(block))
                logger.info("%s Asking for %d instead of %d ids per request.", error, size.count, len(block))
                continue
            size.note_success(len(block))
            del remaining[: len(block)]
            yield answer

    def select(self, query: str) -> list[Binding]:
        """Return the rows of a SELECT query; wait and retry where that can help, else raise EndpointError.

        A user's query has no end mark. Therefore a second request checks that the endpoint answers the query it gets.
        """
        rows, _ = self._ask_rows(query, alone=True)
        names: set[str] = set()
        for row in rows:
            names.update(row)
        foreign = [name for name in sorted(names) if not _is_column_of(query, name)]
        if foreign:
            problem = f"found the variables {', '.join(foreign[:5])[:200]}, which are not in the query"
            raise explain_wrong_answer(self.name, problem)
        echo, mark = echo_query(query)
        echoed, _ = self._ask_rows(echo, alone=True)
        if echoed != [mark]:
            raise explain_wrong_answer(
                self.name, "found the answer to another query (a proxy may ignore the query in the URL)"
            )
        return rows

    def _check_facts(self, answer: Answer) -> None:
        """Refuse malformed facts, as in an imported snapshot: what the endpoint sends may be cached and shared."""
        for fact in answer.facts:
            problem = value_problem(*fact)
            if problem:
                raise explain_wrong_answer(self.name, problem)

    def _answer(self, template: Template, block: Sequence[str]) -> Answer:
        query = template.query(block)
        fetched_at = now()
        rows, reply = self._ask_rows(query, alone=len(block) == 1, literals=LITERALS)
        try:
            facts = read_answer(template, block, query, rows, self.name)
        except TruncatedAnswerError as error:
            raise explain_truncated_answer(self.name, error.rows) from error
        except WrongAnswerError as error:
            raise explain_wrong_answer(self.name, error.problem) from error
        row_count = len(rows) - 1  # without the end mark
        record = record_exchange(self.name, query, reply, fetched_at=fetched_at, rows=row_count)
        return Answer(template.name, facts, record)

    def _ask_rows(
        self, query: str, *, alone: bool, literals: Container[str] | None = None
    ) -> tuple[list[Binding], Reply]:
        """Send a query, again after failures for which waiting helps, and return the rows of the answer and the reply.

        Args:
            query: the SPARQL text.
            alone: the query can't be split.
            literals: the variables whose values are literals; None: any variable may have one.
        """
        forbid_when_offline(self.name)
        budget = WaitBudget(self.patience)
        attempts = 0
        while True:
            attempts += 1
            try:
                with self._limiter.take_turn(self.name, budget):  # waits until the host may be asked
                    reply = self._send(query)
                    return parse_reply(reply, self.name, literals=literals), reply
            except EndpointError as error:
                allowed = _allowed_attempts(error, alone=alone)
                if error.status == 414 and not self._transport.post:  # the URL was too long
                    self._transport.post = True  # from now on, queries are sent by POST
                    allowed = MAX_ATTEMPTS
                self._raise_unless_retry(error, attempts < allowed, budget)

    def _raise_unless_retry(self, error: EndpointError, has_attempts: bool, budget: WaitBudget) -> None:
        """Return if a failed request may be sent again; else raise its error, or one that names the end of the wait.

        Args:
            error: the failure.
            has_attempts: whether the question has attempts left after this failure.
            budget: the seconds that the question may still wait.
        """
        wait = self._limiter.seconds_until_allowed(self.name)
        if has_attempts and wait <= budget.remaining:
            logger.warning("%s: %s (%s). Trying again in %.3g s", error.url, error.problem, error.trouble, wait)
            return
        if error.trouble in _RATE_LIMITED and wait:
            raise self._limiter.explain_too_soon(self.name, budget) from error
        raise error

    def _send(self, query: str) -> Reply:
        try:
            return self._transport.send(query)
        except Exception as error:  # urllib, http.client and socket share no base class
            raise explain_connection_error(error, self.name, self._transport.timeout) from error


def _allowed_attempts(error: EndpointError, *, alone: bool) -> int:
    """Return the total number of attempts that a failure allows; `alone`: the query can't be split."""
    if error.trouble in TRANSIENT:
        return MAX_ATTEMPTS
    if alone and (error.trouble == "cut off" or error.status in (503, 504)):
        return MAX_ATTEMPTS
    if error.trouble == "cut off":  # may be transient: one retry before the block is split
        return 2
    return 1


@dataclass
class _BlockSize:
    """The number of ids per query, learned for a template: halved after a failure, doubled after successes."""

    count: int
    most: int  # ids that the template and the service allow
    streak: int = 0  # full blocks answered in a row since the size changed
    needed: int = _STREAK  # such a streak lets the size grow
    probing: bool = False  # the size has just grown, and no full block of it has been answered

    def shrink(self, asked: int) -> None:
        """Halve the size, since a block of `asked` ids failed. If it had just grown, let it grow more slowly."""
        if self.probing:
            self.needed = min(_LONGEST_STREAK, 2 * self.needed)
        self.count = max(1, asked // 2)
        self.streak = 0
        self.probing = False

    def note_success(self, asked: int) -> None:
        """Count an answered block of `asked` ids; after enough full blocks in a row, double the size, up to `most`."""
        if asked < self.count:  # the last block of a question says nothing about full ones
            return
        self.streak += 1
        self.probing = False
        if self.streak >= self.needed and self.count < self.most:
            self.count = min(self.most, 2 * self.count)
            self.streak = 0
            self.probing = True


def _is_column_of(query: str, name: str) -> bool:
    """Return whether a query may have a column of this name; Virtuoso names unnamed columns callret-0 and so on."""
    return name.startswith("callret") or f"?{name}" in query or f"${name}" in query


def record_exchange(url: str, query: str, reply: Reply, *, fetched_at: str, rows: int) -> Exchange:
    """Return the record of a request and its reply."""
    headers = {name: reply.headers[name] for name in _HEADERS if name in reply.headers}
    return Exchange(url, query, fetched_at, reply.elapsed_ms, rows, hashlib.sha256(reply.body).hexdigest(), headers)


def now() -> str:
    """Return the current time (UTC, ISO 8601 with milliseconds)."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
