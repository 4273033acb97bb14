"""Facts through the Action API: the same as the query service's, also when that one is out, and nothing twice."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyoxigraph import RdfFormat, Store

from kg_edit.zoo.in_context.popularity import read_popularity
from tests.loopback import QuietHandler
from tests.wikidata_cache.api_server import NO_VALUE, ApiServer, claim, entities_of, entity, time_value
from tests.wikidata_cache.fault_server import OUTAGE, SkippedTime, first, hasty, status
from tests.wikidata_cache.full_graph import ADA, CAVS, CYCLE, HEAT, LAKERS, NAMELESS, OLD, full_graph
from tests.wikidata_cache.wikidata_helpers import (
    EDITS,
    Edit,
    Fault,
    Server,
    content_hashes,
    reply,
    run_cli,
    write_edits,
)
from wikidata_cache import WikidataCache, packaged_extract
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.endpoints.action_api import ActionApi
from wikidata_cache.endpoints.chain import EndpointChain
from wikidata_cache.endpoints.endpoint import EndpointSource
from wikidata_cache.errors import EditRowError, EndpointError, EntityNotInGraphError
from wikidata_cache.extract import packaged_labels
from wikidata_cache.ids import ENTITY
from wikidata_cache.sources.graph_files import load_files
from wikidata_cache.sources.source import Json, Kind
from wikidata_cache.sources.templates import TEMPLATES
from wikidata_cache.sources.wordings import DESCRIPTIONS_IN, LABELS_IN, NAMED_IN

KINDS: tuple[Kind, ...] = ("out", "claims", "types", "label", "description", "sitelinks", "redirect")
MANY = [f"Q{number}" for number in range(1, 121)]  # three requests


@pytest.fixture
def api(store: Store) -> Iterator[ApiServer]:
    with ApiServer(entities_of(store)) as running:
        yield running


@pytest.fixture
def source(api: ApiServer) -> ActionApi:
    return ActionApi(api.url, limiter=hasty())


def values(source: EndpointSource, kind: Kind, ids: list[str]) -> dict[str, Json]:
    """The facts of one kind."""
    answers = list(source.ask(TEMPLATES[kind], ids))
    return {fact.id: fact.value for answer in answers for fact in answer.facts if fact.kind == kind}


def test_fetch_through_the_api_gives_the_same_subgraphs_and_rows(
    edits: Path, server: Server, api: ApiServer, tmp_path: Path
) -> None:
    results = {}
    for url in (server.url, api.url):
        cache, out = tmp_path / f"{len(results)}.sqlite", tmp_path / f"{len(results)}.jsonl"
        printed = run_cli("fetch", edits, "--hops", "3", "--endpoint", url, "--cache", cache, "--out", out)
        assert run_cli("fetch", edits, "--hops", "3", "--offline", "--cache", cache)[-65:] == printed[-65:]
        line = json.loads(out.read_text().splitlines()[1])
        assert line["graph"]["source"]["urls"] == [url], "the row in the cache says which road it came by"
        rows = AnswerStore(cache).database.read("SELECT kind, id, value FROM facts")
        results[url] = printed[-65:], {(kind, id_): value for kind, id_, value in rows}
    (digest, rows), (other_digest, other_rows) = results.values()
    assert digest == other_digest
    common = rows.keys() & other_rows.keys()
    assert len(common) > 300
    assert {key: rows[key] for key in common} == {key: other_rows[key] for key in common}
    assert max(len(parameters["ids"].split("|")) for parameters, _ in api.requests) == 50


def test_url_may_have_parameters_of_its_own(api: ApiServer, source: ActionApi) -> None:
    expected = values(source, "label", ["Q65"])
    api.requests.clear()
    assert values(ActionApi(f"{api.url}?uselang=en", limiter=hasty()), "label", ["Q65"]) == expected
    parameters, _ = api.requests[0]
    assert (parameters["uselang"], parameters["ids"]) == ("en", "Q65")


def test_ranks_times_and_merged_items_are_those_of_sparql() -> None:
    store = Store()
    pages = f'<{ENTITY}{ADA}> <http://wikiba.se/ontology#sitelinks> "7"^^<http://www.w3.org/2001/XMLSchema#integer> .'
    store.load(f"{full_graph()}{pages}".encode(), RdfFormat.N_TRIPLES)
    with Server(store) as server, ApiServer(entities_of(store)) as api:
        ids = [ADA, CAVS, HEAT, LAKERS, NAMELESS, CYCLE, OLD, "Q404", "P54"]
        for kind in KINDS:
            expected = values(EndpointSource(server.url), kind, ids)
            assert values(ActionApi(api.url), kind, ids) == expected
        assert expected[OLD] == CAVS, "the last kind is the redirect"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (time_value("+2018-07-09T00:00:00Z"), "2018-07-09T00:00:00Z"),
        (time_value("+2018-07-00T00:00:00Z", precision=10), "2018-07-01T00:00:00Z"),
        (time_value("+2018-00-00T00:00:00Z", precision=9), "2018-01-01T00:00:00Z"),
        (time_value("-0027-01-16T00:00:00Z"), "-0026-01-16T00:00:00Z"),
        (time_value("-0001-00-00T00:00:00Z", precision=9), "0000-01-01T00:00:00Z"),
        (time_value("-0044-03-15T00:00:00Z", calendar="Q1985786"), "-0043-03-13T00:00:00Z"),  # the Ides of March
        (time_value("+1582-10-05T00:00:00Z", calendar="Q1985786"), "1582-10-15T00:00:00Z"),
        (time_value("+1616-04-00T00:00:00Z", precision=10, calendar="Q1985786"), "1616-04-01T00:00:00Z"),
    ],
)
def test_times_are_written_as_in_rdf(value: dict, expected: str, api: ApiServer, source: ActionApi) -> None:
    qualifiers = {"P580": [{"snaktype": "somevalue"}], "P582": [{"datavalue": {"type": "time", "value": value}}]}
    api.get = lambda name: entity(name, "x", claims={"P39": [claim("Q5") | {"qualifiers": qualifiers}]})
    assert values(source, "claims", ["Q1"]) == {"Q1": [["P39", "Q5", "normal", "", expected]]}


def test_fetch_writes_the_pages_of_subjects(edits: Path, api: ApiServer, tmp_path: Path) -> None:
    merged = Edit("King James", "Miami Heat", subject_id="Q9001", target_new_id="Q169138")  # now Q36159
    write_edits(edits, *EDITS, merged)
    get = api.get
    api.get = lambda name: (
        get("Q36159" if name == "Q9001" else name)
        | {"sitelinks": {f"wiki{n}": {"title": name} for n in range(int(name[1:]) % 9)}}
    )
    out = tmp_path / "pages.json"
    arguments = ["fetch", edits, "--cache", tmp_path / "c.sqlite", "--sitelinks", out]
    assert "3 of 3 subjects" in run_cli(*arguments, "--endpoint", api.url)
    assert read_popularity(out) == {"q36159": 36159 % 9, "q121783": 121783 % 9, "q9001": 36159 % 9}
    assert "3 of 3 subjects" in run_cli(*arguments, "--offline")


def test_preferred_unknown_value_hides_normal_ones(api: ApiServer, source: ActionApi) -> None:
    api.get = lambda name: entity(name, "x", claims={"P39": [claim("Q5"), NO_VALUE | {"rank": "preferred"}]})
    assert values(source, "out", ["Q1"]) == {"Q1": []}
    assert values(source, "claims", ["Q1"]) == {"Q1": [["P39", "Q5", "normal", "", ""]]}


def test_outage_of_the_query_service_is_bridged(
    server: Server, api: ApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    right = content_hashes(WikidataCache(EndpointSource(server.url)))
    sent, server.fault, clock = len(server.requests), status(429, OUTAGE), SkippedTime()
    limiter = hasty(clock=clock)
    roads = [EndpointSource(server.url, limiter=limiter), ActionApi(api.url, limiter=limiter)]
    assert content_hashes(WikidataCache(EndpointChain(roads))) == right
    assert len(server.requests) == sent + 1 and len(api.requests) > 2
    assert clock.slept == [] and "Asking the next endpoint" in caplog.text


def test_item_that_the_query_service_lacks_is_fetched_from_the_api(api: ApiServer, tmp_path: Path) -> None:
    """Such as a scholarly article. By then the query service's empty answer is in the cache."""
    edits = tmp_path / "edits.jsonl"
    edits.write_text('{"subject": "Q1", "relation": "P54", "new_object": "Q2"}\n')
    api.get = {"Q1": entity("Q1", "Ada"), "Q2": entity("Q2", "A paper"), "P54": entity("P54", "wrote")}.__getitem__
    fetch = ("fetch", edits, "--cache", tmp_path / "cache.sqlite", "--endpoint")
    with Server(Store()) as bare, pytest.raises(EditRowError, match="is not in the graph"):
        run_cli(*fetch, bare.url)
    with pytest.raises(EditRowError, match="is not in the graph"):
        run_cli(*fetch, api.url)
    assert "digest" in run_cli(*fetch, api.url, "--mode", "refresh")
    way_out = "--endpoint https://query-scholarly.wikidata.org/sparql"
    assert way_out in str(EntityNotInGraphError("Q2", "A paper", "https://query.wikidata.org/sparql"))
    assert way_out not in str(EntityNotInGraphError("Q2", "A paper", api.url))


def test_question_that_needs_sparql_waits_for_it(server: Server, api: ApiServer) -> None:
    clock = SkippedTime()
    limiter = hasty(clock=clock)
    chain = EndpointChain([ActionApi(api.url, limiter=limiter), EndpointSource(server.url, limiter=limiter)])
    server.fault = first(1, status(429, OUTAGE))
    assert WikidataCache(chain).find("Philadelphia") == ("Q1345",)
    assert clock.slept == [pytest.approx(65, abs=20)] and api.requests == []
    assert len(chain.select("SELECT ?s { ?s ?p ?o } LIMIT 5")) == 5


@pytest.mark.parametrize("kind", ["in", "named"])
def test_api_alone_says_what_it_lacks(kind: Kind, source: ActionApi) -> None:
    for ask in (lambda: list(source.ask(TEMPLATES[kind], ["Q1"])), lambda: source.select("SELECT ?s { ?s ?p ?o }")):
        with pytest.raises(EndpointError, match=r"the Action API can't answer .*Give a SPARQL endpoint too"):
            ask()


@pytest.mark.parametrize(
    ("fault", "wait"),
    [
        (first(1, status(429, b"slow down", {"Retry-After": "7"})), 7),
        (first(1, status(200, b'{"error": {"code": "maxlag", "info": "x"}}', {"Retry-After": "5"})), 5),
        (first(1, status(200, b'{"error": {"code": "ratelimited", "info": "x"}}')), 60),
        (first(2, status(503, b"upstream")), None),
        (first(1, status(200, b'{"entities": {"Q1"', kind="application/json")), None),
    ],
)
def test_api_waits_as_long_as_it_is_told(fault: Fault, wait: float | None, api: ApiServer) -> None:
    clock = SkippedTime()
    api.fault = fault
    labels = values(ActionApi(api.url, limiter=hasty(clock=clock)), "label", MANY)
    assert sorted(labels) == sorted(MANY) and labels["Q30"] == ["United States of America", "en"]
    assert wait is None or clock.slept[0] == pytest.approx(wait, rel=0.3)


def test_too_large_answer_is_halved(api: ApiServer, source: ActionApi) -> None:
    def limited(handler: QuietHandler, _: bytes) -> bool:
        return len(api.requests[-1][0]["ids"].split("|")) > 20 and reply(handler, 200, b'{"entities": {"Q1": ')

    api.fault = limited
    assert sorted(values(source, "out", MANY)) == sorted(MANY)
    assert {len(parameters["ids"].split("|")) for parameters, _ in api.requests} >= {50, 25, 12}


def test_hint_for_a_query_names_a_sparql_endpoint(api: ApiServer, cache_path: str) -> None:
    WikidataCache(api.url, cache=cache_path).subgraphs(EDITS)
    offline = WikidataCache(cache=cache_path)
    with pytest.raises(Exception, match=rf"--endpoint {api.url}"):
        offline.labels(["Q999"])
    with pytest.raises(Exception, match=r"WikidataCache\('https://query.wikidata.org/sparql'"):
        offline.query("SELECT ?s { ?s ?p ?o }")


def test_labels_in_other_languages_are_those_of_sparql() -> None:
    store = load_files([packaged_extract(), packaged_labels()])[0]
    keys = [f"{entity} {family}" for entity in ("Q84", "Q65", "Q1632204", "P19", "Q404") for family in ("ko", "zh")]
    with Server(store) as server, ApiServer(entities_of(store)) as api:
        sources = (EndpointSource(server.url), ActionApi(api.url))
        for template in (LABELS_IN, DESCRIPTIONS_IN):
            expected, found = (
                [fact for answer in source.ask(template, keys) for fact in answer.facts] for source in sources
            )
            assert found == expected
        [parameters] = [parameters for parameters, _ in api.requests if parameters["props"] == "labels"]
        assert parameters["languages"].split("|")[:2] == ["ko", "ko-kp"] and "en" not in parameters["languages"].split(
            "|"
        )


def test_names_in_other_languages_need_sparql(source: ActionApi) -> None:
    with pytest.raises(EndpointError, match="can't answer a question of the kind 'named_in'"):
        list(source.ask(NAMED_IN, ["ko 런던"]))
