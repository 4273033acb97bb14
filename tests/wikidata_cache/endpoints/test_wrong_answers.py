"""Well-formed answers that are wrong: to another question, about other ids, with values that no such fact has."""

from pathlib import Path
from typing import Any

import pytest
from pyoxigraph import QueryResultsFormat

from tests.wikidata_cache.fault_server import hasty, spoilt, with_row
from tests.wikidata_cache.wikidata_helpers import Server, facts, save_facts
from wikidata_cache import WikidataCache
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.endpoints.endpoint import EndpointSource
from wikidata_cache.errors import CacheFileError, EndpointError
from wikidata_cache.ids import ENTITY
from wikidata_cache.sources.source import Fact
from wikidata_cache.sources.templates import REDIRECTS, TYPES

_JSON = QueryResultsFormat.JSON


def uri(name: str) -> dict[str, str]:
    return {"type": "uri", "value": ENTITY + name}


def literal(text: Any) -> dict[str, Any]:
    return {"type": "literal", "value": text}


def test_answer_to_another_query_is_not_cached(server: Server, cache_path: str) -> None:
    """A proxy that ignores the query string gives the first answer to whatever is asked."""
    first: list[bytes] = []
    server.fault = spoilt(lambda body: first.append(body) or first[0])  # type: ignore[func-returns-value]
    cache = WikidataCache(server.url, cache=cache_path)
    assert cache.labels(["Q65"]) == {"Q65": "Los Angeles"}
    for ask in (cache.labels, cache.facts.out, cache.facts.types, cache.facts.redirects):
        with pytest.raises(EndpointError, match="answer to another query") as caught:
            ask(["Q1345"])
        assert caught.value.trouble == "bad answer"
    assert [record for (record,) in AnswerStore(cache_path).database.read("SELECT id FROM facts")] == ["Q65"]
    server.fault = None
    assert cache.labels(["Q1345"]) == {"Q1345": "Philadelphia"}


def test_user_query_answer_with_foreign_variables_is_refused(server: Server) -> None:
    server.fault = spoilt(lambda body: server.store.query("SELECT ?x { ?x ?y ?z } LIMIT 2").serialize(format=_JSON))
    with pytest.raises(EndpointError, match="the variables x, which are not in the query"):
        EndpointSource(server.url, limiter=hasty()).select("SELECT ?s { ?s ?p ?o } LIMIT 2")


@pytest.mark.slow
def test_user_query_behind_a_stale_proxy_is_refused(server: Server, cache_path: str) -> None:
    """The answer to an earlier query with the same variables is refused, and not cached."""
    query = "SELECT ?s {{ ?s ?p ?o }} ORDER BY ?s LIMIT {}"
    stale = server.store.query(query.format(3)).serialize(format=_JSON)
    server.fault = spoilt(lambda body: stale)
    cache = WikidataCache(server.url, cache=cache_path)
    with pytest.raises(EndpointError, match="answer to another query"):
        cache.query(query.format(2))
    server.fault = None
    assert len(cache.query(query.format(2))) == 2


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("labels", {"e": uri("Q5"), "l": literal("human"), "lang": literal("en")}),  # not asked for
        ("labels", {"e": uri("Q65"), "l": literal(None), "lang": literal("en")}),
        ("labels", {"e": uri("Q65"), "l": literal(7), "lang": literal("en")}),
        ("labels", {"e": uri("Q65"), "l": uri("Q7"), "lang": literal("en")}),
        ("labels", {"e": uri("Q65"), "l": literal("L.A."), "lang": literal("tlh")}),
        ("labels", {"e": {"type": "uri", "value": "http://evil/Q65"}, "l": literal("L.A."), "lang": literal("en")}),
        ("labels", {"e": uri("Q65"), "l": {"value": "no type"}, "lang": literal("en")}),
        ("types", {"s": uri("Q66"), "o": uri("Q5")}),
        ("types", {"s": {"type": "bnode", "value": "b0"}, "o": uri("Q5")}),
        ("redirects", {"s": uri("Q66"), "o": uri("Q5")}),
        ("redirects", {"s": uri("Q65"), "o": {"type": "uri", "value": "http://evil/Q5"}}),
        ("redirects", {"s": uri("Q65"), "o": uri("P31")}),
        ("degrees", {"e": uri("Q65"), "n": literal("-1")}),
        ("out", {"s": uri("Q65"), "p": literal("P31"), "o": uri("Q5")} | {"p": literal("P31")}),
        ("out", {"e": uri("Q30"), "o": uri("Q5"), "p": uri("P1"), "s": uri("Q99")}),
        ("out", {"e": uri("Q999999"), "l": literal("a stranger"), "lang": literal("en")}),
    ],
)
def test_impossible_rows_are_refused(server: Server, kind: str, row: dict[str, Any]) -> None:
    server.fault = with_row(row)
    with pytest.raises(EndpointError) as caught:
        getattr(facts(EndpointSource(server.url, limiter=hasty())), kind)(["Q65"])
    assert caught.value.trouble == "bad answer"


@pytest.mark.parametrize("value", [literal(ENTITY + "Q5"), {"type": "bnode", "value": "b0"}, literal("Q5")])
@pytest.mark.parametrize("template", [TYPES, REDIRECTS], ids=lambda template: template.kind)
def test_literals_and_blank_nodes_are_ignored(server: Server, template: Any, value: dict[str, str]) -> None:
    source = EndpointSource(server.url, limiter=hasty())
    right = [answer.facts for answer in source.ask(template, ["Q65"])]
    server.fault = with_row({"s": uri("Q65"), "o": value})
    assert [answer.facts for answer in source.ask(template, ["Q65"])] == right


def test_lone_surrogate_is_replaced(server: Server) -> None:
    server.fault = spoilt(lambda body: body.replace(b'"Los Angeles"', rb'"Los \ud800 Angeles"'))
    assert WikidataCache(EndpointSource(server.url)).labels(["Q65"]) == {"Q65": "Los \ufffd Angeles"}


@pytest.mark.parametrize(
    "fact",
    [
        Fact("label", "Q1", "None"),
        Fact("label", "http://evil/Q1", None),
        Fact("types", "Q1", [""]),
        Fact("redirect", "Q1", "P1"),
        Fact("out", "Q1", [["Q5", "P31"]]),
        Fact("lable", "Q1", None),  # type: ignore[arg-type]
    ],
)
def test_invalid_fact_is_not_cached(fact: Fact, cache_path: str) -> None:
    with pytest.raises(CacheFileError, match="an answer of http://e/ was not saved"):
        save_facts(cache_path, Fact("label", "Q2", None), fact)
    assert not Path(cache_path).exists()
