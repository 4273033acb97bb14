"""Politeness: one request in flight a host, a token bucket that learns, and a breaker for outages."""

import logging
import math
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from wikidata_cache.endpoints.pace_book import MemoryPaceBook, PaceBook
from wikidata_cache.endpoints.pace_state import seconds_until_due, with_failure, with_request, with_success
from wikidata_cache.endpoints.rules import ELSEWHERE, host_of, usual_rate
from wikidata_cache.errors import EndpointError

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
