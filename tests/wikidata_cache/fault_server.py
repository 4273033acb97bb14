"""Everything that public SPARQL endpoints do wrong, by name, for the loopback `Server` of wikidata_helpers.

`server.fault = FAULTS["html"]()` spoils every answer from now on, `first(2, FAULTS["html"]())` the first two,
`in_turn([...])` one after another. `row_cap(100)` and `time_limit(ids=10)` are for ever, as at real endpoints,
and spare small questions. No fault waits longer than a fraction of a second.
"""

import gzip
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from email.utils import formatdate
from functools import partial
from typing import Any

from tests.loopback import QuietHandler
from tests.wikidata_cache.wikidata_helpers import Fault, reply
from wikidata_cache.endpoints.rate_limit import RateLimiter, RateLimitStore

OUTAGE = b"Aggressively rate-limiting to 1 req / min - this rule was created during active wdqs outage (d60aac9)"
JAVA = b"java.util.concurrent.TimeoutException\n\tat java.util.concurrent.FutureTask.get(FutureTask.java:205)\n"
SR353 = b"Virtuoso 22023 Error SR353: Sorted TOP clause specifies more then 10001 rows to sort."


class SkippedTime:
    """A clock for `RateLimiter` that only advances in `sleep`, which takes no time; `slept` records how long."""

    def __init__(self) -> None:
        self.time = time.time()
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds


def hasty(limits: RateLimitStore | None = None, *, clock: SkippedTime | None = None) -> RateLimiter:
    """A rate limiter that keeps all the rules and never really waits: `EndpointSource(url, limiter=hasty())`."""
    return RateLimiter(limits, clock=clock or SkippedTime())


def status(code: int, text: bytes, headers: Mapping[str, str] | None = None, *, kind: str = "text/plain") -> Fault:
    """Answer with a status and a text."""
    return lambda handler, body: reply(handler, code, text, kind=kind, headers=dict(headers or {}))


def spoilt(change: Callable[[bytes], bytes], *, kind: str = "application/sparql-results+json") -> Fault:
    """Answer 200 with the right body made wrong."""
    return lambda handler, body: reply(handler, 200, change(body), kind=kind)


def with_row(row: Mapping[str, Any]) -> Fault:
    """One row more, at the beginning of each answer."""

    def changed(body: bytes) -> bytes:
        answer = json.loads(body)
        answer["results"]["bindings"].insert(0, row)
        return json.dumps(answer).encode()

    return spoilt(changed)


def cut(body: bytes, then: bytes = b"") -> bytes:
    """The first half, and maybe a last word."""
    return body[: len(body) // 2] + then


def short_read(handler: QuietHandler, body: bytes, *, missing: int = 10) -> bool:
    """Promise more bytes than come: the connection is cut."""
    return reply(handler, 200, body[:-missing], headers={"Content-Length": str(len(body))})


def short_chunks(handler: QuietHandler, body: bytes) -> bool:
    """A chunked answer that ends without its last chunk."""
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    for name, value in (("Content-Type", "application/sparql-results+json"), ("Transfer-Encoding", "chunked")):
        handler.send_header(name, value)
    handler.end_headers()
    half = cut(body)
    handler.wfile.write(f"{len(half):x}\r\n".encode() + half + b"\r\n")
    handler.close_connection = True
    return True


def short_gzip(handler: QuietHandler, body: bytes, *, missing: int = 12) -> bool:
    """A gzip stream without its end, with a Content-Length that agrees."""
    return reply(handler, 200, gzip.compress(body)[:-missing], headers={"Content-Encoding": "gzip"})


def corrupt_gzip(handler: QuietHandler, body: bytes) -> bool:
    """A gzip stream with a wrong checksum."""
    zipped = gzip.compress(body)
    return reply(handler, 200, zipped[:-8] + bytes(4) + zipped[-4:], headers={"Content-Encoding": "gzip"})


def hang_up(handler: QuietHandler, body: bytes) -> bool:
    """Close the connection without a word."""
    handler.close_connection = True
    return True


def drip(handler: QuietHandler, body: bytes, *, headers_too: bool = False) -> bool:
    """A byte now and then, for a second; ask with a timeout below that."""
    head = b"HTTP/1.0 200 OK\r\nContent-Type: application/sparql-results+json\r\n\r\n"
    try:
        handler.wfile.write(b"" if headers_too else head)
        for byte in (head + body if headers_too else body)[:20]:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            time.sleep(0.05)
    except OSError:
        pass  # the client has hung up
    return True


def silence(handler: QuietHandler, body: bytes) -> bool:
    """Nothing for half a second; ask with a timeout below that."""
    time.sleep(0.5)
    handler.close_connection = True
    return True


def row_cap(rows: int) -> Fault:
    """Give out no more than so many rows, silently, as Virtuoso and QLever do."""

    def capped(body: bytes) -> bytes:
        answer = json.loads(body)
        answer["results"]["bindings"] = answer["results"]["bindings"][:rows]
        return json.dumps(answer).encode()

    return spoilt(capped)


def time_limit(*, ids: int, fault: Fault | None = None) -> Fault:
    """Time out (or another fault) on every question with more than so many ids."""
    fault = fault or status(500, JAVA)

    def limited(handler: QuietHandler, body: bytes) -> bool:
        query: str = handler.query  # type: ignore[attr-defined]  # set by Server
        requested = set(re.findall(r"wd:[QP]\d+", query)) or set(re.findall(r'"[^"]*"@en ', query))
        return len(requested) > ids and fault(handler, body)

    return limited


def first(times: int, fault: Fault) -> Fault:
    """Only the first so many answers are spoilt."""
    return in_turn([fault] * times)


def in_turn(faults: Iterable[Fault | None]) -> Fault:
    """One fault after another (None spares an answer); none after the last."""
    waiting = iter(faults)

    def next_one(handler: QuietHandler, body: bytes) -> bool:
        fault = next(waiting, None)
        return fault is not None and fault(handler, body)

    return next_one


QLEVER_TIMEOUT = b'{"exception": "Operation timed out.", "status": "ERROR"}'
GATEWAY = b"<html><h1>502 Bad Gateway</h1>nginx</html>"

FAULTS: dict[str, Callable[[], Fault]] = {
    "429 with Retry-After": partial(status, 429, b"Too Many Requests", {"Retry-After": "7"}),
    "429 until a date": lambda: status(429, b"", {"Retry-After": formatdate(time.time() + 9, usegmt=True)}),
    "429 without Retry-After": partial(status, 429, b"Too Many Requests"),
    "outage": partial(status, 429, OUTAGE),
    "500 Java timeout": partial(status, 500, JAVA),
    "500 Java timeout, gzip": partial(status, 500, gzip.compress(JAVA), {"Content-Encoding": "gzip"}),
    "429 that is a timeout": partial(status, 429, QLEVER_TIMEOUT, kind="application/json"),
    "503": partial(status, 503, b"Service Unavailable"),
    "504": partial(status, 504, b"Gateway Time-out"),
    "500": partial(status, 500, b"Internal Server Error"),
    "cut JSON": partial(spoilt, cut),
    "cut JSON with Java trace": partial(spoilt, partial(cut, then=b"\n" + JAVA)),
    "cut JSON, cancelled": partial(spoilt, partial(cut, then=b"The SPARQL operation has been cancelled")),
    "empty": partial(spoilt, lambda body: b""),
    "no sentinel": partial(row_cap, 0),
    "anytime": lambda: lambda handler, body: reply(handler, 200, body, headers={"X-SQL-State": "S1TAT"}),
    "206": lambda: lambda handler, body: reply(handler, 206, body),
    "sorted top": partial(status, 500, SR353),
    "html": partial(spoilt, lambda body: GATEWAY, kind="text/html"),
    "short read": lambda: short_read,
    "short of a last space": lambda: lambda handler, body: short_read(handler, body + b" ", missing=1),
    "short chunks": lambda: short_chunks,
    "short gzip": lambda: short_gzip,
    "short of a checksum": lambda: partial(short_gzip, missing=4),
    "corrupt gzip": lambda: corrupt_gzip,
    "hang-up": lambda: hang_up,
    "drip": lambda: drip,
    "drip from the first byte": lambda: partial(drip, headers_too=True),
    "silence": lambda: silence,
    "414": partial(status, 414, b"URI Too Long"),
    "403": partial(status, 403, b"You have been banned until tomorrow"),
    "400": partial(status, 400, b"malformed query"),
    "401": partial(status, 401, b"who are you?"),
    "404": partial(status, 404, b"no such page"),
}
FATAL = ("403", "400", "401", "404")  # no second request; every other fault of FAULTS passes if it comes once
