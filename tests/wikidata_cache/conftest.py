"""Fixtures for the tests of wikidata_cache: the packaged extract, a toy graph, a loopback endpoint."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyoxigraph import Store

from tests.wikidata_cache.wikidata_helpers import EDITS, TOY, Server, write_edits
from wikidata_cache import WikidataCache, packaged_extract
from wikidata_cache.sources.graph_files import load_files
from wikidata_cache.stores.load import load


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KG_OFFLINE", "KG_EDIT_CONTACT", "KG_GRAPH", "KG_CACHE", "KG_PACKS", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _own_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test may read or write the cache of whoever runs it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))


@pytest.fixture
def cache_path(tmp_path: Path) -> str:
    """Where a cache file may be made."""
    return str(tmp_path / "answers" / "cache.sqlite")


@pytest.fixture(scope="session")
def cache() -> WikidataCache:
    return WikidataCache(packaged_extract())


@pytest.fixture(scope="session")
def store() -> Store:
    return load_files([packaged_extract()])[0]


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged extract as a loaded store, which every test leaves as it is."""
    store = tmp_path_factory.mktemp("loaded") / "wd"
    load([packaged_extract()], store)
    return store


@pytest.fixture
def toy_file(tmp_path: Path) -> Path:
    path = tmp_path / "toy.tsv"
    path.write_text(TOY, encoding="utf-8")
    return path


@pytest.fixture
def toy(toy_file: Path) -> WikidataCache:
    return WikidataCache(toy_file)


@pytest.fixture
def edits(tmp_path: Path) -> Path:
    """A file of three edits: Spike Hughes, LeBron James, and the Los Angeles Lakers in row 3."""
    return write_edits(tmp_path / "my edits.jsonl", *EDITS)


@pytest.fixture
def server(store: Store) -> Iterator[Server]:
    with Server(store) as running:
        yield running
