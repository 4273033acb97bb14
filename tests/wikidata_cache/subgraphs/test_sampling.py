from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wikidata_cache.ids import Statement
from wikidata_cache.subgraphs.sampling import ORDERS, Policy, bottom_m, other_end, priority, sample

statements = st.builds(
    Statement,
    st.just("Q1"),
    st.integers(1, 9).map("P{}".format),
    st.integers(1, 60).map("Q{}".format),
)
seeds = st.integers(-5, 10**6)
sizes = st.integers(0, 30)


def test_every_policy_that_can_be_named_has_an_order() -> None:
    assert set(ORDERS) == set(get_args(Policy))


@given(st.lists(statements), st.randoms(use_true_random=False), sizes, seeds)
def test_order_and_repetition_do_not_matter(found: list[Statement], random: object, m: int, seed: int) -> None:
    shuffled = found * 2
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert bottom_m(shuffled, m, seed=seed) == bottom_m(found, m, seed=seed)


@given(st.lists(statements), sizes, sizes, seeds)
def test_a_smaller_sample_is_a_prefix(found: list[Statement], m: int, more: int, seed: int) -> None:
    assert bottom_m(found, m + more, seed=seed)[:m] == bottom_m(found, m, seed=seed)


@given(st.sets(statements), statements, sizes, seeds)
def test_one_more_statement_changes_at_most_one(found: set[Statement], extra: Statement, m: int, seed: int) -> None:
    before, after = set(bottom_m(found, m, seed=seed)), set(bottom_m(found | {extra}, m, seed=seed))
    assert after - before <= {extra}
    assert len(before - after) <= 1


@given(st.sets(statements), sizes, seeds)
def test_the_size_and_the_members(found: set[Statement], m: int, seed: int) -> None:
    kept = bottom_m(found, m, seed=seed)
    assert kept == sorted(found, key=lambda statement: priority(statement, seed=seed))[:m]


def test_the_hash_stays_what_it_is() -> None:
    assert priority(Statement("Q1345", "P17", "Q30"), seed=0).hex() == "d07a6d5c9d3423d804d808b79b7341dd"


def test_all_statements_get_their_turn() -> None:
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
policies = st.sampled_from(["uniform", "relation-stratified", "inverse-hub"])
degree_maps = st.fixed_dictionaries({f"Q{i}": st.integers(0, 501) for i in range(1, 31)})


def drawn(found: object, m: int, seed: int, policy: Policy, degrees: dict[str, int]) -> list[Statement]:
    return sample(found, m, node="Q1", seed=seed, policy=policy, degrees=degrees)  # type: ignore[arg-type]


@given(st.lists(both_ways), st.randoms(use_true_random=False), sizes, sizes, seeds, policies, degree_maps)
def test_every_policy_gives_prefixes_whatever_the_order(
    found: list[Statement], random: object, m: int, more: int, seed: int, policy: Policy, degrees: dict[str, int]
) -> None:
    shuffled = found * 2
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    large = drawn(shuffled, m + more, seed, policy, degrees)
    assert drawn(found, m, seed, policy, degrees) == large[:m]
    assert len(large) == min(m + more, len(set(found)))


@given(st.sets(both_ways), both_ways, sizes, seeds, policies, degree_maps)
def test_every_policy_changes_by_at_most_one_while_degrees_stay(
    found: set[Statement], extra: Statement, m: int, seed: int, policy: Policy, degrees: dict[str, int]
) -> None:
    before = set(drawn(found, m, seed, policy, degrees))
    after = set(drawn(found | {extra}, m, seed, policy, degrees))
    assert after - before <= {extra}
    assert len(before - after) <= 1


@given(st.sets(both_ways), sizes, seeds, degree_maps, st.integers(1, 30).map("Q{}".format))
def test_a_growing_degree_moves_only_what_leads_to_it(
    found: set[Statement], m: int, seed: int, degrees: dict[str, int], grown: str
) -> None:
    before = set(drawn(found, m, seed, "inverse-hub", degrees))
    after = set(drawn(found, m, seed, "inverse-hub", degrees | {grown: degrees[grown] + 1}))
    leading = {statement for statement in found if other_end(statement, "Q1") == grown}
    assert before - after <= leading  # they only get less likely
    assert len(after - before) == len(before - after) <= len(leading)
    if degrees[grown].bit_length() == (degrees[grown] + 1).bit_length():
        assert after == before


def test_relations_take_turns() -> None:
    towns = [Statement("Q1", "P190", f"Q{i}") for i in range(2, 102)]
    rest = [Statement("Q1", f"P{i}", "Q2") for i in range(1, 5)]
    chosen = drawn([*towns, *rest], 8, 0, "relation-stratified", {})
    assert {statement.property for statement in chosen[:5]} == {"P190", "P1", "P2", "P3", "P4"}
    assert [statement.property for statement in chosen[5:]] == ["P190"] * 3
    both = drawn([*towns, Statement("Q200", "P190", "Q1")], 2, 0, "relation-stratified", {})
    assert {statement.subject for statement in both} == {"Q1", "Q200"}  # each direction is a stratum


@pytest.mark.parametrize(("degree", "expected"), [(1, 0.5), (3, 1 / 3), (501, 1 / 257)])
def test_the_odds_against_a_hub(degree: int, expected: float) -> None:
    """Rates 1/2 and 1/2^bits: a node of in-degree 1 loses to one of in-degree d with odds of 2 to 2^bits."""
    pair = [Statement("Q1", "P1", "Q2"), Statement("Q1", "P1", "Q3")]
    degrees = {"Q2": 1, "Q3": degree}
    hits = sum(drawn(pair, 1, seed, "inverse-hub", degrees)[0].object == "Q3" for seed in range(4000))
    assert hits / 4000 == pytest.approx(expected, abs=0.03)
