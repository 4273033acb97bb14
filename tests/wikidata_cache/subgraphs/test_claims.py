"""Statements of every rank with their times, in the shapes of a full dump."""

import pytest

from tests.wikidata_cache.full_graph import ADA, CAVS, DEPRECATED, HEAT, HUB, LAKERS, MOVES, TWIN
from tests.wikidata_cache.wikidata_helpers import triples
from wikidata_cache import Leakage, WikidataCache
from wikidata_cache.subgraphs.facts import Claim, summarize_claims
from wikidata_cache.subgraphs.options import SubgraphOptions

BOTH_ENDS = ("target_new", "subject")


def test_claims_of_all_ranks_except_deprecated(full: WikidataCache) -> None:
    graph = full.subgraph(
        MOVES, SubgraphOptions(roots=BOTH_ENDS, statements="all", leakage=Leakage(drop_old_edge=False))
    )
    assert graph.graph["statements"] == "all"
    assert DEPRECATED not in graph
    assert graph.edges[ADA, CAVS, "P54"] == {
        "property": "P54",
        "label": "member of sports team",
        "role": "statement",
        "rank": "normal",
        "start": "2014-07-01T00:00:00Z",
        "end": "2018-07-01T00:00:00Z",
        "claims": [
            {"rank": "normal", "start": "2014-07-01T00:00:00Z", "end": "2018-07-01T00:00:00Z"},
            {"rank": "normal", "start": "2003-07-01T00:00:00Z", "end": "2010-07-01T00:00:00Z"},
        ],
    }
    old = graph.edges[ADA, LAKERS, "P54"]
    assert (old["rank"], old["start"], old["end"]) == ("preferred", "2018-07-01T00:00:00Z", None)  # "unknown" end
    assert graph.edges[HEAT, HUB, "P27"]["claims"] == [{"rank": "normal", "start": None, "end": None}]
    assert "rank" not in graph.edges[ADA, HEAT, "P54"]  # the edit's own edge, though once so stated
    truthy = full.subgraph(MOVES, SubgraphOptions(roots=BOTH_ENDS, leakage=Leakage(drop_old_edge=False)))
    assert CAVS not in truthy and "rank" not in truthy.edges[ADA, LAKERS, "P54"]


def test_incoming_statements_have_claims(full: WikidataCache) -> None:
    graph = full.subgraph(MOVES, SubgraphOptions(statements="all", direction="both", hops=3))
    assert graph.edges[TWIN, HEAT, "P54"]["rank"] == "normal"
    assert all("claims" in data for *_, data in graph.edges(data=True) if data["role"] == "statement")


def test_old_edge_of_any_rank_stays_out(full: WikidataCache) -> None:
    graph = full.subgraph(MOVES, SubgraphOptions(roots=(*BOTH_ENDS, "target_true"), statements="all", hops=4))
    assert (ADA, "P54", LAKERS) not in triples(graph)
    assert graph.graph["dropped"]["old_edge"] == 1
    assert graph.graph["dropped"]["edit_edge_again"] == 1


def claim(rank: str, start: str, end: str = "") -> Claim:
    return Claim("P1", "Q1", rank, start, end)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (claim("preferred", "1900-01-01T00:00:00Z"), claim("normal", "2000-01-01T00:00:00Z")),
        (claim("normal", "2000-01-01T00:00:00Z"), claim("normal", "-0500-01-01T00:00:00Z")),
        (claim("normal", "-0044-03-15T00:00:00Z"), claim("normal", "-0500-01-01T00:00:00Z")),
        (claim("normal", "12000-01-01T00:00:00Z"), claim("normal", "2000-01-01T00:00:00Z")),
        (claim("normal", "2000-01-01T00:00:00Z"), claim("normal", "")),
        (claim("normal", "-13798000000-01-01T00:00:00Z"), claim("normal", "")),
        (claim("normal", "2000-01-01T00:00:00Z"), claim("normal", "2000-01-01T00:00:00Z", "2001-01-01T00:00:00Z")),
    ],
)
def test_best_claim_gives_rank_and_times(better: Claim, worse: Claim) -> None:
    for claims in ([better, worse], [worse, better]):
        assert (summarize_claims(claims)["rank"], summarize_claims(claims)["start"]) == (
            better.rank,
            better.start or None,
        )
        assert summarize_claims(claims)["end"] == (better.end or None)


@pytest.mark.parametrize("text", ["", "unknown", "²-01-01T00:00:00Z", f"{'9' * 5_000}-01-01T00:00:00Z"])
def test_text_that_is_no_time_is_the_earliest(text: str) -> None:
    dated = Claim("P54", "Q1", "normal", "-0044-03-15T00:00:00Z", "")
    assert summarize_claims([Claim("P54", "Q1", "normal", text, ""), dated])["start"] == dated.start
