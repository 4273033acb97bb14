"""What is known of how often a host may be asked, and what each answer teaches; pure functions of time."""

from dataclasses import dataclass, replace

from wikidata_cache.endpoints.rules import OUTAGE_RATE
from wikidata_cache.errors import EndpointError, EndpointTrouble

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
