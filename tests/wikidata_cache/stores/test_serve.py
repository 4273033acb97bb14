"""The server over a store, and that it is gone afterwards."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from pyoxigraph import Store

from tests.wikidata_cache.wikidata_helpers import EDITS
from wikidata_cache import WikidataCache, packaged_extract
from wikidata_cache.errors import ServeError, StoreError
from wikidata_cache.stores.load import load
from wikidata_cache.stores.serve import find_server, served


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        find_server()
    except ServeError as error:
        pytest.skip(str(error))
    store = tmp_path_factory.mktemp("served") / "wd"
    load([packaged_extract()], store)
    return store


def count(url: str) -> str:
    query = quote("SELECT (COUNT(*) AS ?n) { ?s ?p ?o }")
    asked = urllib.request.Request(f"{url}?query={query}", headers={"Accept": "text/csv"})  # noqa: S310
    with urllib.request.urlopen(asked, timeout=20) as answer:  # noqa: S310
        return str(answer.read().decode().split()[1])


def refuses(url: str) -> bool:
    place = urlsplit(url)
    with socket.socket() as probe:
        return probe.connect_ex((place.hostname, place.port)) != 0


def test_the_endpoint_answers_and_is_gone_afterwards(loaded: Path, cache: WikidataCache) -> None:
    with served(loaded) as url:
        assert url.startswith("http://127.0.0.1:")
        assert url.endswith("/query")
        assert count(url) == "25726"
        graphs = WikidataCache(url, mode="online").subgraphs(EDITS)
    assert refuses(url)
    expected = cache.subgraphs(EDITS)
    assert [g.graph["content_hash"] for g in graphs] == [g.graph["content_hash"] for g in expected]


def test_it_reads_only_and_listens_to_this_machine_only(loaded: Path) -> None:
    with served(loaded) as url:
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(url.replace("/query", "/update"), b"update=DELETE%20WHERE%7B?s%20?p%20?o%7D")  # noqa: S310
        assert count(url) == "25726"


def test_an_error_inside_the_block_stops_it_too(loaded: Path) -> None:
    with pytest.raises(KeyError), served(loaded) as url:
        raise KeyError
    assert refuses(url)


def test_a_plain_oxigraph_folder(tmp_path: Path, loaded: Path) -> None:
    Store(str(tmp_path / "plain")).flush()
    with served(tmp_path / "plain") as url:
        assert count(url) == "0"


def test_a_taken_port_a_missing_server_and_no_store(
    loaded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(loaded) as url:
        port = urlsplit(url).port
        with pytest.raises(ServeError, match=f"port {port} of 127.0.0.1 cannot be used"), served(loaded, port=port):
            pass
    with pytest.raises(StoreError, match="there is no such folder"), served(tmp_path / "nowhere"):
        pass
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(ServeError, match=r"pip install \"kg-edit\[serve\]\""), served(loaded):
        pass


def test_a_server_that_dies_at_once_is_quoted(loaded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "oxigraph"
    program.write_text("#!/bin/sh\necho 'no such option' >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr("wikidata_cache.stores.serve.find_server", lambda: str(program))
    with pytest.raises(ServeError, match=r"did not start on port .*: no such option"), served(loaded):
        pass


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is sent otherwise there")
@pytest.mark.parametrize("wish", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_the_command_and_its_server(loaded: Path, wish: signal.Signals) -> None:
    command = [sys.executable, "-c", "from wikidata_cache.cli import main; main()", "serve", str(loaded), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[0]
        assert count(url) == "25726"
        process.send_signal(wish)
        assert process.stdout.read().endswith("stopped\n")
        assert process.wait(timeout=20) == 0
    assert refuses(url)
