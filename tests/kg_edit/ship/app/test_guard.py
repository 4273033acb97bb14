"""The guard over real connections: other host names, other origins, forms, large bodies, silent clients."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest

from kg_edit.ship.app.server import make_app
from kg_edit.ship.cli.serve import host_names, listening, run
from tests.kg_edit.ship.app.serving import EDIT, Served, answering, workshop

JSON = {"Content-Type": "application/json"}
WRONG = json.dumps({**EDIT, "subject": " "})  # a request that is read is answered by 422


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    desk = workshop(graph=False)
    app = make_app(desk, hosts=host_names("0.0.0.0", ["lab.example"]), largest=1000)  # noqa: S104 - names only
    with listening("127.0.0.1", 0) as listener, answering(app, listener):
        yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}", desk)


@pytest.mark.parametrize("path", ["/", "/api/state", "/api/try"])
def test_guard_refuses_other_host_names(server: Served, path: str) -> None:
    port = urlsplit(server.url).port
    for name in ("evil.example", f"evil.example:{port}", "", "[evil", "127.0.0.1.evil.example"):
        headers = {"Host": name, "Origin": f"http://{name}", "Sec-Fetch-Site": "same-origin", **JSON}
        code, text, _ = server.send("POST" if path == "/api/try" else "GET", path, "{}", headers)
        assert (code, json.loads(text)["kind"]) == (400, "UnknownHostError")


@pytest.mark.parametrize("name", ["127.0.0.1", "192.168.7.7:8000", "[fe80::1]:8000", "LAB.example", "localhost:1"])
def test_guard_answers_to_its_names_and_addresses(server: Served, name: str) -> None:
    assert server.send("GET", "/api/state", headers={"Host": name})[0] == 200


def test_default_names_are_of_this_machine() -> None:
    assert host_names("127.0.0.1", ()) == ("127.0.0.1", "localhost")
    assert host_names("::1", ["Lab.example"]) == ("127.0.0.1", "localhost", "::1", "lab.example")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
@pytest.mark.parametrize("host", ["::1", "::"])
def test_server_listens_at_an_ipv6_address(host: str) -> None:
    with listening(host, 0) as listener:
        port = listener.getsockname()[1]
        for caller in ("::1",) if host == "::1" else ("::1", "127.0.0.1"):
            socket.create_connection((caller, port), timeout=5).close()


def test_large_body_is_refused_before_it_is_read(server: Served) -> None:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port)) as caller:
        caller.sendall(b"POST /api/try HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 600000000\r\n")
        caller.sendall(b"Content-Type: application/json\r\n\r\n" + bytes(100))
        assert caller.recv(100).startswith(b"HTTP/1.1 413")


def test_endless_body_is_refused(server: Served) -> None:
    connection = HTTPConnection(server.url.removeprefix("http://"), timeout=20)
    with closing(connection):
        connection.request("POST", "/api/try", iter([bytes(400)] * 4), JSON, encode_chunked=True)
        answer = connection.getresponse()
        assert answer.status == 413 and "--max-body" in answer.read().decode()


@pytest.mark.slow
def test_silent_client_does_not_delay_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    import uvicorn

    monkeypatch.setattr("kg_edit.ship.cli.serve._END_S", 1)
    started: list[uvicorn.Server] = []
    original = uvicorn.Server.__init__
    monkeypatch.setattr(uvicorn.Server, "__init__", lambda self, config: started.append(self) or original(self, config))  # type: ignore[func-returns-value]
    with listening("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=run, args=(make_app(workshop(graph=False)), listener))
        thread.start()
        with socket.create_connection(listener.getsockname()) as silent:
            silent.sendall(b"POST /api/try HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{")
            time.sleep(0.5)
            start = time.monotonic()
            started[0].should_exit = True
            thread.join(20)
    assert not thread.is_alive() and time.monotonic() - start < 10


def sent(server: Served, headers: dict[str, str], *, method: str = "POST", path: str = "/api/try") -> tuple[int, str]:
    """Status and kind."""
    code, text, answered = server.send(method, path, WRONG, headers)
    assert answered["x-content-type-options"] == "nosniff"
    assert json.loads(text)["message"]
    return code, json.loads(text)["kind"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},  # another port of this machine
        {"Origin": "http://127.0.0.1"},
        {"Origin": "http://[evil"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://evil.example"},
    ],
    ids=str,
)
def test_guard_refuses_other_origins(server: Served, headers: dict[str, str]) -> None:
    for path in ("/api/try", "/api/ledger"):
        assert sent(server, {**JSON, **headers}, path=path) == (403, "ForeignRequestError")
    assert sent(server, headers, method="DELETE")[0] == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "text/plain; application/json"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/jsonx"},
    ],
    ids=str,
)
def test_guard_refuses_content_types_of_forms(server: Served, headers: dict[str, str]) -> None:
    assert sent(server, headers) == (415, "ContentTypeError")
    assert sent(server, headers, method="PUT")[0] == 415


@pytest.mark.parametrize("site", [None, "same-origin", "none"])
@pytest.mark.parametrize("content", ["application/json", "Application/JSON; charset=utf-8"])
def test_guard_answers_this_page_and_programs(server: Served, site: str | None, content: str) -> None:
    headers = {"Content-Type": content} | ({"Sec-Fetch-Site": site, "Origin": server.url} if site else {})
    assert sent(server, headers) == (422, "EditError")


def test_guard_answers_reading_from_other_pages(server: Served) -> None:
    assert server.send("GET", "/", headers={"Sec-Fetch-Site": "cross-site"})[0] == 200  # a link on another page
