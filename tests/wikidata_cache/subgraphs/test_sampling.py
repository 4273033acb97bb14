"""Sampling policies: their properties for any statements, and their effect on real subgraphs."""

from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wikidata_cache.wikidata_helpers import EDITS, LAKERS, SPIKE, Server, triples
from wikidata_cache import WikidataCache
from wikidata_cache.ids import Statement
from wikidata_cache.sources import queries
from wikidata_cache.subgraphs.options import SubgraphOptions
from wikidata_cache.subgraphs.sampling import Policy, bottom_m, other_end, priority, sample

POLICIES = get_args(Policy)
statements = st.builds(
    Statement,
    st.just("Q1"),
    st.integers(1, 9).map("P{}".format),
    st.integers(1, 60).map("Q{}".format),
)
seeds = st.integers(-5, 10**6)
sizes = st.integers(0, 30)


@given(st.sets(statements), sizes, seeds)
def test_bottom_m_returns_smallest_priorities(found: set[Statement], m: int, seed: int) -> None:
    chosen = bottom_m(found, m, seed=seed)
    assert chosen == sorted(found, key=lambda statement: priority(statement, seed=seed))[:m]


def test_priority_hash_is_stable() -> None:
    assert priority(Statement("Q1345", "P17", "Q30"), seed=0).hex() == "d07a6d5c9d3423d804d808b79b7341dd"


def test_sampling_is_uniform() -> None:
    everything = [Statement("Q1", "P1", f"Q{i}") for i in range(1, 21)]
    chosen = [statement for seed in range(400) for statement in bottom_m(everything, 5, seed=seed)]
    counts = [chosen.count(statement) for statement in everything]  # each is expected 100 times, sd 8.7
    assert min(counts) > 60 and max(counts) < 140


# The policies; statements of Q1 lead out to an object, or in from a subject, or to Q1 itself.
both_ways = st.builds(
    lambda relation, other, out: Statement("Q1", relation, other) if out else Statement(other, relation, "Q1"),
    st.integers(1, 4).map("P{}".format),
    st.integers(1, 30).map("Q{}".format),
    st.booleans(),
)
policies = st.sampled_from(POLICIES)
degree_maps = st.fixed_dictionaries({f"Q{i}": st.integers(0, 501) for i in range(1, 31)})


def drawn(pool: object, m: int, seed: int, policy: Policy, degrees: dict[str, int]) -> list[Statement]:
    return sample(pool, m, node="Q1", seed=seed, policy=policy, degrees=degrees)  # type: ignore[arg-type]


@given(st.lists(both_ways), st.randoms(use_true_random=False), sizes, sizes, seeds, policies, degree_maps)
def test_sample_is_a_prefix_in_any_order(
    found: list[Statement], random: object, m: int, more: int, seed: int, policy: Policy, degrees: dict[str, int]
) -> None:
    shuffled = found * 2
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    large = drawn(shuffled, m + more, seed, policy, degrees)
    assert drawn(found, m, seed, policy, degrees) == large[:m]
    assert len(large) == min(m + more, len(set(found)))


@given(st.sets(both_ways), both_ways, sizes, seeds, policies, degree_maps)
def test_sample_changes_by_at_most_one(
    found: set[Statement], extra: Statement, m: int, seed: int, policy: Policy, degrees: dict[str, int]
) -> None:
    before = set(drawn(found, m, seed, policy, degrees))
    after = set(drawn(found | {extra}, m, seed, policy, degrees))
    assert after - before <= {extra}
    assert len(before - after) <= 1


@given(st.sets(both_ways), sizes, seeds, degree_maps, st.integers(1, 30).map("Q{}".format))
def test_growing_degree_moves_only_its_statements(
    found: set[Statement], m: int, seed: int, degrees: dict[str, int], grown: str
) -> None:
    before = set(drawn(found, m, seed, "inverse-hub", degrees))
    after = set(drawn(found, m, seed, "inverse-hub", degrees | {grown: degrees[grown] + 1}))
    leading = {statement for statement in found if other_end(statement, "Q1") == grown}
    assert before - after <= leading  # they only get less likely
    assert len(after - before) == len(before - after) <= len(leading)
    if degrees[grown].bit_length() == (degrees[grown] + 1).bit_length():
        assert after == before


def test_relation_stratified_takes_turns() -> None:
    towns = [Statement("Q1", "P190", f"Q{i}") for i in range(2, 102)]
    rest = [Statement("Q1", f"P{i}", "Q2") for i in range(1, 5)]
    chosen = drawn([*towns, *rest], 8, 0, "relation-stratified", {})
    assert {statement.property for statement in chosen[:5]} == {"P190", "P1", "P2", "P3", "P4"}
    assert [statement.property for statement in chosen[5:]] == ["P190"] * 3
    both = drawn([*towns, Statement("Q200", "P190", "Q1")], 2, 0, "relation-stratified", {})
    assert {statement.subject for statement in both} == {"Q1", "Q200"}  # each direction is a stratum


@pytest.mark.parametrize(("degree", "expected"), [(1, 0.5), (3, 1 / 3), (501, 1 / 257)])
def test_inverse_hub_odds(degree: int, expected: float) -> None:
    """Rates 1/2 and 1/2^bits: a node of in-degree 1 loses to one of in-degree d with odds of 2 to 2^bits."""
    pair = [Statement("Q1", "P1", "Q2"), Statement("Q1", "P1", "Q3")]
    degrees = {"Q2": 1, "Q3": degree}
    hits = sum(drawn(pair, 1, seed, "inverse-hub", degrees)[0].object == "Q3" for seed in range(4000))
    assert hits / 4000 == pytest.approx(expected, abs=0.03)


# On real statements.
def relations(graph: object) -> Counter[str]:
    return Counter(key for *_, key, data in graph.edges(keys=True, data=True) if data["role"] == "statement")  # type: ignore[attr-defined]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("direction", ["out", "both"])
def test_policies_choose_among_the_same_statements(cache: WikidataCache, policy: str, direction: str) -> None:
    options = {"policy": policy, "direction": direction}
    everything = triples(cache.subgraph(SPIKE, SubgraphOptions(per_node=10_000, direction=direction)))  # type: ignore[arg-type]
    sizes = (3, 8, 10_000)
    small, large, full = (triples(cache.subgraph(SPIKE, SubgraphOptions(per_node=m, **options))) for m in sizes)  # type: ignore[arg-type]
    assert small < large < full == everything
    assert (len(small), len(large)) == (4, 9)
    assert triples(cache.subgraph(SPIKE, SubgraphOptions(per_node=8, seed=1, **options))) != large  # type: ignore[arg-type]


def test_relation_stratified_keeps_rare_relations(cache: WikidataCache) -> None:
    counts = relations(cache.neighbourhood("Q1345", SubgraphOptions(hops=1, per_node=10_000)))
    assert max(counts.values()) > 3  # or this place would show nothing
    stratified = relations(
        cache.neighbourhood("Q1345", SubgraphOptions(hops=1, per_node=len(counts), policy="relation-stratified"))
    )
    uniform = relations(cache.neighbourhood("Q1345", SubgraphOptions(hops=1, per_node=len(counts))))
    assert stratified == dict.fromkeys(counts, 1)
    assert len(uniform) < len(counts)


def test_inverse_hub_meets_hubs_less_often(cache: WikidataCache) -> None:
    assert cache.facts.degrees(["Q30"])["Q30"] > 20
    met = dict.fromkeys(POLICIES, 0)
    for policy in met:
        for seed in range(60):
            met[policy] += "Q30" in cache.neighbourhood(
                "Q1345", SubgraphOptions(hops=1, per_node=8, seed=seed, policy=policy)
            )  # type: ignore[arg-type]
    assert met["inverse-hub"] < met["uniform"] / 2


def test_degrees_count_up_to_the_hub_limit(tmp_path: Path) -> None:
    rows = [f"Q{i}\tP1\tQ1" for i in range(10, 10 + queries.HUB + 50)] + ["Q10\tP1\tQ2", "Q10\tP2\tQ2"]
    path = tmp_path / "g.tsv"
    path.write_text("\n".join(rows) + "\n")
    degrees = WikidataCache(path).facts.degrees(["Q1", "Q2", "Q10"])
    assert degrees == {"Q1": queries.HUB + 1, "Q2": 2, "Q10": 0}


def test_provenance_has_the_options(cache: WikidataCache) -> None:
    options = cache.subgraph(LAKERS, SubgraphOptions(policy="inverse-hub", direction="both")).graph
    assert (options["policy"], options["direction"], options["statements"]) == ("inverse-hub", "both", "truthy")
    assert options["leakage"] == {"answers": [], "drop_old_edge": True}
    assert (
        cache.neighbourhood("Q84", SubgraphOptions(hops=1, policy="relation-stratified")).graph["policy"]
        == "relation-stratified"
    )


def test_policy_sends_no_needless_request(server: Server, cache_path: str) -> None:
    cache = WikidataCache(server.url, cache=cache_path)
    cache.subgraphs(EDITS)
    sent = len(server.requests)
    cache.subgraphs(EDITS, SubgraphOptions(policy="relation-stratified"))
    assert len(server.requests) == sent
