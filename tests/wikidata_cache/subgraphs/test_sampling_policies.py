"""Sampling policies through the front, on real statements."""

from collections import Counter
from pathlib import Path

import pytest

from tests.wikidata_cache.wikidata_helpers import EDITS, LAKERS, SPIKE, Server, triples
from wikidata_cache import WikidataCache
from wikidata_cache.errors import BadOptionError
from wikidata_cache.sources import queries
from wikidata_cache.subgraphs.options import SubgraphOptions

POLICIES = ("uniform", "relation-stratified", "inverse-hub")


def relations(graph: object) -> Counter[str]:
    return Counter(key for *_, key, data in graph.edges(keys=True, data=True) if data["role"] == "statement")  # type: ignore[attr-defined]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("direction", ["out", "both"])
def test_policies_choose_among_the_same_statements(cache: WikidataCache, policy: str, direction: str) -> None:
    options = {"policy": policy, "direction": direction}
    everything = triples(cache.subgraph(SPIKE, SubgraphOptions(per_node=10_000, direction=direction)))  # type: ignore[arg-type]
    sizes = (3, 8, 10_000)
    small, large, whole = (triples(cache.subgraph(SPIKE, SubgraphOptions(per_node=m, **options))) for m in sizes)  # type: ignore[arg-type]
    assert small < large < whole == everything
    assert (len(small), len(large)) == (4, 9)


def test_frequent_relations_do_not_crowd_out_others(cache: WikidataCache) -> None:
    whole = relations(cache.neighbourhood("Q1345", SubgraphOptions(hops=1, per_node=10_000)))
    assert max(whole.values()) > 3  # or this place would show nothing
    stratified = relations(
        cache.neighbourhood("Q1345", SubgraphOptions(hops=1, per_node=len(whole), policy="relation-stratified"))
    )
    uniform = relations(cache.neighbourhood("Q1345", SubgraphOptions(hops=1, per_node=len(whole))))
    assert stratified == dict.fromkeys(whole, 1)
    assert len(uniform) < len(whole)


def test_hubs_are_met_less_often(cache: WikidataCache) -> None:
    assert cache.facts.degrees(["Q30"])["Q30"] > 20
    met = dict.fromkeys(POLICIES, 0)
    for policy in met:
        for seed in range(60):
            met[policy] += "Q30" in cache.neighbourhood(
                "Q1345", SubgraphOptions(hops=1, per_node=8, seed=seed, policy=policy)
            )  # type: ignore[arg-type]
    assert met["inverse-hub"] < met["uniform"] / 2


def test_degrees_count_up_to_a_hub(tmp_path: Path) -> None:
    rows = [f"Q{i}\tP1\tQ1" for i in range(10, 10 + queries.HUB + 50)] + ["Q10\tP1\tQ2", "Q10\tP2\tQ2"]
    path = tmp_path / "g.tsv"
    path.write_text("\n".join(rows) + "\n")
    degrees = WikidataCache(path).facts.degrees(["Q1", "Q2", "Q10"])
    assert degrees == {"Q1": queries.HUB + 1, "Q2": 2, "Q10": 0}


def test_what_was_chosen_is_written_down(cache: WikidataCache) -> None:
    said = cache.subgraph(LAKERS, SubgraphOptions(policy="inverse-hub", direction="both")).graph
    assert (said["policy"], said["direction"], said["statements"]) == ("inverse-hub", "both", "truthy")
    assert said["leakage"] == {"answers": [], "drop_old_edge": True}
    assert (
        cache.neighbourhood("Q84", SubgraphOptions(hops=1, policy="relation-stratified")).graph["policy"]
        == "relation-stratified"
    )


@pytest.mark.parametrize("wrong", [{"policy": "random"}, {"direction": "in"}, {"statements": "best"}])
def test_unknown_choices(cache: WikidataCache, wrong: dict[str, str]) -> None:
    name = next(iter(wrong))
    with pytest.raises(BadOptionError, match=f"{name}='{wrong[name]}': expected one of"):
        cache.subgraph(SPIKE, SubgraphOptions(**wrong))  # type: ignore[arg-type]
    with pytest.raises(BadOptionError, match=name):
        cache.neighbourhood("Q84", SubgraphOptions(hops=1, **wrong))  # type: ignore[arg-type]


def test_a_policy_asks_for_nothing_that_it_does_not_need(server: Server, cache_path: str) -> None:
    cache = WikidataCache(server.url, cache=cache_path)
    cache.subgraphs(EDITS)
    asked = len(server.requests)
    cache.subgraphs(EDITS, SubgraphOptions(policy="relation-stratified"))
    assert len(server.requests) == asked
