"""The cache: modes, batches, packs, versions, provenance, and faults of the endpoint."""

import gzip
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from pyoxigraph import Literal, NamedNode, Quad, RdfFormat, Store

from tests.wikidata_cache.fault_server import FAULTS, hasty, in_turn, row_cap, time_limit
from tests.wikidata_cache.wikidata_helpers import EDITS, SPIKE, Server, content_hashes, facts
from wikidata_cache import WikidataCache, open_source, packaged_extract
from wikidata_cache.answers.cached_source import CachedSource
from wikidata_cache.answers.database import unpack
from wikidata_cache.answers.snapshot import export_snapshot, import_snapshot
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.endpoints.endpoint import EndpointSource
from wikidata_cache.errors import CacheMissError, MissingContactError
from wikidata_cache.sources.source import Exchange, Fact, Source
from wikidata_cache.sources.templates import TEMPLATES
from wikidata_cache.subgraphs.edit_ends import EditLike
from wikidata_cache.subgraphs.options import SubgraphOptions

LABEL = NamedNode("http://www.w3.org/2000/01/rdf-schema#label")


def hashes(cache: WikidataCache, edits: Sequence[EditLike] = EDITS) -> list[str]:
    return content_hashes(cache, edits, SubgraphOptions(per_node=5))


def stored(path: str | Path) -> list[tuple[str, str]]:
    with sqlite3.connect(path) as connection:
        return connection.execute("SELECT DISTINCT kind, id FROM facts ORDER BY kind, id").fetchall()


def assert_no_bad_row(path: str | Path, truth: Source) -> None:
    """Check that every fact in the cache file is a fact of the graph."""
    store = AnswerStore(path)
    for kind, entity in stored(path) if Path(path).exists() else []:
        [value] = store.look_up("wikidata", kind, [entity]).values()
        answers = truth.ask(TEMPLATES[kind], [entity])  # type: ignore[index]
        values = [fact.value for answer in answers for fact in answer.facts if (fact.kind, fact.id) == (kind, entity)]
        assert values == [value], (kind, entity)


@pytest.fixture(scope="module")
def truth() -> list[str]:
    return hashes(WikidataCache(packaged_extract()))


def test_many_ids_are_looked_up_once_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[str] = []
    look_up = AnswerStore.look_up

    def counted(store: AnswerStore, graph: str, kind: str, ids: Iterable[str], **more: str | None) -> object:
        looked_up.extend(ids)
        return look_up(store, graph, kind, ids, **more)

    monkeypatch.setattr(AnswerStore, "look_up", counted)
    ids = [f"Q{number}" for number in range(1, 3_001)]
    source = CachedSource(open_source(packaged_extract()), AnswerStore(tmp_path / "cache.sqlite"))
    assert len(facts(source).types(ids)) == len(ids)
    assert len(looked_up) == 3 * len(ids)  # at first, before each request, and before each answer is written


def test_cached_run_sends_no_request(
    server: Server, cache_path: str, truth: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hashes(WikidataCache(server.url, cache=cache_path)) == truth
    sent = len(server.requests)
    assert sent > 0
    assert hashes(WikidataCache(server.url, cache=cache_path)) == truth
    assert hashes(WikidataCache(cache=cache_path)) == truth
    assert hashes(WikidataCache("https://query.wikidata.org/sparql", mode="offline", cache=cache_path)) == truth
    monkeypatch.setenv("KG_OFFLINE", "1")
    assert hashes(WikidataCache(server.url, mode="refresh", cache=cache_path)) == truth
    assert len(server.requests) == sent


def test_answers_of_another_endpoint_are_named(
    server: Server, cache_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Two private stores may use one id for two things."""
    facts(open_source(server.url, cache=cache_path)).types(["Q65"])
    facts(open_source(server.url, cache=cache_path)).types(["Q65"])
    facts(open_source(None, cache=cache_path)).types(["Q65"])
    assert not caplog.messages
    other = facts(open_source("http://127.0.0.1:9/query", cache=cache_path))
    assert other.types(["Q65"]) and other.types(["Q65"])
    (message,) = caplog.messages
    assert f"facts of {server.url} in the cache are used for http://127.0.0.1:9/query" in message


def test_public_services_share_answers(cache_path: str, caplog: pytest.LogCaptureFixture) -> None:
    exchange = Exchange("https://query.wikidata.org/sparql", "SELECT", "2026-01-20T12:00:00+00:00", 1, 1, "0" * 64, {})
    with AnswerStore(cache_path) as store:
        store.save("wikidata", "types/1", [Fact("types", "Q65", ["Q515"])], exchange)
    assert facts(open_source("https://qlever.dev/api/wikidata", cache=cache_path)).types(["Q65"]) == {"Q65": {"Q515"}}
    assert not caplog.messages


def test_cached_facts_serve_other_batches(server: Server, cache_path: str, truth: list[str]) -> None:
    WikidataCache(server.url, cache=cache_path).subgraphs(EDITS, SubgraphOptions(per_node=5))
    sent = len(server.requests)
    one_by_one = [hashes(WikidataCache(server.url, cache=cache_path), [edit])[0] for edit in reversed(EDITS)]
    assert one_by_one == truth[::-1]
    assert len(server.requests) == sent


def test_cache_requests_missing_ids_only(server: Server, cache_path: str) -> None:
    facts(open_source(server.url, cache=cache_path)).types(["Q65", "Q1345"])
    types = facts(open_source(server.url, cache=cache_path)).types(["Q65", "Q1345", "Q30"])
    assert types == facts(open_source(packaged_extract())).types(["Q65", "Q1345", "Q30"])
    assert "wd:Q30 " in server.requests[-1][2] and "wd:Q65 " not in server.requests[-1][2]


def test_miss_names_facts_files_and_command(cache_path: str) -> None:
    cache = WikidataCache(cache=cache_path, graph_name="my graph")
    with pytest.raises(CacheMissError) as caught:
        cache.labels([f"Q{number}" for number in range(1, 13)])
    message = str(caught.value)
    assert "kind 'label' for Q1, Q10, Q11, Q12, Q2, Q3, Q4, Q5, Q6, Q7 and 2 more" in message
    assert f"{cache_path} (no such file)" in message
    assert "`wikidata-cache fetch --kind label Q1 Q10 Q11" in message
    assert f"--cache {cache_path} --contact YOU@EXAMPLE.ORG --graph-name 'my graph'`" in message
    with pytest.raises(CacheMissError, match=r"fetch EDITS\.jsonl"):
        cache.labels([f"Q{number}" for number in range(1, 100)])


def test_online_mode_leaves_cache_alone(server: Server, cache_path: str, truth: list[str]) -> None:
    for _ in range(2):
        before = len(server.requests)
        assert hashes(WikidataCache(server.url, cache=cache_path, mode="online")) == truth
        assert len(server.requests) > before
    assert not Path(cache_path).exists()


def rename(store: Store, entity: str, name: str) -> None:
    subject = NamedNode(f"http://www.wikidata.org/entity/{entity}")
    for quad in list(store.quads_for_pattern(subject, LABEL, None, None)):
        store.remove(quad)
    store.add(Quad(subject, LABEL, Literal(name, language="en")))


@pytest.fixture
def own_server() -> Iterable[Server]:
    """A server whose graph a test may change."""
    store = Store()
    with gzip.open(packaged_extract()) as file:
        store.bulk_load(file, RdfFormat.N_TRIPLES)
    with Server(store) as running:
        yield running


def test_refresh_adds_versions_that_as_of_replays(own_server: Server, cache_path: str) -> None:
    cache = WikidataCache(own_server.url, cache=cache_path)
    before = hashes(cache, [SPIKE])
    [(first_time, rows)] = AnswerStore(cache_path).database.read("SELECT max(fetched_at), count(*) FROM facts")
    rename(own_server.store, "Q1345", "Philly")
    assert (
        hashes(WikidataCache(own_server.url, cache=cache_path), [SPIKE]) == before
    )  # cache_first reads the cached version
    after = hashes(WikidataCache(own_server.url, cache=cache_path, mode="refresh"), [SPIKE])
    assert after != before
    assert hashes(WikidataCache(cache=cache_path), [SPIKE]) == after
    assert hashes(WikidataCache(cache=cache_path, as_of=first_time), [SPIKE]) == before
    [(more,)] = AnswerStore(cache_path).database.read("SELECT count(*) FROM facts")
    assert more > rows
    with pytest.raises(CacheMissError, match=r"They were not fetched before 2001-01-01T.*: give a later time"):
        hashes(WikidataCache(cache=cache_path, as_of="2001-01-01"), [SPIKE])


def test_side_facts_of_an_answer_replace_no_cached_value(own_server: Server, cache_path: str) -> None:
    labels = facts(open_source(own_server.url, cache=cache_path)).labels(["Q30"])
    rename(own_server.store, "Q30", "USA")
    cached = facts(open_source(own_server.url, cache=cache_path))
    cached.out(["Q65"])  # brings the new label of Q30 along
    assert cached.labels(["Q30"]) == facts(open_source(None, cache=cache_path)).labels(["Q30"]) == labels


def test_packs_are_read_after_the_cache_file(own_server: Server, cache_path: str, tmp_path: Path) -> None:
    pack = tmp_path / "pack.sqlite"
    expected = hashes(WikidataCache(own_server.url, cache=pack))
    before, sent = pack.read_bytes(), len(own_server.requests)
    assert hashes(WikidataCache(own_server.url, cache=cache_path, packs=[pack])) == expected
    assert hashes(WikidataCache(cache=cache_path, packs=[pack])) == expected
    assert len(own_server.requests) == sent
    rename(own_server.store, "Q65", "L.A.")
    WikidataCache(own_server.url, cache=cache_path, mode="refresh").labels(["Q65"])
    assert WikidataCache(cache=cache_path, packs=[pack]).labels(["Q65"]) == {"Q65": "L.A."}
    assert WikidataCache(cache=pack).labels(["Q65"]) == {"Q65": "Los Angeles"}
    assert pack.read_bytes() == before


def test_provenance_is_the_same_online_and_offline(server: Server, cache_path: str) -> None:
    online = open_source(server.url, cache=cache_path)
    facts(online).out(["Q65", "Q1345"])
    provenance = online.provenance(["Q65", "Q1345", "Q30"])
    assert provenance == open_source(None, cache=cache_path).provenance(["Q65", "Q1345", "Q30"])
    assert (provenance["kind"], provenance["graph"], provenance["urls"]) == ("cache", "wikidata", [server.url])
    first_time, last_time = provenance["fetched_at"]  # type: ignore[misc]
    assert first_time == last_time and first_time.startswith("20") and first_time.endswith("+00:00")
    assert online.provenance(["Q30"])["fetched_at"] == []


def test_graph_names_separate_facts(server: Server, cache_path: str) -> None:
    WikidataCache(server.url, cache=cache_path, graph_name="mine").labels(["Q65"])
    assert WikidataCache(cache=cache_path, graph_name="mine").labels(["Q65"])
    with pytest.raises(CacheMissError):
        WikidataCache(cache=cache_path).labels(["Q65"])


def test_query_log_records_origin(server: Server, cache_path: str) -> None:
    WikidataCache(server.url, cache=cache_path, contact="a@b.org").labels(["Q65"])
    [(record,)] = AnswerStore(cache_path).database.read("SELECT record FROM queries")
    entry = unpack(record, Path(cache_path))
    assert entry["url"] == server.url and entry["query"] == server.requests[0][2]
    assert entry["rows"] == 1 and len(entry["sha256"]) == 64 and entry["library"].startswith("wikidata-cache ")
    assert entry["template"].startswith("labels/") and "content-type" in {name.lower() for name in entry["headers"]}


@pytest.mark.parametrize("fault", [row_cap(40), time_limit(ids=3)], ids=["row cap", "time limit"])
def test_cache_after_split_requests_is_complete(
    fault: object, server: Server, cache_path: str, truth: list[str]
) -> None:
    server.fault = fault  # type: ignore[assignment]
    with AnswerStore(cache_path) as store:
        endpoint = EndpointSource(server.url, limiter=hasty(store.rate_limits))
        try:
            hashes(WikidataCache(CachedSource(endpoint, store)))
        except Exception as error:
            assert "rows" in str(error)  # one id alone may have too many
    assert_no_bad_row(cache_path, open_source(packaged_extract()))
    server.fault = None
    assert hashes(WikidataCache(server.url, cache=cache_path)) == truth


def test_answers_before_a_failure_are_cached(server: Server, cache_path: str) -> None:
    server.fault = in_turn([None, FAULTS["403"]()])
    ids = [f"Q{number}" for number in range(1, 401)]
    with pytest.raises(Exception, match="403"):
        facts(open_source(server.url, cache=cache_path)).types(ids)
    assert len(facts(open_source(server.url, cache=cache_path)).types(ids)) == 400
    sizes = [query.count("wd:Q") for _, _, query in server.requests]
    assert sizes == [200, 200, 200]


def test_cached_facts_need_no_contact(server: Server, cache_path: str, truth: list[str]) -> None:
    WikidataCache(server.url, cache=cache_path).subgraphs(EDITS, SubgraphOptions(per_node=5))
    cached = WikidataCache("https://query.wikidata.org/sparql", cache=cache_path)
    assert hashes(cached) == truth
    with pytest.raises(MissingContactError):
        cached.labels(["Q999999999"])


def test_miss_names_endpoints_that_answered(server: Server, cache_path: str) -> None:
    WikidataCache(server.url, cache=cache_path).labels(["Q65"])
    with pytest.raises(CacheMissError) as caught:
        WikidataCache(cache=cache_path).labels(["Q1"])
    assert caught.value.command == (
        f"wikidata-cache fetch --kind label Q1 --endpoint {server.url} --cache {cache_path}"
    )
    with pytest.raises(CacheMissError) as caught:
        WikidataCache("https://qlever.dev/api/wikidata", cache=cache_path, mode="offline").labels(["Q1"])
    assert "--endpoint https://qlever.dev/api/wikidata --cache" in caught.value.command
    with pytest.raises(CacheMissError) as caught:
        WikidataCache(cache=cache_path).query("SELECT ?s { ?s ?p ?o }")
    assert caught.value.command == f"WikidataCache({server.url!r}, cache={cache_path!r}).query(...)"


def test_malformed_url_in_a_foreign_cache_is_no_traceback(cache_path: str) -> None:
    with AnswerStore(cache_path) as store:
        exchange = Exchange("http://[bad/api.php", "q", "2026-01-20T12:00:00+00:00", 1, 1, "0" * 64, {})
        store.save("wikidata", "labels/1", [("label", "Q1", None)], exchange)
    with pytest.raises(CacheMissError, match="Not in the cache"):
        WikidataCache(cache=cache_path, mode="offline").query("SELECT ?s { ?s ?p ?o }")


def test_chain_opens_from_one_string(server: Server, cache_path: str) -> None:
    down = "http://127.0.0.1:9/sparql"
    for spec in (f"{server.url}, {down}", [server.url, down]):
        assert open_source(spec, cache=cache_path).name == f"{server.url}, {down}"
    assert WikidataCache([server.url, down], cache=cache_path).labels(["Q65"]) == {"Q65": "Los Angeles"}


def test_local_graph_leaves_cache_alone(cache_path: str, truth: list[str]) -> None:
    assert hashes(WikidataCache(packaged_extract(), cache=cache_path)) == truth
    assert not Path(cache_path).exists()


def test_facts_from_the_future_are_replaced_by_a_refresh(server: Server, cache_path: str, tmp_path: Path) -> None:
    """The clock showed 2099 when they were fetched; it was put right, and everything is asked for again."""
    cache = WikidataCache(server.url, cache=cache_path)
    cache.labels(["Q65"])
    store = AnswerStore(cache_path)
    with store.database.writing() as connection:
        value = """["City of Bladerunners","en"]"""
        connection.execute("UPDATE facts SET fetched_at = '2099' || substr(fetched_at, 5), value = ?", [value])
    offline = {"cache": cache_path, "mode": "offline"}
    assert WikidataCache(**offline).labels(["Q65"]) == {"Q65": "City of Bladerunners"}  # better than nothing
    assert WikidataCache(server.url, cache=cache_path, mode="refresh").labels(["Q65"]) == {"Q65": "Los Angeles"}
    assert WikidataCache(**offline).labels(["Q65"]) == {"Q65": "Los Angeles"}
    for newest_only in (True, False):
        assert export_snapshot(store, tmp_path / "s.jsonl.gz", newest_only=newest_only).facts == 1
        assert import_snapshot(AnswerStore(tmp_path / f"{newest_only}.sqlite"), tmp_path / "s.jsonl.gz").new == 1
