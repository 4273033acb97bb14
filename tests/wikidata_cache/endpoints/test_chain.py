"""Several endpoints as one source: the order of requests, continuing with the next one, and the errors."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyoxigraph import NamedNode, Quad, Store

from tests.everyday import keep_first
from tests.wikidata_cache.fault_server import FAULTS, OUTAGE, SkippedTime, first, hasty, in_turn, row_cap, status
from tests.wikidata_cache.wikidata_helpers import Server, content_hashes, facts
from wikidata_cache import WikidataCache, packaged_extract
from wikidata_cache.answers.cached_source import CachedSource
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.endpoints.chain import EndpointChain
from wikidata_cache.endpoints.endpoint import EndpointSource
from wikidata_cache.endpoints.rate_limit import find_host
from wikidata_cache.errors import EndpointError
from wikidata_cache.ids import DIRECT, ENTITY
from wikidata_cache.sources.oxigraph import OxigraphSource
from wikidata_cache.sources.templates import TYPES

IDS = [f"Q{i}" for i in range(1, 1_001)]  # five blocks


@pytest.fixture
def spare(store: Store) -> Iterator[Server]:
    with Server(store) as running:
        yield running


@pytest.fixture
def clock() -> SkippedTime:
    return SkippedTime()


@pytest.fixture
def chain(server: Server, spare: Server, clock: SkippedTime) -> EndpointChain:
    limiter = hasty(clock=clock)
    return EndpointChain([EndpointSource(each.url, limiter=limiter) for each in (server, spare)])


TAKEN_OVER = ["429 with Retry-After", "outage", "503", "403", "500 Java timeout", "504", "cut JSON", "hang-up", "html"]


@pytest.mark.parametrize("name", keep_first([*TAKEN_OVER, "no sentinel", "sorted top", "414"], keep=5))
def test_chain_continues_with_the_second_endpoint(
    name: str, chain: EndpointChain, server: Server, spare: Server
) -> None:
    right = content_hashes(WikidataCache(EndpointSource(spare.url)))
    server.fault = FAULTS[name]()
    assert content_hashes(WikidataCache(chain)) == right


def test_chain_prefers_the_first_endpoint(chain: EndpointChain, server: Server, spare: Server) -> None:
    server.fault = first(1, FAULTS["503"]())
    assert facts(chain).out(["Q65"])["Q65"]
    assert (len(server.requests), len(spare.requests)) == (2, 0)


def test_chain_sends_remaining_ids_to_the_second_endpoint(
    chain: EndpointChain, server: Server, spare: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.fault = in_turn([None, None, status(429, OUTAGE)])
    answers = list(chain.ask(TYPES, IDS))
    assert [fact.id for answer in answers for fact in answer.facts] == IDS
    assert (len(server.requests), len(spare.requests)) == (3, 3)
    assert [answer.exchange and answer.exchange.url for answer in answers] == [server.url] * 2 + [spare.url] * 3
    assert "outage" in caplog.text and "Asking the next endpoint" in caplog.text
    assert "local graph" not in caplog.text  # the advice is for the error that ends the run


def test_chain_returns_to_the_first_endpoint(
    chain: EndpointChain, server: Server, spare: Server, clock: SkippedTime
) -> None:
    server.fault = first(1, status(429, OUTAGE))
    source = facts(chain)
    source.types(["Q1"])
    source.types(["Q2"])
    assert (len(server.requests), len(spare.requests)) == (1, 2)  # left alone
    clock.time += 66
    source.types(["Q3"])
    assert (len(server.requests), len(spare.requests)) == (2, 2)
    assert clock.slept == []  # without waiting


def test_chain_drops_an_endpoint_that_refuses(chain: EndpointChain, server: Server, spare: Server) -> None:
    server.fault = FAULTS["403"]()
    for entity in ("Q1", "Q2", "Q3"):
        facts(chain).types([entity])
    assert (len(server.requests), len(spare.requests)) == (1, 3)


@pytest.mark.parametrize("name", ["400", "401", "404"])
def test_chain_raises_client_errors(name: str, chain: EndpointChain, server: Server, spare: Server) -> None:
    server.fault = FAULTS[name]()
    with pytest.raises(EndpointError, match="Check a query of your own"):
        facts(chain).types(["Q1"])
    assert (len(server.requests), len(spare.requests)) == (1, 0)


def test_chain_waits_for_the_soonest_endpoint(
    chain: EndpointChain, server: Server, spare: Server, clock: SkippedTime
) -> None:
    server.fault = first(1, status(429, b"", {"Retry-After": "100"}))
    spare.fault = first(1, status(429, b"", {"Retry-After": "20"}))
    assert facts(chain).out(["Q65"])["Q65"]
    assert clock.slept == [pytest.approx(20)]
    assert (len(server.requests), len(spare.requests)) == (1, 2)


def test_chain_failure_names_all_endpoints(chain: EndpointChain, server: Server, spare: Server) -> None:
    server.fault = FAULTS["403"]()
    spare.fault = status(429, b"", {"Retry-After": "7200"})
    with pytest.raises(EndpointError) as caught:
        facts(chain).out(["Q65"])
    for part in (server.url, "banned until tomorrow", spare.url, "7200 s", "FILE.nt.gz"):
        assert part in str(caught.value)
    assert caught.value.retry_after == pytest.approx(7_200)
    assert (len(server.requests), len(spare.requests)) == (1, 1)


def test_chain_answers_user_queries(chain: EndpointChain, server: Server, spare: Server) -> None:
    server.fault = row_cap(5)
    assert len(chain.select("SELECT ?s { ?s ?p ?o } LIMIT 50")) == 5  # a user's query has no end mark
    server.fault = FAULTS["cut JSON"]()
    assert len(chain.select("SELECT ?s { ?s ?p ?o } LIMIT 50")) == 50
    spare.fault = FAULTS["404"]()
    with pytest.raises(EndpointError, match=spare.url):
        chain.select("SELECT ?s { ?s ?p ?o } LIMIT 50")


def test_chain_name_and_provenance(chain: EndpointChain, server: Server, spare: Server) -> None:
    assert chain.name == f"{server.url}, {spare.url}"
    assert chain.provenance()["url"] == chain.name


def test_ends_that_the_main_part_lacks_are_asked_of_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing at the end of a relation is nothing, although its answer, [0, []], is no empty list."""
    main, other = Store(), Store()
    for part, row in ((main, "Q1 P31 Q5"), (other, "Q11 P19 Q90"), (other, "Q90 P31 Q515")):
        subject, relation, target = row.split()
        part.add(Quad(NamedNode(ENTITY + subject), NamedNode(DIRECT + relation), NamedNode(ENTITY + target)))
    with Server(main) as first_part, Server(other) as second_part:
        monkeypatch.setattr("wikidata_cache.endpoints.chain.OTHER_PARTS", (find_host(second_part.url),))
        chain = EndpointChain([EndpointSource(part.url, limiter=hasty()) for part in (first_part, second_part)])
        [ends] = facts(chain).ends(["P19 object"]).values()
        assert ends[0] == 1 and list(facts(chain).at_ends(["P19 object Q90"]).values()) == [True]


@pytest.mark.parametrize("of_main", keep_first([{"Q1345"}, {"Q169138", "Q8652"}]))
def test_ids_that_the_main_part_lacks_are_asked_of_the_other(
    of_main: set[str], store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The extract in two services, as Wikidata's: all that is said of some items is only in the second one."""
    main, other = Store(), Store()
    for quad in store:
        is_elsewhere = str(quad.subject).rpartition("/")[2].rstrip(">") in of_main
        (other if is_elsewhere else main).add(quad)
    with Server(main) as first_part, Server(other) as second_part:
        monkeypatch.setattr("wikidata_cache.endpoints.chain.OTHER_PARTS", (find_host(second_part.url),))
        limiter = hasty()
        # in any order: the other part is asked last
        chain = EndpointChain([EndpointSource(each.url, limiter=limiter) for each in (second_part, first_part)])
        expected = content_hashes(WikidataCache(OxigraphSource.from_files([packaged_extract()])))
        assert content_hashes(WikidataCache(EndpointSource(first_part.url, limiter=limiter))) != expected

        answers = AnswerStore(tmp_path / "cache.sqlite")
        assert content_hashes(WikidataCache(CachedSource(chain, answers))) == expected
        sent = len(first_part.requests), len(second_part.requests)
        assert content_hashes(WikidataCache(CachedSource(None, answers, mode="offline"))) == expected

        # that there is nothing of an id is not stored while the second part is down
        second_part.fault = FAULTS["503"]()
        with pytest.raises(EndpointError, match=re.escape(second_part.url)):
            facts(CachedSource(chain, answers)).label("Q9999999999")
        second_part.fault = None
        assert facts(CachedSource(chain, answers)).label("Q9999999999") is None
        assert sent[1] < len(second_part.requests)
