"""An endpoint as a source: its requests, the records of its answers, and its failures."""

import gzip
import hashlib
import json
import socket
from datetime import datetime
from typing import Any

import pytest

from tests.everyday import keep_first
from tests.loopback import QuietHandler
from tests.wikidata_cache.fault_server import FAULTS, first, hasty, status
from tests.wikidata_cache.wikidata_helpers import Server, facts, reply
from wikidata_cache.endpoints.endpoint import EndpointSource, _BlockSize
from wikidata_cache.errors import EndpointError, OfflineError
from wikidata_cache.sources.templates import OUT


def trouble(server: Server, fault: Any, **options: Any) -> EndpointError:
    server.fault = fault
    with pytest.raises(EndpointError) as caught:
        facts(EndpointSource(server.url, limiter=hasty(), **options)).out(["Q1345"])
    # Every error ends with something that works without this endpoint.
    assert server.url in str(caught.value) and "FILE.nt.gz" in str(caught.value)
    return caught.value


def test_request_headers(server: Server) -> None:
    facts(EndpointSource(server.url, contact="tests@example.org")).out([f"Q{i}" for i in range(1, 401)])
    assert [method for method, _, _ in server.requests] == ["GET", "GET"]
    headers = server.requests[0][1]
    assert headers["User-Agent"].startswith("wikidata-cache/")
    assert "(tests@example.org)" in headers["User-Agent"]
    assert "sparql-results+json" in headers["Accept"]
    assert headers["Accept-Encoding"] == "gzip"


def test_long_query_is_posted(server: Server) -> None:
    for label in ("x" * 2_000, "名" * 200):  # six languages each, and nine characters of URL for every 名
        assert facts(EndpointSource(server.url)).named([label]) == {label: ()}
        assert server.requests[-1][0] == "POST"


def test_endpoint_url_with_parameters(server: Server) -> None:
    paths: list[str] = []

    def note(handler: QuietHandler, body: bytes) -> bool:
        paths.append(handler.path)
        return False

    server.fault = note
    url = f"{server.url}?default-graph-uri=http%3A%2F%2Fwikidata&key=1"
    source = facts(EndpointSource(url))
    assert source.labels(["Q65"]) == {"Q65": "Los Angeles"}
    assert source.named(["x" * 5_000]) == {"x" * 5_000: ()}  # by POST
    assert paths[0].startswith("/query?default-graph-uri=http%3A%2F%2Fwikidata&key=1&query=PREFIX")
    assert paths[1] == "/query?default-graph-uri=http%3A%2F%2Fwikidata&key=1"


def test_http_414_switches_to_post(server: Server) -> None:
    server.fault = first(1, FAULTS["414"]())
    source = facts(EndpointSource(server.url))
    assert source.out(["Q65"])["Q65"] and source.types(["Q65"])["Q65"]
    assert [method for method, _, _ in server.requests] == ["GET", "POST", "POST"]


@pytest.mark.parametrize("zipped", [False, True])
def test_answer_has_its_exchange(server: Server, zipped: bool) -> None:
    bodies = []

    def noted(handler: QuietHandler, body: bytes) -> bool:
        bodies.append(body)
        headers = {"Age": "12", "X-Served-By": "cp1", "Set-Cookie": "secret"}
        packed = {"Content-Encoding": "gzip", **headers}
        return (
            reply(handler, 200, gzip.compress(body), headers=packed)
            if zipped
            else reply(handler, 200, body, headers=headers)
        )

    server.fault = noted
    (answer,) = EndpointSource(server.url).ask(OUT, ["Q65"])
    exchange = answer.exchange
    assert exchange is not None
    assert exchange.url == server.url and exchange.query == OUT.query(["Q65"])
    assert exchange.sha256 == hashlib.sha256(bodies[0]).hexdigest()
    assert exchange.rows == len(json.loads(bodies[0])["results"]["bindings"]) - 1  # without the answer's end
    assert datetime.fromisoformat(exchange.fetched_at).utcoffset() is not None
    assert exchange.elapsed_ms >= 0
    assert exchange.headers.keys() == {"date", "server", "age", "x-served-by", "content-type"}


@pytest.mark.parametrize(
    ("name", "kind", "hint", "requests"),
    [
        ("429 with Retry-After", "throttled", "no request is allowed before", 4),
        ("429 until a date", "throttled", "no request is allowed before", 4),
        ("429 without Retry-After", "throttled", "no request is allowed before", 4),
        ("outage", "outage", "no request is allowed before", 2),
        ("429 that is a timeout", "timeout", "longer timeout", 1),
        ("500 Java timeout, gzip", "timeout", "longer timeout", 1),
        ("206", "timeout", "longer timeout", 1),
        ("504", "timeout", "longer timeout", 4),
        ("503", "unavailable", "try again later", 4),
        ("500", "unavailable", "try again later", 4),
        ("403", "refused", "User-Agent", 1),
        ("400", "rejected", "Check a query of your own", 1),
        ("401", "rejected", "Check a query of your own", 1),
        ("404", "rejected", "Check a query of your own", 1),
        ("html", "unavailable", "proxy", 4),
        ("cut JSON", "cut off", "ended too early", 4),
        ("cut JSON with Java trace", "timeout", "time limit of the server", 1),
        ("cut JSON, cancelled", "timeout", "time limit of the server", 1),
        ("empty", "cut off", "after 0 bytes", 4),
        ("short read", "cut off", "ended too early", 4),
        ("short chunks", "cut off", "ended too early", 4),
        ("short gzip", "cut off", "ended too early", 4),
        ("short of a last space", "cut off", "ended too early", 4),
        ("short of a checksum", "cut off", "ended too early", 4),
        ("corrupt gzip", "cut off", "ended too early", 4),
        ("hang-up", "unavailable", "no connection", 4),
        ("no sentinel", "truncated", "after 0 rows", 1),
        ("sorted top", "truncated", "SR353", 1),
        ("anytime", "timeout", "S1TAT", 1),
        ("414", "too long", "too long for this server", 2),
    ],
)
def test_failures_are_classified(server: Server, name: str, kind: str, hint: str, requests: int) -> None:
    error = trouble(server, FAULTS[name]())
    assert error.trouble == kind
    assert hint in str(error)
    assert len(server.requests) == requests


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<html>Welcome</html>", "text/html"),
        (b'{"head": {}, "error": "x"}', "application/json"),
        (b"[]", "application/json"),
        (b'{"head": {}, "boolean": true}', "application/sparql-results+json"),
        (b'{"results": {"bindings": [{"end": {"value": "true"}}, {"o": {"value": "1"}}]}}', "application/json"),
    ],
)
def test_foreign_answers_are_not_retried(server: Server, body: bytes, kind: str) -> None:
    assert trouble(server, status(200, body, kind=kind)).trouble == "bad answer"
    assert len(server.requests) == 1


@pytest.mark.parametrize("asked", ["soon", "", "-5", "9" * 40, "Fri, 31 Dec 9999 23:59:59 GMT", "1 Jan 1 0:0:0"])
def test_invalid_retry_after_is_bounded(server: Server, asked: str) -> None:
    error = trouble(server, status(429, b"", {"Retry-After": asked}))
    assert error.trouble == "throttled"
    assert 0 < (error.retry_after or 0) <= 30 * 86_400


@pytest.mark.parametrize("code", [200, 400, 429, 500])
def test_server_text_is_printable(server: Server, code: int) -> None:
    evil = "\x1b[2J\x07gone\u202e\r\n".encode() + b"\xff" * 9
    error = trouble(server, status(code, evil, kind="text/plain"))
    assert "gone" in str(error)
    assert str(error).isprintable()


def test_deep_json_is_refused(server: Server) -> None:
    assert trouble(server, status(200, b"[" * 200_000, kind="application/json")).trouble == "cut off"


@pytest.mark.parametrize("name", keep_first(["drip", "silence", "drip from the first byte"]))
def test_client_deadline_ends_a_request(server: Server, name: str) -> None:
    error = trouble(server, FAULTS[name](), timeout=0.2)
    assert error.trouble == "timeout" and "0.2 s" in str(error)


def test_slow_answer_is_announced(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("wikidata_cache.endpoints.transport._SILENCE", 0.1)
    with caplog.at_level("INFO", logger="wikidata_cache.endpoints.transport"):
        assert trouble(server, FAULTS["drip"](), timeout=0.3).trouble == "timeout"
    assert caplog.messages[0] == f"{server.url}: waiting for the answer, at most 0 s more"


@pytest.mark.parametrize("name", ["outage", "503", "html", "short gzip"])
def test_user_query_is_retried(server: Server, name: str) -> None:
    source = EndpointSource(server.url, limiter=hasty())
    server.fault = first(1, FAULTS[name]())
    assert len(source.select("SELECT * { ?s ?p ?o } LIMIT 7")) == 7


@pytest.mark.slow
def test_connection_timeout_is_unavailable() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for caller in waiting:
            caller.setblocking(False)
            caller.connect_ex(deaf.getsockname())
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/query"
        with pytest.raises(EndpointError, match="no connection: timed out") as caught:
            facts(EndpointSource(url, limiter=hasty(), timeout=0.1)).types([f"Q{i}" for i in range(1, 201)])
        for caller in waiting:
            caller.close()
    assert caught.value.trouble == "unavailable"  # so that 200 ids are not split


@pytest.mark.parametrize("target", ["http://127.0.0.1:99999/", "http://[::1/"])
def test_redirect_to_a_malformed_url_is_reported(server: Server, target: str) -> None:
    assert trouble(server, status(302, b"", {"Location": target})).trouble == "rejected"
    assert len(server.requests) == 1


def test_only_full_blocks_make_the_next_ones_larger() -> None:
    size = _BlockSize(count=50, most=100)
    for ids, expected in [(1, 50)] * 8 + [(50, 50)] * 3 + [(50, 100)]:
        size.note_success(ids)
        assert size.count == expected
    size.shrink(100)
    assert (size.count, size.needed) == (50, 8)


def test_contact_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KG_EDIT_CONTACT", "you@example.org")
    assert EndpointSource("https://query.wikidata.org/sparql").name == "https://query.wikidata.org/sparql"


def test_contact_may_have_latin_letters(server: Server) -> None:
    assert EndpointSource(server.url, contact="Jörg <joerg@example.org>", limiter=hasty()).select("SELECT * {}") == [{}]


@pytest.mark.parametrize("host", ["qlever-wikidata.wmcloud.org", "blazegraph.toolforge.org"])
def test_hosts_beside_the_cloud_of_wikimedia_need_no_contact(host: str) -> None:
    assert EndpointSource(f"https://my{host.partition('.')[2]}/sparql").name


def test_kg_offline_forbids_endpoints(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    source = EndpointSource(server.url)
    monkeypatch.setenv("KG_OFFLINE", "0")
    assert facts(source).out(["Q65"])
    monkeypatch.setenv("KG_OFFLINE", "1")
    with pytest.raises(OfflineError, match="Unset KG_OFFLINE"):
        facts(source).out(["Q65"])
    with pytest.raises(OfflineError):
        EndpointSource(server.url)
    assert len(server.requests) == 1
