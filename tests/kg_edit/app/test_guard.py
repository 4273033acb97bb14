"""Requests under other names and of any size, clients that say nothing: over real connections."""

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

from kg_edit.app.server import make_app
from kg_edit.cli.serve import host_names, listening, run
from kg_edit.errors import ConfigError
from tests.kg_edit.app.serving import EDIT, Served, answering, workshop

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KG_EDIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        made = workshop(graph=False)
        app = make_app(made, hosts=host_names("0.0.0.0", ["lab.example"]), largest=1000)  # noqa: S104 - names only
        with listening("127.0.0.1", 0) as place, answering(app, place):
            yield Served(f"http://127.0.0.1:{place.getsockname()[1]}", made)


@pytest.mark.parametrize("path", ["/", "/api/state", "/api/try"])
def test_another_name_that_leads_here_is_refused(server: Served, path: str) -> None:
    port = urlsplit(server.url).port
    for name in ("evil.example", f"evil.example:{port}", "", "[evil", "127.0.0.1.evil.example"):
        headers = {"Host": name, "Origin": f"http://{name}", "Sec-Fetch-Site": "same-origin", **JSON}
        code, text, _ = server.send("POST" if path == "/api/try" else "GET", path, "{}", headers)
        assert (code, json.loads(text)["kind"]) == (400, "UnknownHostError")


@pytest.mark.parametrize("name", ["127.0.0.1", "192.168.7.7:8000", "[fe80::1]:8000", "LAB.example", "localhost:1"])
def test_its_own_names_and_addresses_are_answered(server: Served, name: str) -> None:
    assert server.send("GET", "/api/state", headers={"Host": name})[0] == 200


def test_the_default_answers_to_this_machine_alone() -> None:
    assert host_names("127.0.0.1", ()) == ("127.0.0.1", "localhost")


def test_an_empty_host_is_no_address() -> None:
    with pytest.raises(ConfigError, match=r"or 0\.0\.0\.0 for requests from every machine"):
        listening(" ", 0)


def test_a_large_body_is_refused_before_it_is_read(server: Served) -> None:
    place = urlsplit(server.url)
    with socket.create_connection((place.hostname, place.port)) as caller:
        caller.sendall(b"POST /api/try HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 600000000\r\n")
        caller.sendall(b"Content-Type: application/json\r\n\r\n" + bytes(100))
        assert caller.recv(100).startswith(b"HTTP/1.1 413")


def test_an_endless_body_is_refused(server: Served) -> None:
    connection = HTTPConnection(server.url.removeprefix("http://"), timeout=20)
    with closing(connection):
        connection.request("POST", "/api/try", iter([bytes(400)] * 4), JSON, encode_chunked=True)
        answer = connection.getresponse()
        assert answer.status == 413 and "--max-body" in answer.read().decode()


def test_a_small_body_is_read(server: Served) -> None:
    code, answer = server.post("/api/try", {**EDIT, "subject": " "})
    assert (code, answer["kind"]) == (422, "EditError")


def test_a_client_that_says_nothing_does_not_delay_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    import uvicorn

    monkeypatch.setattr("kg_edit.cli.serve._END_S", 1)
    started: list[uvicorn.Server] = []
    original = uvicorn.Server.__init__
    monkeypatch.setattr(uvicorn.Server, "__init__", lambda self, config: started.append(self) or original(self, config))  # type: ignore[func-returns-value]
    with listening("127.0.0.1", 0) as place:
        thread = threading.Thread(target=run, args=(make_app(workshop(graph=False)), place))
        thread.start()
        with socket.create_connection(place.getsockname()) as silent:
            silent.sendall(b"POST /api/try HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{")
            time.sleep(0.5)
            start = time.monotonic()
            started[0].should_exit = True
            thread.join(20)
    assert not thread.is_alive() and time.monotonic() - start < 10
