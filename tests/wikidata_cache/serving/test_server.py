"""The server over a store: it answers, refuses what could do harm, and has stopped after the block."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from pyoxigraph import Store

from tests.wikidata_cache.wikidata_helpers import EDITS
from wikidata_cache import WikidataCache
from wikidata_cache.errors import ServeError, StoreError
from wikidata_cache.serving.pool import WorkerPool
from wikidata_cache.serving.server import served
from wikidata_cache.stores.manifest import engine_folder


@pytest.fixture(scope="module")
def url(loaded: Path) -> Iterator[str]:
    """A server for the tests that leave it as it is."""
    with served(loaded) as running:
        yield running


def count(url: str) -> str:
    query = quote("SELECT (COUNT(*) AS ?n) { ?s ?p ?o }")
    request = urllib.request.Request(f"{url}?query={query}", headers={"Accept": "text/csv"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
        return str(answer.read().decode().split()[1])


def refuses(url: str) -> bool:
    address = urlsplit(url)
    with socket.socket() as probe:
        return probe.connect_ex((address.hostname, address.port)) != 0


def test_served_answers_read_only_and_stops_after_the_block(loaded: Path, cache: WikidataCache) -> None:
    with served(loaded) as url:
        assert url.startswith("http://127.0.0.1:")
        assert url.endswith("/query")
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(url.replace("/query", "/update"), b"update=DELETE%20WHERE%7B?s%20?p%20?o%7D")  # noqa: S310
        assert count(url) == "25726"
        graphs = WikidataCache(url, mode="online").subgraphs(EDITS)
    assert refuses(url)
    with pytest.raises(KeyError), served(loaded) as url:
        raise KeyError
    assert refuses(url)
    expected = cache.subgraphs(EDITS)
    assert [g.graph["content_hash"] for g in graphs] == [g.graph["content_hash"] for g in expected]


def test_served_takes_a_plain_oxigraph_folder(tmp_path: Path, loaded: Path) -> None:
    Store(str(tmp_path / "plain")).flush()
    with served(tmp_path / "plain") as url:
        assert count(url) == "0"


def test_served_refuses_a_taken_port_and_a_missing_store(loaded: Path, tmp_path: Path) -> None:
    with served(loaded) as url:
        port = urlsplit(url).port
        with pytest.raises(ServeError, match=f"port {port} of 127.0.0.1 cannot be used"), served(loaded, port=port):
            pass
    with pytest.raises(StoreError, match="there is no such folder"), served(tmp_path / "nowhere"):
        pass


def test_served_quotes_a_process_that_does_not_start(
    loaded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'no such option' >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    with pytest.raises(ServeError, match="did not start: no such option"), served(loaded):
        pass


def post(url: str, query: str, headers: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Status, media type and body of the answer to a query by POST."""
    data = f"query={quote(query)}".encode()
    request = urllib.request.Request(url, data, headers or {})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


ONE = "SELECT ?o { <http://www.wikidata.org/entity/Q65> <http://www.wikidata.org/prop/direct/P17> ?o }"
HEAVY = "SELECT (COUNT(*) AS ?n) { ?a ?b ?c . ?d ?e ?f . ?g ?h ?i }"


def test_query_with_service_is_refused(url: str) -> None:
    status, _, text = post(url, f"SELECT * {{ SERVICE <{url}> {{ ?s ?p ?o }} }} LIMIT 1")
    assert status == 400 and "SERVICE" in text


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Host": "evil.example:7878"}, {"Origin": "http://evil.example"}, {"Origin": "null"}],
)
def test_requests_of_other_sites_are_refused(url: str, headers: dict[str, str]) -> None:
    status, kind, text = post(url, ONE, headers)
    assert (status, kind) == (403, "text/plain; charset=utf-8") and "127.0.0.1" in text
    assert post(url, ONE, {"Host": "localhost:9999", "Origin": "http://127.0.0.1:1"})[0] == 200


def test_slow_query_is_stopped_and_others_are_answered(loaded: Path) -> None:
    with served(loaded, timeout_s=1) as url:
        start = time.monotonic()
        status, _, text = post(url, HEAVY)
        assert status == 504 and "stopped after 1 s" in text and time.monotonic() - start < 5
        assert count(url) == "25726"


@pytest.mark.slow
def test_query_beyond_the_memory_limit_is_stopped(loaded: Path, tmp_path: Path) -> None:
    with closing(WorkerPool(engine_folder(loaded), seconds=60, size=1, megabytes=200)) as pool:
        outcome = pool.run("SELECT * { ?a ?b ?c . ?d ?e ?f } ORDER BY ?a", [], tmp_path / "out")
        assert outcome["status"] == 500 and "200 MB" in outcome["text"]
        assert pool.run(ONE, [], tmp_path / "out")["status"] == 200


def test_process_that_died_while_it_was_idle_is_replaced(loaded: Path, tmp_path: Path) -> None:
    with closing(WorkerPool(engine_folder(loaded), seconds=60, size=1)) as pool:
        [worker] = pool._idle
        worker.end()
        assert pool.run(ONE, [], tmp_path / "out")["status"] == 200


def test_query_that_is_nested_too_deeply_ends_its_process_alone(url: str) -> None:
    status, _, text = post(url, f"SELECT * {'{' * 5_000}{'}' * 5_000}")
    assert status == 500 and "nested too deeply" in text
    assert post(url, ONE)[0] == 200


@pytest.mark.parametrize(
    ("query", "accept", "expected"),
    [
        (ONE, "text/csv", "o\r\nhttp://www.wikidata.org/entity/Q30\r\n"),
        (
            ONE,
            "text/html, text/csv;q=0.1, text/tab-separated-values;q=0.9",
            "?o\n<http://www.wikidata.org/entity/Q30>\n",
        ),
        (ONE, "text/csv;q=0, */*", '{"head":{"vars":["o"]}'),
        ("ASK { ?s ?p ?o }", "application/sparql-results+json", '{"head":{},"boolean":true}'),
        (f"CONSTRUCT {{ ?o a ?o }} {ONE[10:]}", "", "<http://www.wikidata.org/entity/Q30> "),
    ],
)
def test_formats_follow_the_accept_header(url: str, query: str, accept: str, expected: str) -> None:
    status, _, text = post(url, query, {"Accept": accept})
    assert status == 200 and text.startswith(expected)


@pytest.mark.parametrize(
    ("path", "data", "headers", "expected"),
    [
        ("/query", b"SELECT * {}", {"Content-Type": "application/sparql-query"}, 200),
        ("/query", b"SELECT * {", {"Content-Type": "application/sparql-query"}, 400),
        ("/query", b"x" * 1_000_001, {}, 413),
        ("/query", b"default-graph-uri=x&query=ASK%20%7B%7D", {}, 400),
        ("/query", b"format=json&output=json&query=ASK%20%7B%7D", {}, 200),  # SPARQLWrapper's
        ("/query", b"<query/>", {"Content-Type": "text/xml"}, 415),
        ("/query", None, {}, 400),
        ("/store", None, {}, 404),
    ],
)
def test_requests_outside_the_protocol_are_refused(
    url: str, path: str, data: bytes | None, headers: dict[str, str], expected: int
) -> None:
    request = urllib.request.Request(url.replace("/query", path), data, headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            assert answer.status == expected
    except urllib.error.HTTPError as error:
        assert error.code == expected


@pytest.mark.parametrize(
    ("method", "path", "code", "message"),
    [
        ("GET", "/query?query=" + "x" * 70_000, 414, "at most 65,536 bytes"),
        ("PUT", "/query", 501, "Unsupported method ('PUT')"),
        ("GET", "/a b c", 400, "Bad request"),
    ],
)
def test_requests_that_the_library_refuses_are_answered_in_text(
    url: str, method: str, path: str, code: int, message: str
) -> None:
    with closing(socket.create_connection(("127.0.0.1", urlsplit(url).port))) as client:
        client.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head, _, body = b"".join(iter(lambda: client.recv(1 << 16), b"")).decode().partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {code} ") and "text/plain" in head
    assert message in body and "<" not in body


@pytest.mark.slow
def test_idle_client_delays_nobody(loaded: Path) -> None:
    with socket.socket() as silent:
        with served(loaded) as url:
            address = urlsplit(url)
            silent.connect((address.hostname, address.port))
            silent.sendall(b"POST /query HTTP/1.1\r\nContent-Length: 5\r\n")
            assert count(url) == "25726"
            start = time.monotonic()
        assert time.monotonic() - start < 5


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is sent otherwise there")
@pytest.mark.parametrize("wish", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_the_serve_command(loaded: Path, wish: signal.Signals) -> None:
    command = [sys.executable, "-c", "from wikidata_cache.cli import main; main()", "serve", str(loaded), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[0]
        assert count(url) == "25726"
        process.send_signal(wish)
        assert process.stdout.read().endswith("stopped\n")
        assert process.wait(timeout=20) == 0
    assert refuses(url)
