"""Politeness: one request in flight a host, a token bucket that learns, and a breaker for outages.

What hosts ask of their clients: a way to reach whoever asks, and how often one may ask.

What is known of how often a host may be asked, and what each answer teaches; pure functions of time.

Where it is written down how hosts want to be treated, and who may ask them now.
"""

from __future__ import annotations

import logging
import math
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol
from urllib.parse import urlsplit

from wikidata_cache.errors import EndpointError, EndpointTrouble, MissingContactError, OfflineError
from wikidata_cache.ids import release

OUTAGE_RATE = 1 / 62  # requests a second: a little slower than the one a minute of the outages of 2026
ELSEWHERE = "Or use another endpoint, or a local graph: FILE.nt.gz, a folder, or oxigraph:FOLDER."

_WIKIMEDIA = ("wikidata.org", "wikimedia.org", "wikipedia.org", "mediawiki.org")
_ONE_A_SECOND = (*_WIKIMEDIA, "qlever.dev")


def host_of(url: str) -> str:
    """The host name and port by which an endpoint counts its clients' requests."""
    return urlsplit(url).netloc.rpartition("@")[2].lower()


def usual_rate(host: str) -> float | None:
    """How many requests a second a host bears with, None where only its answers will tell."""
    return 1.0 if _belongs(host, _ONE_A_SECOND) else None


def wants_contact(url: str) -> bool:
    """Whether whoever runs this endpoint asks every client for an address."""
    return _belongs(host_of(url), _WIKIMEDIA)


def user_agent(url: str, contact: str | None) -> str:
    """The User-Agent that names `contact`, else KG_EDIT_CONTACT; raises MissingContactError for Wikimedia without."""
    host = host_of(url)
    contact = contact or os.environ.get("KG_EDIT_CONTACT", "")
    reachable = contact.isprintable() and ("@" in contact or "://" in contact)
    if (wants_contact(url) and not reachable) or not contact.isprintable():
        raise MissingContactError(
            f"{host} asks every client to say whom to write to, and found contact={contact!r}. Give "
            f"--contact you@example.org (in Python contact='you@example.org'), or a URL of yours, or set "
            f"KG_EDIT_CONTACT. It is sent along."
        )
    return f"wikidata-cache/{release()} ({contact or 'no contact given'}) SPARQLWrapper/2"


def forbid_when_offline(url: str) -> None:
    """Raise OfflineError where the environment sets KG_OFFLINE to anything but 0 or nothing."""
    if os.environ.get("KG_OFFLINE", "").strip().lower() not in ("", "0", "false", "no"):
        raise OfflineError(
            f"{url} is an endpoint, and KG_OFFLINE is set. Unset KG_OFFLINE, or give a graph file "
            f"(FILE.nt.gz), a folder of them, or oxigraph:FOLDER."
        )


def _belongs(host: str, domains: tuple[str, ...]) -> bool:
    name = host.partition(":")[0]
    return any(name == domain or name.endswith("." + domain) for domain in domains)


_BURST = 5.0  # seconds' worth of requests that may be saved up, so that a lone subgraph need not wait
_FIRST_RATE = 1.0  # requests a second, where a host without a known limit throttles for the first time
_FREE_RATE = 16.0  # a learned limit above this is none
_RECOVERY = 10  # successes in a row until the rate grows
_GROWTH = 1.5
_THROTTLED_WAIT = 60.0  # seconds, where the endpoint names none
_OUTAGE_WAIT = 65.0  # seconds for the first refusal, doubled by each one after it
_LONGEST_OUTAGE_WAIT = 3_600.0
_LONGEST_BACKOFF = 60.0


@dataclass(frozen=True)
class PaceState:
    """How a host has treated its clients; the default is a host never asked. Times are Unix time in seconds.

    `rate` is what was learned, in requests a second (None: the host's usual one); `tokens` requests were in
    hand at time `at`. Nothing may be sent before `not_before`, on account of `trouble`, for `reason`.
    `outages`, `failures` and `successes` count what came in a row. All are plain JSON values.
    """

    rate: float | None = None
    tokens: float = 0.0
    at: float = 0.0
    not_before: float = 0.0
    trouble: EndpointTrouble = "throttled"
    reason: str = ""
    outages: int = 0
    failures: int = 0
    successes: int = 0


def seconds_until_due(state: PaceState, now: float, usual: float | None) -> float:
    """How long to wait before the next request, 0 for not at all."""
    rate = state.rate or usual
    for_a_token = 0.0 if rate is None else (1.0 - _tokens(state, now, rate)) / rate
    return max(0.0, for_a_token, state.not_before - now)


def with_request(state: PaceState, now: float, usual: float | None) -> PaceState:
    """The state once a request is sent."""
    rate = state.rate or usual
    return state if rate is None else replace(state, tokens=_tokens(state, now, rate) - 1.0, at=now)


def with_success(state: PaceState, usual: float | None) -> PaceState:
    """The state after a good answer: the breaker closes, and a learned rate recovers slowly."""
    successes = state.successes + 1
    rate = state.rate
    if rate is not None and successes % _RECOVERY == 0:
        rate *= _GROWTH
        rate = None if rate >= (usual or _FREE_RATE) else rate
    return replace(state, rate=rate, outages=0, failures=0, successes=successes, reason="")


def with_failure(state: PaceState, error: EndpointError, now: float, usual: float | None, jitter: float) -> PaceState:
    """The state after a failure; `jitter`, around 1, spreads the retries of many clients."""
    state = replace(state, successes=0)
    if error.trouble == "throttled":  # half as fast from now on, and nothing until it says so
        rate = (state.rate or usual or 2 * _FIRST_RATE) / 2
        wait = _THROTTLED_WAIT if error.retry_after is None else error.retry_after
        return _held(replace(state, rate=max(rate, OUTAGE_RATE), tokens=0.0, at=now), error, now + wait)
    if error.trouble == "outage":
        wait = max(error.retry_after or 0.0, min(_OUTAGE_WAIT * 2**state.outages, _LONGEST_OUTAGE_WAIT))
        slow = replace(state, rate=OUTAGE_RATE, tokens=0.0, at=now, outages=state.outages + 1)
        return _held(slow, error, now + wait)
    if error.trouble == "unavailable":
        wait = max(error.retry_after or 0.0, min(2.0**state.failures, _LONGEST_BACKOFF) * jitter)
        return _held(replace(state, failures=min(state.failures + 1, 10)), error, now + wait)
    if error.trouble == "cut off" or error.status in (503, 504):
        return _held(state, error, now + jitter)
    return state  # the host is well; it is the question that was wrong


def _held(state: PaceState, error: EndpointError, until: float) -> PaceState:
    trouble = error.trouble if error.trouble in ("throttled", "outage") else "unavailable"
    return replace(state, not_before=until, trouble=trouble, reason=error.found[:200])


def _tokens(state: PaceState, now: float, rate: float) -> float:
    gained = abs(now - state.at) * rate  # a clock that was set back must not stop everything
    return min(max(1.0, _BURST * rate), state.tokens + gained)


class PaceBook(Protocol):
    """Where paces are written down, so that clients of a host that share a book share its limits."""

    def read(self, host: str) -> PaceState:
        """What is known of a host; `PaceState()` for one never asked."""

    def write(self, host: str, state: PaceState) -> None:
        """Remember a host's state."""

    def turn(self, host: str) -> AbstractContextManager[object]:
        """While it is held, nobody else with this book sends a request to the host."""


class MemoryPaceBook:
    """A book for the threads of one process."""

    def __init__(self) -> None:
        self._states: dict[str, PaceState] = {}
        self._turns: dict[str, AbstractContextManager[object]] = {}

    def read(self, host: str) -> PaceState:
        """What is known of a host; `PaceState()` for one never asked."""
        return self._states.get(host, PaceState())

    def write(self, host: str, state: PaceState) -> None:
        """Remember a host's state."""
        self._states[host] = state

    def turn(self, host: str) -> AbstractContextManager[object]:
        """While it is held, no other thread with this book sends a request to the host."""
        return self._turns.setdefault(host, threading.RLock())


logger = logging.getLogger(__name__)

_WORTH_SAYING = 2.0  # seconds
_NOW = 0.001  # seconds; a shorter wait is none


class Clock(Protocol):
    """Time, as far as a pace needs it."""

    def now(self) -> float:
        """Unix time in seconds."""

    def sleep(self, seconds: float) -> None:
        """Let so many seconds pass."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Unix time in seconds."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Let so many seconds pass."""
        time.sleep(seconds)


@dataclass
class Patience:
    """How many seconds somebody is still willing to wait."""

    left: float


class Pace:
    """Lets requests through no faster than their host bears with, as remembered in `book`."""

    def __init__(self, book: PaceBook | None = None, *, clock: Clock | None = None) -> None:
        self._book: PaceBook = book or MemoryPaceBook()
        self._clock: Clock = clock or SystemClock()

    def wait(self, url: str) -> float:
        """In how many seconds the host of `url` may be asked again; 0 for now."""
        host = host_of(url)
        wait = seconds_until_due(self._book.read(host), self._clock.now(), usual_rate(host))
        return wait if wait > _NOW else 0.0

    def refusal(self, url: str, patience: Patience) -> EndpointError:
        """The error of whoever cannot wait until the host may be asked again: says when, and why."""
        state, now = self._book.read(host_of(url)), self._clock.now()
        wait = self.wait(url)
        until = datetime.fromtimestamp(math.ceil(now + wait), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        found = f"not to be asked before {until}, {wait:.0f} s from now ({self._reason(url)})"
        way_out = (
            f"Come back then (asking sooner gets you banned), or be more patient than {patience.left:.0f} s. "
            f"What a cache holds by now is not asked for again. {ELSEWHERE}"
        )
        trouble = state.trouble if state.not_before > now else "throttled"
        return EndpointError(url, trouble, found, way_out, retry_after=wait)

    @contextmanager
    def turn(self, url: str, patience: Patience) -> Iterator[None]:
        """Wait for the right to send one request to `url`, and learn from how it went.

        Raises EndpointError where that would use up the patience; passes on the EndpointError of the request.
        """
        host = host_of(url)
        while True:
            self._sit_out(url, patience)
            with self._book.turn(host):
                if self.wait(url):
                    continue  # another process was faster
                self._book.write(host, with_request(self._book.read(host), self._clock.now(), usual_rate(host)))
                with self._lesson(host):
                    yield
                return

    @contextmanager
    def _lesson(self, host: str) -> Iterator[None]:
        try:
            yield
        except EndpointError as error:
            state, now = self._book.read(host), self._clock.now()
            jitter = random.Random(f"{host} {os.getpid()} {state.failures}").uniform(0.75, 1.25)  # noqa: S311 no secret
            self._book.write(host, with_failure(state, error, now, usual_rate(host), jitter))
            raise
        self._book.write(host, with_success(self._book.read(host), usual_rate(host)))

    def _sit_out(self, url: str, patience: Patience) -> None:
        wait = self.wait(url)
        if wait > patience.left:
            raise self.refusal(url, patience)
        if wait > _WORTH_SAYING:
            logger.info("%s: waiting %.0f s (%s).", url, wait, self._reason(url))
        if wait:
            self._clock.sleep(wait)
            patience.left -= wait

    def _reason(self, url: str) -> str:
        state = self._book.read(host_of(url))
        rate = state.rate or usual_rate(host_of(url))
        held = state.not_before > self._clock.now()
        return state.reason if held or not rate else f"it bears with one request in {1 / rate:.0f} s"
