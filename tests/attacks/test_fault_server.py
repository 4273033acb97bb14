"""An endpoint that does everything wrong, in any order: the subgraphs come out right, or the run ends in words.

To the faults of `tests/wikidata_cache/fault_server.py` come those of an attacker: answers to other questions, rows
about others, values of other types, bombs, bodies without end, redirects. Whatever happens, the cache holds nothing but
what a faultless endpoint says, and the memory stays within bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.attacks.commands import bounded_memory
from tests.loopback import QuietHandler
from tests.wikidata_cache.endpoints.test_web import EMPTY, MB, bomb, endless, zipped
from tests.wikidata_cache.fault_server import FAULTS, hasty, in_turn, spoilt, status, with_row
from tests.wikidata_cache.wikidata_helpers import EDITS, Fault, Server
from wikidata_cache import WikidataCache, packaged_extract
from wikidata_cache.answers.cached_source import CachedSource
from wikidata_cache.answers.snapshot import export_snapshot, import_snapshot
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.endpoints.endpoint import EndpointSource
from wikidata_cache.errors import CacheFileError, EndpointError
from wikidata_cache.sources.graph_files import load_files
from wikidata_cache.subgraphs.options import SubgraphOptions

pytestmark = pytest.mark.slow

ENTITY = "http://www.wikidata.org/entity/"
FOREIGN = {
    "label": {"e": {"type": "uri", "value": f"{ENTITY}Q666"}, "l": {"type": "literal", "value": "x"}},
    "redirect": {"s": {"type": "uri", "value": f"{ENTITY}Q1345"}, "o": {"type": "uri", "value": f"{ENTITY}Q666"}},
    "statement": {name: {"type": "uri", "value": f"{ENTITY}Q666"} for name in "spo"},
    "null": {"e": {"type": "uri", "value": f"{ENTITY}Q65"}, "l": {"type": "literal", "value": None}},
}


def stale() -> Fault:
    """The first answer of all, whatever is asked."""
    first: list[bytes] = []
    return spoilt(lambda body: first.append(body) or first[0])  # type: ignore[func-returns-value]


def without_types(body: bytes) -> bytes:
    return body.replace(b'"type":"uri"', b'"type":"bnode"')


def elsewhere(handler: QuietHandler, body: bytes) -> bool:
    return status(302, b"", {"Location": "http://127.0.0.1:9/query"})(handler, body)


ATTACKS: dict[str, Callable[[], Fault]] = {
    "stale": stale,
    "bomb": lambda: zipped(bomb(40 * MB)),
    "endless": lambda: endless,
    "empty members": lambda: zipped(EMPTY * 10**4),
    "redirect": lambda: elsewhere,
    "no types": lambda: spoilt(without_types),
    "deep": lambda: spoilt(lambda body: b"[" * 10**5),
    "wide": lambda: spoilt(lambda body: b"[" + b"[]," * 10**5 + b"[]]"),
    "surrogate": lambda: spoilt(lambda body: body.replace(b'"en"', rb'"\ud800"')),
    **{f"row: {name}": partial(with_row, row) for name, row in FOREIGN.items()},
    **{name: fault for name, fault in FAULTS.items() if name not in ("drip", "drip from the first byte", "silence")},
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(load_files([packaged_extract()])[0]) as running:
        yield running


@pytest.fixture(scope="module")
def right(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[tuple[str, str], str]]:
    """The hashes of the subgraphs, and the facts, that a faultless endpoint gives."""
    path = tmp_path_factory.mktemp("right") / "c.sqlite"
    return fetched(server, path), facts(path)


def fetched(server: Server, path: Path) -> list[str]:
    source = EndpointSource(server.url, patience=600.0, limiter=hasty(), max_bytes=20 * MB)
    with AnswerStore(path) as store:
        cache = WikidataCache(CachedSource(source, store))
        return [graph.graph["content_hash"] for graph in cache.subgraphs(EDITS, SubgraphOptions(hops=3))]


def facts(path: Path) -> dict[tuple[str, str], str]:
    rows = AnswerStore(path).database.read("SELECT kind, id, value FROM facts")
    assert len({row[:2] for row in rows}) == len(rows)
    return {(kind, entity): value for kind, entity, value in rows}


@given(names=st.lists(st.sampled_from([None, *ATTACKS]), max_size=12))
def test_no_order_of_faults_leaves_a_wrong_fact(
    server: Server,
    right: tuple[list[str], dict[tuple[str, str], str]],
    tmp_path_factory: pytest.TempPathFactory,
    names: list[str | None],
) -> None:
    path = tmp_path_factory.mktemp("faults") / "c.sqlite"
    server.fault = in_turn(name and ATTACKS[name]() for name in names)
    with bounded_memory():
        try:
            assert fetched(server, path) == right[0]
        except EndpointError as error:
            assert str(error).isprintable() and "FILE.nt.gz" in str(error)
    stored = facts(path)
    assert {key: right[1].get(key) for key in stored} == stored, "a fact that no faultless endpoint gives"
    server.fault = None
    assert fetched(server, path) == right[0]  # and what was stored serves the next run
    snapshot = path.with_name("s.jsonl.gz")
    export_snapshot(AnswerStore(path), snapshot)
    assert import_snapshot(AnswerStore(path.with_name("d.sqlite")), snapshot).new == len(facts(path))


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_lasting_fault_stores_no_wrong_fact(
    server: Server, right: tuple[list[str], dict[tuple[str, str], str]], tmp_path: Path, name: str
) -> None:
    server.fault = ATTACKS[name]()
    before = len(server.requests)
    try:
        assert fetched(server, tmp_path / "c.sqlite") == right[0]
    except (EndpointError, CacheFileError) as error:
        assert str(error).isprintable()
    assert facts(tmp_path / "c.sqlite").items() <= right[1].items()
    assert len(server.requests) - before < 200
