"""Limit the rate of requests per host: one request at a time, an adaptive token bucket, and a breaker for outages.

`RateLimiter.take_turn` waits until one request may be sent, and learns from its outcome. The rules (`with_request`,
`with_success`, `with_failure`) are pure functions of a `RateLimitState` and the time:

- HTTP 429 halves the rate, and Retry-After is respected;
- an outage allows one request in 62 s;
- HTTP 5xx leads to exponential back-off;
- successes let the rate grow again.

A `RateLimitStore` has the states, in memory or in a cache file for all processes that share it. This module also
makes the User-Agent, which for Wikimedia must name a contact
(https://foundation.wikimedia.org/wiki/Policy:Wikimedia_Foundation_User-Agent_Policy).
"""

from __future__ import annotations

import logging
import math
import os
import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from wikidata_cache.errors import EndpointError, EndpointTrouble, MissingContactError
from wikidata_cache.version import release

logger = logging.getLogger(__name__)

OUTAGE_RATE = 1 / 62  # requests per second: a little below one per minute, the limit during the outages of 2026
ELSEWHERE = (
    "Or use another endpoint (for Wikidata also its Action API, https://www.wikidata.org/w/api.php), or a local graph: "
    "FILE.nt.gz, a folder, or oxigraph:FOLDER."
)

_WIKIMEDIA = ("wikidata.org", "wikimedia.org", "wikipedia.org", "mediawiki.org", "wmcloud.org", "toolforge.org")
_ONE_A_SECOND = (*_WIKIMEDIA, "qlever.dev")

_BURST = 5.0  # seconds; the bucket holds the requests of this time, so that a single subgraph needs no wait
_FIRST_RATE = 1.0  # requests per second, after a host without a known limit throttles for the first time
_FREE_RATE = 16.0  # requests per second; a learned limit that reaches this rate is dropped
_RECOVERY = 10  # successes in a row until the rate grows
_GROWTH = 1.5
_THROTTLED_WAIT = 60.0  # seconds, if the endpoint does not say how long to wait
_OUTAGE_WAIT = 65.0  # seconds after the first refusal of an outage; each further refusal doubles it
_LONGEST_OUTAGE_WAIT = 3_600.0  # seconds
_LONGEST_BACKOFF = 60.0  # seconds

LONGEST_WAIT = 30 * 86_400.0  # seconds; a longer wait that a host asks for is not believed
_CLOCKS_DIFFER = 5.0  # seconds; allowed difference between the clocks of machines that share a cache file

_LONG_WAIT = 2.0  # seconds; a longer wait is logged
_SHORTEST_WAIT = 0.001  # seconds; a wait that is not longer counts as none


class RateLimiter:
    """Limits the rate of requests to each host. `store` has the states of the hosts."""

    def __init__(self, store: RateLimitStore | None = None, *, clock: Clock | None = None) -> None:
        self._store = store or RateLimitStore()
        self._clock = clock or Clock()

    def seconds_until_allowed(self, url: str) -> float:
        """Return the seconds until the host of `url` may be asked again; 0.0 if it may be asked now.

        A wait that began in the future, because the clock was set back since then, begins again now.
        """
        host = find_host(url)
        state = self._mend_clock_jump(host)
        wait = seconds_until_due(state, self._clock.now(), find_usual_rate(host))
        if wait <= _SHORTEST_WAIT:
            return 0.0
        return wait

    def _mend_clock_jump(self, host: str) -> RateLimitState:
        """Return the state of a host; a wait that began in the future begins again now, in the store, too.

        If the store kept the old state, the wait would begin again with each call, and each call would log the jump.
        """
        stored = self._store.read(host)
        state = after_clock_jump(stored, self._clock.now())
        if state != stored:
            logger.warning("%s: the clock was set back; the wait for this host starts again", host)
            self._store.write(host, state)
        return state

    def explain_too_soon(self, url: str, budget: WaitBudget) -> EndpointError:
        """Return the EndpointError for a wait that is longer than `budget`, or after the last attempt.

        It names the end of the wait and the reason.
        """
        state = self._store.read(find_host(url))
        now = self._clock.now()
        wait = self.seconds_until_allowed(url)
        until = datetime.fromtimestamp(math.ceil(now + wait), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        problem = f"no request is allowed before {until}, {wait:.0f} s from now ({self._explain_wait(url)})"
        limit = "the last attempt of this run has failed"
        if wait > budget.remaining:
            limit = f"this run waits at most {budget.remaining:.0f} s"
        suggestion = (
            f"Try again then (an earlier request can get you banned); {limit}. "
            f"Facts that are already in the cache are not requested again. {ELSEWHERE}"
        )
        trouble: EndpointTrouble = "throttled"  # the bucket has no token
        if state.not_before > now:  # a failure holds the host
            trouble = state.trouble
        return EndpointError(url, trouble, problem, suggestion, retry_after=wait)

    @contextmanager
    def take_turn(self, url: str, budget: WaitBudget) -> Iterator[None]:
        """Wait until one request may be sent to `url`, lock the host during the block, and learn from the outcome."""
        host = find_host(url)
        with self._lock_when_due(url, budget):
            self._write_request(host)
            try:
                yield
            except EndpointError as error:
                self._write_failure(host, error)
                raise
            self._write_success(host)

    @contextmanager
    def _lock_when_due(self, url: str, budget: WaitBudget) -> Iterator[None]:
        """Wait until the host may be asked, and lock it during the block."""
        while True:
            self._sleep_until_due(url, budget)
            with self._store.lock(find_host(url)):
                if not self.seconds_until_allowed(url):
                    yield
                    return
            # Another process has sent a request while this one slept or waited for the lock, so it waits again.

    def _sleep_until_due(self, url: str, budget: WaitBudget) -> None:
        """Sleep until the host may be asked, and take the time from the budget; raise EndpointError if it is short."""
        wait = self.seconds_until_allowed(url)
        if wait > budget.remaining:
            raise self.explain_too_soon(url, budget)
        if wait > _LONG_WAIT:
            logger.info("%s: waiting %.0f s (%s).", url, wait, self._explain_wait(url))
        if wait:
            self._clock.sleep(wait)
            budget.remaining -= wait

    def _write_request(self, host: str) -> None:
        """Take a token for a request before it is sent, so that a process that is killed has used it."""
        state = self._store.read(host)
        self._store.write(host, with_request(state, self._clock.now(), find_usual_rate(host)))

    def _write_success(self, host: str) -> None:
        """Write the state of a host after a good answer."""
        state = self._store.read(host)
        self._store.write(host, with_success(state, find_usual_rate(host)))

    def _write_failure(self, host: str, error: EndpointError) -> None:
        """Write the state of a host after a failure, with a jitter that differs between processes.

        It differs between failures in a row too, if the server is "unavailable": `failures` counts only these.
        """
        state = self._store.read(host)
        seed = f"{host} {os.getpid()} {state.failures}"
        jitter = random.Random(seed).uniform(0.75, 1.25)  # noqa: S311  # no secret
        self._store.write(host, with_failure(state, error, self._clock.now(), find_usual_rate(host), jitter))

    def _explain_wait(self, url: str) -> str:
        """Return why the host may not be asked now, in words: its last failure, or its rate."""
        state = self._store.read(find_host(url))
        rate = state.rate or find_usual_rate(find_host(url))
        is_held = state.not_before > self._clock.now()
        if is_held or not rate:
            return state.reason
        return f"the host allows one request in {1 / rate:.0f} s"


@dataclass
class WaitBudget:
    """The remaining seconds that one question may spend on waiting, over all its attempts."""

    remaining: float


@dataclass(frozen=True)
class RateLimitState:
    """The known limits of a host; the default is a host that was never asked. Times are Unix times in seconds.

    The default bucket is full, although it has no token at time 0.0: that is 1970, and it has filled up since then.
    All values are plain JSON, and a store writes them under these names.
    """

    rate: float | None = None  # learned rate in requests per second; None for the host's usual rate
    tokens: float = 0.0  # requests that the bucket had at time `at`
    at: float = 0.0  # time of the last change of the bucket
    not_before: float = 0.0  # no request may be sent before this time
    trouble: EndpointTrouble = "throttled"  # the kind of failure that is the reason
    reason: str = ""  # the failure in words
    outages: int = 0  # consecutive refusals of an outage
    failures: int = 0  # consecutive failures of the server
    successes: int = 0  # consecutive good answers
    held_at: float = 0.0  # start of the wait until `not_before`


def after_clock_jump(state: RateLimitState, now: float) -> RateLimitState:
    """Return the state for a clock that shows `now`: a wait that began in the future starts again now."""
    if state.held_at <= now + _CLOCKS_DIFFER:
        return state
    return replace(state, held_at=now, not_before=now + state.not_before - state.held_at)


def seconds_until_due(state: RateLimitState, now: float, usual: float | None) -> float:
    """Return the seconds to wait before the next request; `usual` is the host's known rate in requests per second."""
    rate = state.rate or usual
    held = state.not_before - now
    if rate is None:
        return max(0.0, held)
    # One token is needed: (1 - tokens) / rate seconds until the bucket has it.
    for_a_token = (1.0 - _count_tokens(state, now, rate)) / rate
    return max(0.0, for_a_token, held)


def with_request(state: RateLimitState, now: float, usual: float | None) -> RateLimitState:
    """Return the state after sending a request at time `now`: the bucket has one token less."""
    rate = state.rate or usual
    if rate is None:
        return state
    return replace(state, tokens=_count_tokens(state, now, rate) - 1.0, at=now)


def with_success(state: RateLimitState, usual: float | None) -> RateLimitState:
    """Return the state after a good answer: the breaker closes; every ten in a row, a learned rate grows by half."""
    successes = state.successes + 1
    rate = state.rate
    if rate is not None and successes % _RECOVERY == 0:
        rate *= _GROWTH
        if rate >= (usual or _FREE_RATE):
            rate = None
    return replace(state, rate=rate, outages=0, failures=0, successes=successes, reason="")


def with_failure(
    state: RateLimitState, error: EndpointError, now: float, usual: float | None, jitter: float
) -> RateLimitState:
    """Return the state after a failure at time `now`; the factor `jitter`, near 1, spreads the retries of clients."""
    state = replace(state, successes=0)
    if error.trouble == "throttled":  # half the known rate from now on, and no request for the time the host asks for
        known_rate = state.rate or usual
        rate = _FIRST_RATE
        if known_rate is not None:
            rate = known_rate / 2
        slower = replace(state, rate=max(rate, OUTAGE_RATE), tokens=0.0, at=now)
        wait = _THROTTLED_WAIT
        if error.retry_after is not None:
            wait = error.retry_after
        return _hold(slower, error, now, wait)
    if error.trouble == "outage":  # 65 s, doubled by each further refusal, up to an hour
        slower = replace(state, rate=OUTAGE_RATE, tokens=0.0, at=now, outages=state.outages + 1)
        doubled = _OUTAGE_WAIT * 2.0 ** min(state.outages, 10)
        wait = max(error.retry_after or 0.0, min(doubled, _LONGEST_OUTAGE_WAIT))
        return _hold(slower, error, now, wait)
    if error.trouble == "unavailable":  # exponential back-off: 1, 2, 4, ... s, up to a minute
        backoff = min(2.0 ** min(state.failures, 10), _LONGEST_BACKOFF) * jitter
        wait = max(error.retry_after or 0.0, backoff)
        return _hold(replace(state, failures=state.failures + 1), error, now, wait)
    if error.trouble == "cut off" or error.status in (503, 504):  # a busy server: about a second
        return _hold(state, error, now, jitter)
    return state  # the host works; the query was at fault


def _hold(state: RateLimitState, error: EndpointError, now: float, wait: float) -> RateLimitState:
    """Return the state in which no request may be sent for `wait` seconds, with the failure as the reason."""
    trouble: EndpointTrouble = "unavailable"
    if error.trouble in ("throttled", "outage"):
        trouble = error.trouble
    return replace(state, not_before=now + wait, held_at=now, trouble=trouble, reason=error.problem[:200])


def _count_tokens(state: RateLimitState, now: float, rate: float) -> float:
    """Return the tokens at time `now`: tokens(t) = min(size, tokens(t0) + (t - t0) rate).

    The size of the bucket is the requests of `_BURST` seconds, at least one.
    """
    gained = abs(now - state.at) * rate  # abs(): a clock that was set back must not stop all requests
    return min(max(1.0, _BURST * rate), state.tokens + gained)


class RateLimitStore:
    """Has the `RateLimitState` of each host, here in memory, for the threads of one process.

    Clients that share a store share the limits.
    """

    def __init__(self) -> None:
        self._states: dict[str, RateLimitState] = {}
        self._locks: dict[str, AbstractContextManager[object]] = {}

    def read(self, host: str) -> RateLimitState:
        """Return the state of a host (name and port); `RateLimitState()` for a host that was never asked."""
        return self._states.get(host, RateLimitState())

    def write(self, host: str, state: RateLimitState) -> None:
        """Write the state of a host; it replaces the older state."""
        self._states[host] = state

    def lock(self, host: str) -> AbstractContextManager[object]:
        """Return a lock on the host: while it is held, no other client with this store sends the host a request."""
        return self._locks.setdefault(host, threading.RLock())


class Clock:
    """The time of this machine; tests replace it."""

    def now(self) -> float:
        """Return the current Unix time, in seconds."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Return after `seconds` seconds."""
        time.sleep(seconds)


def find_host(url: str) -> str:
    """Return the host name and port of a URL; rate limits are per host."""
    # Not urlsplit, which raises for a malformed URL: the request for it fails with an EndpointError.
    return re.split("[/?#]", url.partition("://")[2], maxsplit=1)[0].rpartition("@")[2].lower()


def find_usual_rate(host: str) -> float | None:
    """Return the rate in requests per second that a host is known to allow; None if only its answers can tell."""
    if _belongs(host, _ONE_A_SECOND):
        return 1.0
    return None


def wants_contact(url: str) -> bool:
    """Return whether the operator of the endpoint requires a contact in the User-Agent, as Wikimedia does."""
    return _belongs(find_host(url), _WIKIMEDIA)


def make_user_agent(url: str, contact: str | None) -> str:
    """Return the User-Agent with `contact`, else with KG_EDIT_CONTACT."""
    host = find_host(url)
    contact = contact or os.environ.get("KG_EDIT_CONTACT", "")
    usable = _is_header_value(contact)
    if wants_contact(url):
        usable = usable and ("@" in contact or "://" in contact)
    if not usable:
        must = "may name a contact address, but only"
        if wants_contact(url):
            must = "must name a contact address"
        raise MissingContactError(
            f"Requests to {host} {must} in Latin letters; found contact={contact!r}. Give "
            f"--contact you@example.org (in Python contact='you@example.org'), or a URL of yours, or set "
            f"KG_EDIT_CONTACT. The address is sent with each request."
        )
    return f"wikidata-cache/{release()} ({contact or 'no contact given'}) SPARQLWrapper/2"


def _is_header_value(text: str) -> bool:
    """Return whether a text can be sent in a header: http.client encodes headers as Latin-1."""
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return text.isprintable()


def _belongs(host: str, domains: tuple[str, ...]) -> bool:
    name = host.partition(":")[0]
    return any(name == domain or name.endswith("." + domain) for domain in domains)
