"""Everything an endpoint does wrong, done by a real HTTP server on loopback."""

import time
from collections.abc import Callable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from wikidata_helpers import Server, facts, reply

from wikidata_cache import open_source
from wikidata_cache.endpoints.endpoint import EndpointSource
from wikidata_cache.errors import EndpointError, MissingContactError, OfflineError


def failing(
    status: int, body: bytes = b"", *, times: int = 99, **options: Any
) -> Callable[[BaseHTTPRequestHandler, bytes], bool]:
    """A fault that answers the first `times` requests with a status."""
    left = [times]

    def fault(handler: BaseHTTPRequestHandler, real: bytes) -> bool:
        left[0] -= 1
        return left[0] >= 0 and reply(handler, status, body, **options)

    return fault


def trouble(server: Server, fault: Any, **options: Any) -> EndpointError:
    server.fault = fault
    with pytest.raises(EndpointError) as caught:
        facts(EndpointSource(server.url, **options)).out(["Q1345"])
    assert server.url in str(caught.value)
    return caught.value


def test_it_answers_like_the_file(server: Server) -> None:
    source = open_source(server.url, contact="tests@example.org")
    assert ("P17", "Q30") in facts(source).out(["Q1345", "Q65"])["Q65"]
    assert facts(source).labels(["Q65", "P19"]) == {"P19": "place of birth", "Q65": "Los Angeles"}
    assert "Q65" in facts(source).named(["Los Angeles"])["Los Angeles"]
    assert facts(source).mentioned(["Q30", "Q1632204"]) == {"Q30"}


def test_who_asks_and_how(server: Server) -> None:
    facts(open_source(server.url, contact="tests@example.org")).out([f"Q{i}" for i in range(1, 401)])
    assert [method for method, _, _ in server.requests] == ["GET", "GET"]
    headers = server.requests[0][1]
    assert headers["User-Agent"].startswith("wikidata-cache/")
    assert "(tests@example.org)" in headers["User-Agent"]
    assert "sparql-results+json" in headers["Accept"]


def test_a_long_question_goes_by_post(server: Server) -> None:
    assert facts(EndpointSource(server.url)).named(["x" * 5_000]) == {"x" * 5_000: ()}
    assert server.requests[0][0] == "POST"


def test_throttling_waits_as_told_and_goes_on(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.fault = failing(429, times=1, headers={"Retry-After": "1"})
    start = time.monotonic()
    assert facts(EndpointSource(server.url)).out(["Q1345"])
    assert time.monotonic() - start >= 1.0
    assert len(server.requests) == 2
    assert "Trying again in 1 s" in caplog.text


def test_throttling_for_longer_than_patience_is_an_error_at_once(server: Server) -> None:
    error = trouble(server, failing(429, headers={"Retry-After": "3600"}))
    assert (error.trouble, error.status, error.retry_after) == ("throttled", 429, 3600.0)
    assert "Wait 3600 s" in str(error) and "local graph" in str(error)
    assert len(server.requests) == 1


def test_retry_after_may_be_a_date(server: Server) -> None:
    error = trouble(server, failing(429, headers={"Retry-After": formatdate(time.time() + 600, usegmt=True)}))
    assert error.retry_after == pytest.approx(600, abs=5)


def test_retries_end(server: Server) -> None:
    assert trouble(server, failing(429, headers={"Retry-After": "0"})).trouble == "throttled"
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("fault", "kind", "hint"),
    [
        (failing(429, b"Aggressively rate-limiting to 1 req / min - active wdqs outage"), "outage", "later"),
        (failing(429, b'{"exception": "Operation timed out."}'), "timeout", "fewer edits"),
        (failing(403, b"You have been banned until tomorrow"), "refused", "User-Agent"),
        (failing(500, b"java.util.concurrent.TimeoutException"), "timeout", "fewer edits"),
        (failing(400, b"malformed query"), "rejected", "SPARQL 1.1 query endpoint"),
        (failing(404, b"no such page"), "rejected", "SPARQL 1.1 query endpoint"),
        (failing(200, b"<html>Bad gateway</html>", kind="text/html"), "bad answer", "proxy"),
        (failing(200, b'{"head": {}, "error": "x"}'), "bad answer", "expected SPARQL JSON"),
        (failing(200, b"[]"), "bad answer", "expected SPARQL JSON"),
    ],
)
def test_failures_are_told_apart_and_not_retried(server: Server, fault: Any, kind: str, hint: str) -> None:
    error = trouble(server, fault)
    assert error.trouble == kind
    assert hint in str(error)
    assert len(server.requests) == 1


def test_a_server_in_trouble_is_asked_again(server: Server) -> None:
    server.fault = failing(503, b"Service Unavailable", times=1)
    assert facts(EndpointSource(server.url)).out(["Q1345"])
    assert trouble(server, failing(502, b"Bad Gateway"), patience=0.0).trouble == "unavailable"


def test_json_cut_off_by_the_server(server: Server) -> None:
    def truncated(handler: BaseHTTPRequestHandler, body: bytes) -> bool:
        return reply(handler, 200, body[: len(body) // 2])

    assert trouble(server, truncated).trouble == "bad answer"

    def blazegraph(handler: BaseHTTPRequestHandler, body: bytes) -> bool:
        return reply(handler, 200, body[: len(body) // 2] + b"\njava.util.concurrent.TimeoutException: gone")

    assert trouble(server, blazegraph).trouble == "timeout"


def test_a_cut_connection(server: Server) -> None:
    def short(handler: BaseHTTPRequestHandler, body: bytes) -> bool:
        return reply(handler, 200, body[:-10], headers={"Content-Length": str(len(body))})

    assert trouble(server, short, patience=0.0).trouble in ("unavailable", "bad answer")


def test_silence(server: Server) -> None:
    def silent(handler: BaseHTTPRequestHandler, body: bytes) -> bool:
        time.sleep(1.0)
        return reply(handler, 200, body)

    error = trouble(server, silent, timeout=0.2)
    assert error.trouble == "timeout" and "0.2 s" in str(error)


def test_a_slow_drip_meets_our_own_deadline(server: Server) -> None:
    def drip(handler: BaseHTTPRequestHandler, body: bytes) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/sparql-results+json")
        handler.end_headers()
        try:
            for byte in body[:200]:
                handler.wfile.write(bytes([byte]))
                handler.wfile.flush()
                time.sleep(0.05)
        except OSError:
            pass
        return True

    start = time.monotonic()
    assert trouble(server, drip, timeout=0.5).trouble == "timeout"
    assert time.monotonic() - start < 3.0


def test_nobody_listens(server: Server) -> None:
    server.close()
    with pytest.raises(EndpointError, match="Check the URL"):
        facts(EndpointSource(server.url, patience=0.0)).named(["x"])


@pytest.mark.parametrize("contact", [None, "me", "a@b.org\r\nX-Evil: 1"])
def test_wikimedia_wants_to_know_who_asks(contact: str | None) -> None:
    with pytest.raises(MissingContactError, match=r"query\.wikidata\.org asks.*KG_EDIT_CONTACT"):
        open_source("https://query.wikidata.org/sparql", contact=contact)


def test_contact_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KG_EDIT_CONTACT", "you@example.org")
    assert open_source("https://query.wikidata.org/sparql").name == "https://query.wikidata.org/sparql"


def test_offline_forbids_endpoints(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(server.url)
    monkeypatch.setenv("KG_OFFLINE", "0")
    assert facts(source).out(["Q65"])
    monkeypatch.setenv("KG_OFFLINE", "1")
    with pytest.raises(OfflineError, match="Unset KG_OFFLINE"):
        facts(source).out(["Q65"])
    with pytest.raises(OfflineError):
        open_source(server.url)
    assert len(server.requests) == 1
