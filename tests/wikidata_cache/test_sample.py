from hypothesis import given
from hypothesis import strategies as st

from wikidata_cache.ids import Statement
from wikidata_cache.subgraphs.sample import bottom_m, priority

statements = st.builds(
    Statement,
    st.just("Q1"),
    st.integers(1, 9).map("P{}".format),
    st.integers(1, 60).map("Q{}".format),
)
seeds = st.integers(-5, 10**6)
sizes = st.integers(0, 30)


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
    sample = bottom_m(found, m, seed=seed)
    assert len(sample) == min(m, len(found))
    assert set(sample) <= found


def test_the_hash_stays_what_it_is() -> None:
    assert priority(Statement("Q1345", "P17", "Q30"), seed=0).hex() == "d07a6d5c9d3423d804d808b79b7341dd"


def test_all_statements_get_their_turn() -> None:
    everything = [Statement("Q1", "P1", f"Q{i}") for i in range(1, 21)]
    chosen = [statement for seed in range(400) for statement in bottom_m(everything, 5, seed=seed)]
    counts = [chosen.count(statement) for statement in everything]  # each is expected 100 times, sd 8.7
    assert min(counts) > 60 and max(counts) < 140
