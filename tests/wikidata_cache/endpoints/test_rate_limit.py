"""Rate limits of hosts: never faster than a host allows, also in later processes."""

import logging
import threading
import time
from email.utils import formatdate
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.loopback import QuietHandler
from tests.wikidata_cache.fault_server import FAULTS, OUTAGE, SkippedTime, first, hasty, status
from tests.wikidata_cache.wikidata_helpers import Server, facts, reply
from wikidata_cache.endpoints.endpoint import EndpointSource
from wikidata_cache.endpoints.failures import read_retry_after
from wikidata_cache.endpoints.rate_limit import (
    RateLimiter,
    RateLimitState,
    RateLimitStore,
    WaitBudget,
    with_failure,
    with_success,
)
from wikidata_cache.errors import EndpointError

WDQS = "https://query.wikidata.org/sparql"
HOST = "query.wikidata.org"
THROTTLED = EndpointError(WDQS, "throttled", "HTTP 429", "Wait.", status=429, retry_after=30.0)
OUT = EndpointError(WDQS, "outage", "HTTP 429 outage", "Come back.", status=429)


def ask(limiter: RateLimiter, clock: SkippedTime, *, times: int, error: EndpointError | None = None) -> list[float]:
    """When each of so many requests went out, in seconds since the start."""
    start, sent = clock.now(), []
    for _ in range(times):
        try:
            with limiter.take_turn(WDQS, WaitBudget(100_000.0)):
                sent.append(clock.now() - start)
                if error:
                    raise error
        except EndpointError:
            pass
    return sent


def test_wikidata_rate_is_one_a_second_after_a_burst() -> None:
    clock = SkippedTime()
    assert ask(RateLimiter(clock=clock), clock, times=8) == pytest.approx([0, 0, 0, 0, 0, 1, 2, 3])


def test_own_server_is_not_limited(server: Server) -> None:
    clock = SkippedTime()
    facts(EndpointSource(server.url, limiter=hasty(clock=clock))).types([f"Q{i}" for i in range(1, 8_000)])
    assert len(server.requests) == 40
    assert clock.slept == []


def test_rate_halves_after_http_429_and_recovers() -> None:
    clock = SkippedTime()
    limiter = RateLimiter(clock=clock)
    assert ask(limiter, clock, times=1, error=THROTTLED) == [0]
    sent = ask(limiter, clock, times=40)
    assert sent[0] == pytest.approx(30)
    assert sent[5] - sent[4] == pytest.approx(2)  # half as fast
    assert sent[39] - sent[38] == pytest.approx(1)  # as before


def test_outage_rate_is_one_a_minute() -> None:
    clock = SkippedTime()
    limiter = RateLimiter(clock=clock)
    assert ask(limiter, clock, times=3, error=OUT) == pytest.approx([0, 65, 195])  # the breaker's time doubles
    sent = ask(limiter, clock, times=5)
    assert sent == pytest.approx([260, 322, 384, 446, 508])


@given(st.lists(st.sampled_from([None, THROTTLED, OUT]), min_size=1, max_size=60))
def test_rate_rules_hold_for_any_sequence(lessons: list[EndpointError | None]) -> None:
    clock = SkippedTime()
    limiter, start, sent = RateLimiter(clock=clock), clock.now(), [0.0]
    for error in lessons:
        ask(limiter, clock, times=1, error=error)
        sent.append(clock.now() - start)
    for (before, after), error in zip(pairwise(sent[1:]), lessons, strict=False):
        assert after - before >= {None: 0, THROTTLED: 30, OUT: 65}[error] - 0.01
    for (i, early), (j, late) in combinations(enumerate(sent[1:]), 2):
        assert j - i <= 5 + (late - early) * 1.0


def test_learned_rate_is_dropped_after_successes() -> None:
    state = with_failure(RateLimitState(), THROTTLED, 0.0, None, 1.0)
    assert state.rate == 1.0
    for _ in range(100):
        state = with_success(state, None)
    assert state.rate is None


def test_bucket_ignores_a_clock_set_back() -> None:
    limits, clock = RateLimitStore(), SkippedTime()
    limits.write(HOST, RateLimitState(tokens=0.0, at=clock.now() + 86_400))
    assert ask(RateLimiter(limits, clock=clock), clock, times=1) == pytest.approx([0])


def test_retry_after_applies_to_later_sources(server: Server) -> None:
    limits, clock = RateLimitStore(), SkippedTime()
    server.fault = first(1, status(429, b"", {"Retry-After": "3600"}))
    with pytest.raises(EndpointError, match=r"no request is allowed before \d{4}-\d\d-\d\d .* UTC, 3600 s") as caught:
        facts(EndpointSource(server.url, limiter=hasty(limits, clock=clock))).out(["Q65"])
    assert (caught.value.trouble, caught.value.retry_after) == ("throttled", pytest.approx(3600))
    clock.time += 600
    with pytest.raises(EndpointError, match=r"3000 s from now \(HTTP 429 .*an earlier request can get you banned"):
        facts(EndpointSource(server.url, limiter=hasty(limits, clock=clock))).out(["Q65"])
    assert len(server.requests) == 1  # the second run did not even ask
    clock.time += 3_000
    assert facts(EndpointSource(server.url, limiter=hasty(limits, clock=clock))).out(["Q65"])["Q65"]


def test_outage_wait_is_bounded_by_patience(server: Server) -> None:
    clock = SkippedTime()
    server.fault = status(429, OUTAGE)
    with pytest.raises(EndpointError, match=r"no request is allowed before.*wdqs outage.*Try again then") as caught:
        facts(EndpointSource(server.url, limiter=hasty(clock=clock))).out(["Q65"])
    assert caught.value.trouble == "outage"
    assert clock.slept == [65]  # the next 130 s would be more than 180 in all
    assert len(server.requests) == 2


def test_last_refusal_is_not_called_too_long_a_wait(server: Server) -> None:
    server.fault = status(429, b"", {"Retry-After": "1"})
    with pytest.raises(EndpointError, match=r"\d s from now .*the last attempt of this run has failed") as caught:
        facts(EndpointSource(server.url, limiter=hasty())).out(["Q65"])
    assert "waits at most" not in str(caught.value) and len(server.requests) == 4


def test_waits_are_logged(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="wikidata_cache")
    server.fault = first(1, FAULTS["429 with Retry-After"]())
    facts(EndpointSource(server.url, limiter=hasty())).out(["Q65"])
    assert "waiting 7 s (HTTP 429 Too Many Requests" in caplog.text


def test_requests_are_sent_one_at_a_time(server: Server) -> None:
    limiter, together, most = RateLimiter(), [0], [0]

    def slow(handler: QuietHandler, body: bytes) -> bool:
        together[0] += 1
        most[0] = max(most[0], together[0])
        time.sleep(0.02)
        together[0] -= 1
        return reply(handler, 200, body)

    server.fault = slow
    sources = [EndpointSource(server.url, limiter=limiter) for _ in range(6)]
    threads = [threading.Thread(target=source.select, args=("SELECT * {}",)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 2 * 6  # a query, and its echo
    assert most == [1]


def test_wait_restarts_after_a_clock_set_back() -> None:
    clock, limits = SkippedTime(), RateLimitStore()
    now = clock.time
    clock.time += 10 * 365 * 86_400
    limiter = RateLimiter(limits, clock=clock)
    ask(limiter, clock, times=1, error=THROTTLED)
    clock.time = now
    wait = limiter.seconds_until_allowed(WDQS)
    assert 25 <= wait <= 60  # as long as was asked for, from now on
    clock.time += wait + 1
    assert limiter.seconds_until_allowed(WDQS) == 0.0


def test_small_clock_differences_are_allowed() -> None:
    clock, limits = SkippedTime(), RateLimitStore()
    limiter = RateLimiter(limits, clock=clock)
    ask(limiter, clock, times=1, error=THROTTLED)
    clock.time -= 2
    assert limiter.seconds_until_allowed(WDQS) == pytest.approx(32, abs=0.1)


@pytest.mark.parametrize(
    "until", ["Fri, 27 Nov 2026 21:46:59 GMT", "Friday, 27-Nov-26 21:46:59 GMT", "Fri Nov 27 21:46:59 2026"]
)
def test_retry_after_date_may_have_each_form_of_http(monkeypatch: pytest.MonkeyPatch, until: str) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert read_retry_after({"retry-after": until, "date": "Fri, 27 Nov 2026 21:46:52 GMT"}) == 7
    finally:
        monkeypatch.undo()
        time.tzset()


def test_retry_after_date_uses_the_server_clock(server: Server) -> None:
    long_ago = time.time() - 20 * 365 * 86_400
    until, since = formatdate(long_ago + 7, usegmt=True), formatdate(long_ago, usegmt=True)

    def behind(handler: QuietHandler, body: bytes) -> bool:
        handler.date_time_string = lambda *_: since  # type: ignore[method-assign]
        return reply(handler, 429, b"", headers={"Retry-After": until})

    server.fault = behind
    with pytest.raises(EndpointError) as caught:
        EndpointSource(server.url, limiter=RateLimiter(clock=SkippedTime()), patience=1).select("SELECT * {}")
    assert caught.value.retry_after == pytest.approx(7, abs=0.5)
