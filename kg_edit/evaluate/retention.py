"""What a sequence of edits leaves of a model: three rates, as functions of scores (GRACE, Hartvigsen et al. 2023).

Scores are those of one metric, 1 being right, of one model after t edits. None is a score that is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kg_edit.evaluate.metrics.metric import mean

Scores = Mapping[str, float | None]  # by the id of a record or a prompt


def unrelated_retention(now: Scores) -> float | None:
    """TRR: the mean score on test prompts that have nothing to do with the edits."""
    return mean(now.values())


def edit_retention(now: Scores, made: Sequence[str]) -> float | None:
    """ERR: the mean score, on the model as it ``now`` is, of all the edits ``made`` so far (their ids)."""
    return mean(now.get(name) for name in made)


def accurate_retention(now: Scores, before: Scores) -> float | None:
    """ARR: the mean score of those prompts that the unedited model got right (a score of 1)."""
    return mean(now.get(name) for name, score in before.items() if score == 1)
