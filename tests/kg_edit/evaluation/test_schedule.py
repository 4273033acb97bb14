from __future__ import annotations

import pytest

from kg_edit.evaluation.schedule import CURVE_RECORDS, CurvePlan, Schedule, Shard


@pytest.mark.parametrize(
    ("text", "batch", "sequence", "canonical"),
    [
        ("single", 1, 1, "single"),
        ("batch:32", 32, 32, "batch:32"),
        ("sequential:100", 1, 100, "sequential:100"),
        ("batch:32,sequential:1000", 32, 1000, "batch:32,sequential:1000"),
        ("sequential:1000, batch:32", 32, 1000, "batch:32,sequential:1000"),
        ("batch:1", 1, 1, "single"),
        ("sequential:1", 1, 1, "single"),
        ("batch:1,sequential:7", 1, 7, "sequential:7"),
        ("batch:8,sequential:8", 8, 8, "batch:8"),
    ],
)
def test_schedule_has_a_canonical_form(text: str, batch: int, sequence: int, canonical: str) -> None:
    schedule = Schedule.parse(text)
    assert (schedule.batch, schedule.sequence, str(schedule)) == (batch, sequence, canonical)
    assert Schedule.parse(str(schedule)) == schedule


def test_words_say_which_edits_a_record_is_scored_after() -> None:
    words = [Schedule.parse(text).in_words(25) for text in ("sequential:20", "batch:2,sequential:50", "batch:5")]
    assert words == [
        "after all 20 edits of its sequence",
        "after all 25 edits of the sequence, in batches of 2",
        "after all 5 edits of its batch",
    ]


@pytest.mark.parametrize(("schedule", "records"), [("single", 1), ("batch:3", 3)])
def test_records_of_one_step_are_scored_once_after_it(schedule: str, records: int) -> None:
    (scoring,) = CurvePlan.of(Schedule.parse(schedule)).scorings(records)
    assert (scoring.indices, scoring.edits, scoring.last) == (tuple(range(records)), records, True)


def test_sequences_are_scored_after_each_edit_at_points_and_after_all() -> None:
    scorings = list(CurvePlan.of(Schedule.parse("sequential:7"), 3).scorings(7))
    assert [(scoring.edits, scoring.indices, scoring.on_curve) for scoring in scorings] == [
        (1, (0,), False),
        (2, (1,), False),
        (3, (0, 1, 2), True),
        (4, (3,), False),
        (5, (4,), False),
        (6, (0, 1, 2, 3, 4, 5), True),
        (7, (0, 1, 2, 3, 4, 5, 6), True),
    ]


def test_point_inside_a_batch_comes_after_it() -> None:
    scorings = list(CurvePlan.of(Schedule.parse("batch:4,sequential:10"), 5).scorings(10))
    assert [(scoring.edits, scoring.on_curve) for scoring in scorings] == [(4, False), (8, True), (10, True)]
    assert [list(scoring.step) for scoring in scorings] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_curve_has_about_ten_points_by_default() -> None:
    on_curve = [s.edits for s in CurvePlan.of(Schedule.parse("sequential:1000")).scorings(1000) if s.on_curve]
    assert on_curve == list(range(100, 1001, 100))
    assert [s.edits for s in CurvePlan.of(Schedule.parse("sequential:4")).scorings(4) if s.on_curve] == [1, 2, 3, 4]


def test_many_earlier_records_are_sampled_evenly() -> None:
    positions = {s.edits: s.indices for s in CurvePlan.of(Schedule.parse("sequential:1000")).scorings(1000)}
    assert positions[101] == (100,)
    assert len(positions[500]) == CURVE_RECORDS + 1  # its own one too
    assert (positions[500][0], positions[500][-1]) == (0, 499)
    assert all(4 <= b - a <= 5 for a, b in zip(positions[500][:99], positions[500][1:100], strict=True))
    assert positions[1000] == tuple(range(1000))


def test_sample_limits_the_records_of_each_point() -> None:
    plan = CurvePlan.of(Schedule.parse("batch:2,sequential:9"), 4, sample=3)
    positions = {scoring.edits: scoring.indices for scoring in plan.scorings(9)}
    assert positions == {2: (), 4: (0, 1, 2), 6: (), 8: (0, 2, 5), 9: (0, 3, 6)}
    assert plan.scored("abcdefghi") == ["a", "b", "c", "d", "f", "g"]
    assert CurvePlan.of(Schedule.parse("sequential:9")).scored("abcdefghi") == "abcdefghi"


def test_shards_deal_every_item_once() -> None:
    numbers = list(range(10))
    dealt = [Shard.parse(f"{part}/4").deal(numbers) for part in range(4)]
    assert dealt[1] == [1, 5, 9]
    assert sorted(number for part in dealt for number in part) == numbers
    assert Shard().deal(numbers) == numbers
    assert str(Shard.parse(" 2 / 3 ")) == "2/3"
