"""Faults of a server on loopback: the subgraphs are the same as without, or an error names the id."""

import pytest
from pyoxigraph import Store

from tests.everyday import keep_first
from tests.wikidata_cache.fault_server import (
    FATAL,
    FAULTS,
    JAVA,
    Fault,
    first,
    hasty,
    row_cap,
    status,
    time_limit,
)
from tests.wikidata_cache.wikidata_helpers import Server, content_hashes
from wikidata_cache import WikidataCache
from wikidata_cache.endpoints.endpoint import EndpointSource
from wikidata_cache.errors import EndpointError
from wikidata_cache.subgraphs.options import SubgraphOptions

DRIPS = ("drip", "drip from the first byte", "silence")
TRANSIENT = sorted(set(FAULTS) - set(FATAL))


@pytest.fixture(scope="module")
def right(store: Store) -> list[str]:
    """The content hashes that a faultless endpoint gives."""
    with Server(store) as server:
        return fetched(server, None)


def fetched(server: Server, fault: Fault | None, *, timeout: float = 30.0) -> list[str]:
    server.fault = fault
    source = EndpointSource(server.url, timeout=timeout, patience=600.0, limiter=hasty())
    return content_hashes(WikidataCache(source), options=SubgraphOptions(hops=3))


@pytest.mark.parametrize("name", keep_first(TRANSIENT, keep=6))
def test_transient_fault_changes_no_subgraph(name: str, server: Server, right: list[str]) -> None:
    timeout = 0.4 if name in DRIPS else 30.0
    assert fetched(server, first(1, FAULTS[name]()), timeout=timeout) == right


@pytest.mark.parametrize("rows", [200, 300, 1_000])
def test_row_cap_splits_requests(rows: int, server: Server, right: list[str]) -> None:
    assert fetched(server, row_cap(rows)) == right
    assert len(server.requests) > 5  # as many as without a cap


@pytest.mark.parametrize("rows", [1, 10, 100])
def test_row_cap_below_one_id_is_an_error(rows: int, server: Server) -> None:
    with pytest.raises(
        EndpointError, match=r"asked for the single id 'Q\d+' .* lacks its end after \d+ rows.* ResultSetMaxRows"
    ):
        fetched(server, row_cap(rows))


@pytest.mark.slow
@pytest.mark.parametrize("ids", [1, 3, 17])
@pytest.mark.parametrize(
    "name", ["500 Java timeout", "cut JSON, cancelled", "sorted top", "429 that is a timeout", "414"]
)
def test_time_limit_splits_requests(ids: int, name: str, server: Server, right: list[str]) -> None:
    assert fetched(server, time_limit(ids=ids, fault=FAULTS[name]())) == right
    assert len(server.requests) > 5


def test_error_of_a_single_id_names_it(server: Server) -> None:
    source = EndpointSource(server.url, limiter=hasty())
    server.fault = status(500, JAVA)
    with pytest.raises(
        EndpointError, match=r"asked for the single id 'Q1345' \(out\): HTTP 500 .*longer timeout"
    ) as caught:
        WikidataCache(source).facts.out(["Q1345"])
    assert (caught.value.trouble, caught.value.status) == ("timeout", 500)


def test_block_size_shrinks_and_grows(server: Server) -> None:
    source = EndpointSource(server.url, limiter=hasty())
    cache = WikidataCache(source)
    server.fault = time_limit(ids=50)
    cache.facts.types([f"Q{i}" for i in range(1, 401)])
    sent = len(server.requests)
    assert sent <= 15  # 2 that were too large, 8 of 50, and one or two tries at growing
    server.fault = None
    server.requests.clear()
    cache.facts.types([f"Q{i}" for i in range(1_000, 5_000)])
    assert len(server.requests) < 40  # of 50 it would be 80, of 200 just 20
