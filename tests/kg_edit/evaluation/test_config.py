"""The settings of a run: canonical forms, and what a run's folder has of them."""

from __future__ import annotations

import pytest

from kg_edit.evaluation.config import EvalConfig


def test_config_has_canonical_forms() -> None:
    config = EvalConfig(schedule="sequential:8, batch:2", shard="0/1", extras=("consistency.tfidf",) * 2)
    assert EvalConfig(extras="consistency.tfidf", probes="negation").extras == config.extras  # type: ignore[arg-type]
    assert (config.schedule, config.shard, config.extras) == (
        "batch:2,sequential:8",
        None,
        ("consistency.tfidf",),
    )


@pytest.mark.parametrize(
    "config",
    [
        EvalConfig(),
        EvalConfig(schedule="batch:2,sequential:8", evaluate_every=4, sample=3, shard="1/2", ceilings=True, chat=False),
        EvalConfig(schedule="sequential:50", seed=3),
    ],
)
def test_settings_of_a_run_give_its_config_again(config: EvalConfig) -> None:
    again = EvalConfig.of(config.settings)
    assert (again.plan, again.part, again.settings) == (config.plan, config.part, config.settings)


def test_text_counts_by_its_content_alone() -> None:
    first, same, other = (EvalConfig(general=text).settings for text in ("a fox", "a fox", "a dog"))
    assert first == same != other and "a fox" not in str(first)
