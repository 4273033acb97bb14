"""Limits of HTTP answers: size, zipped and unzipped, and redirects within one host."""

import gzip
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.everyday import keep_first
from tests.loopback import Loopback, QuietHandler
from tests.peak_memory import adds_at_most
from tests.wikidata_cache.fault_server import hasty, status
from tests.wikidata_cache.wikidata_helpers import Server, facts, reply
from wikidata_cache import WikidataCache
from wikidata_cache.endpoints.endpoint import EndpointSource
from wikidata_cache.endpoints.web import is_http_address, read_answer_limit
from wikidata_cache.errors import BadOptionError, EndpointError

MB = 1_000_000
GZIP = {"Content-Encoding": "gzip"}
EMPTY = gzip.compress(b"", mtime=0)


def bomb(size: int) -> bytes:
    """A gzip stream a thousandth of the size that it unzips to."""
    zipper = zlib.compressobj(wbits=31)
    return b"".join(zipper.compress(bytes(MB)) for _ in range(size // MB)) + zipper.flush()


def endless(handler: QuietHandler, body: bytes) -> bool:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/sparql-results+json")
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(bytes(MB))
    except OSError:
        return True


def zipped(body: bytes) -> Callable[[QuietHandler, bytes], bool]:
    return lambda handler, _: reply(handler, 200, body, headers=GZIP)


@pytest.mark.parametrize(
    "fault", [zipped(bomb(40 * MB)), endless, zipped(EMPTY * 300_000)], ids=["bomb", "endless", "empty members"]
)
def test_body_beyond_the_limit_is_not_read(server: Server, fault: Any) -> None:
    server.fault = fault
    start = time.monotonic()
    with (
        adds_at_most(100),
        pytest.raises(EndpointError, match=r"more than 5 MB \(too large\).*KG_MAX_ANSWER_MB") as caught,
    ):
        EndpointSource(server.url, limiter=hasty(), max_bytes=5 * MB).select("SELECT * { ?s ?p ?o } LIMIT 1")
    assert caught.value.trouble == "too large" and len(server.requests) == 1
    assert time.monotonic() - start < 20


def test_too_large_answer_splits_requests(server: Server) -> None:
    ids = [f"Q{number}" for number in range(1, 101)]
    expected = facts(EndpointSource(server.url)).out(ids)
    source = EndpointSource(server.url, limiter=hasty(), max_bytes=100_000)
    sent = len(server.requests)
    assert facts(source).out(ids) == expected
    assert len(server.requests) - sent > 3


def test_answer_limit_from_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_answer_limit() == 50 * MB
    monkeypatch.setenv("KG_MAX_ANSWER_MB", "0.0001")
    with pytest.raises(EndpointError, match=r"more than 0\.0001 MB"):
        facts(EndpointSource(server.url, limiter=hasty())).labels(["Q65"])
    for wrong in ("much", "0", "-1", "nan", "1e99"):
        monkeypatch.setenv("KG_MAX_ANSWER_MB", wrong)
        with pytest.raises(BadOptionError, match="KG_MAX_ANSWER_MB"):
            WikidataCache(server.url, mode="online")


def test_gzip_members_form_one_stream(server: Server) -> None:
    right = facts(EndpointSource(server.url)).labels(["Q65", "Q30"])

    def in_members(handler: QuietHandler, body: bytes) -> bool:
        pieces = [gzip.compress(body[start : start + 7]) for start in range(0, len(body), 7)]
        return reply(handler, 200, EMPTY.join(pieces), headers=GZIP)

    server.fault = in_members
    assert facts(EndpointSource(server.url)).labels(["Q65", "Q30"]) == right


def test_error_body_is_cut_off(server: Server) -> None:
    server.fault = status(503, bytes(3 * MB))
    with pytest.raises(EndpointError, match="HTTP 503"):
        facts(EndpointSource(server.url, limiter=hasty())).labels(["Q65"])


@pytest.fixture
def elsewhere() -> Iterator[list[str]]:
    """Another server: its URL, then the User-Agents of those who came."""
    seen: list[str] = []

    class Elsewhere(QuietHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["User-Agent"])
            self.answer(200, b"{}")

    with Loopback(Elsewhere, "/query") as other:
        seen.append(other.url)
        yield seen


@pytest.mark.parametrize("code", keep_first([302, 308, 301, 303, 307], keep=2))
@pytest.mark.parametrize("target", ["{other}", "ftp://127.0.0.1/x", "https://127.0.0.1:{port}/", "file:///etc/passwd"])
def test_redirect_to_another_host_is_refused(server: Server, elsewhere: list[str], target: str, code: int) -> None:
    location = target.format(other=elsewhere[0], port=server.url.split(":")[2].split("/")[0])
    server.fault = status(code, b"", {"Location": location})
    with pytest.raises(EndpointError, match=r"rejected.*has moved to") as caught:
        facts(EndpointSource(server.url, contact="me@example.org", limiter=hasty())).labels(["Q65"])
    assert location in str(caught.value) and len(elsewhere) == 1


def test_redirect_on_the_same_host_is_followed(server: Server) -> None:
    def once(handler: QuietHandler, body: bytes) -> bool:
        if "moved" in handler.path:
            return False
        return reply(handler, 308, b"", headers={"Location": f"{handler.path}&moved=1"})

    server.fault = once
    assert facts(EndpointSource(server.url)).labels(["Q65"]) == {"Q65": "Los Angeles"}


@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_redirected_post_keeps_its_query(server: Server, code: int) -> None:
    def once(handler: QuietHandler, body: bytes) -> bool:
        return "moved" not in handler.path and reply(handler, code, b"", headers={"Location": "/query?moved=1"})

    server.fault = once
    source = EndpointSource(server.url, contact="me@example.org", limiter=hasty())
    assert facts(source).named(["x" * 3_000, "Los Angeles"])["Los Angeles"] == ("Q65",)
    (first, *_), (last, headers, _) = server.requests
    assert (first, last) == ("POST", "POST") and "(me@example.org)" in headers["User-Agent"]


def test_redirect_of_a_post_to_a_get_is_refused(server: Server) -> None:
    server.fault = status(303, b"", {"Location": "/query?moved=1"})
    with pytest.raises(EndpointError, match=r"HTTP 303 .*rejected.*has moved to /query\?moved=1"):
        facts(EndpointSource(server.url, limiter=hasty())).named(["x" * 3_000])
    assert len(server.requests) == 1


def test_redirect_loop_ends(server: Server) -> None:
    server.fault = lambda handler, body: reply(handler, 302, b"", headers={"Location": handler.path})
    with pytest.raises(EndpointError):
        facts(EndpointSource(server.url, limiter=hasty())).labels(["Q65"])
    assert len(server.requests) < 50


@pytest.mark.parametrize(
    "url", ["http://localhost:8000/v1", "https://example.org", "http://[::1]:80/v1", "HTTP://a.b/c?d"]
)
def test_address_that_can_be_asked(url: str) -> None:
    assert is_http_address(url)


@pytest.mark.parametrize(
    "url",
    ["", "localhost:80", "ftp://a", "http://", "http://:80", "http://a:b", "http://[::1", "http://a b", "http://a\n"],
)
def test_address_that_no_request_can_be_sent_to(url: str) -> None:
    assert not is_http_address(url)
