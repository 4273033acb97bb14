"""The order of the examples of a training, which its seed and the number of a step determine."""

from __future__ import annotations

import pytest

from kg_edit.zoo.trained import training
from kg_edit.zoo.trained.training import Epochs, shuffled


def test_examples_are_shuffled_once_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of many examples takes no time for them; and a run that starts at any step draws the same."""
    seeds = list[str]()

    def counted(examples: list[int], seed: str) -> list[int]:
        seeds.append(seed)
        return shuffled(examples, seed)

    monkeypatch.setattr(training, "shuffled", counted)
    examples = list(range(11))
    epochs = Epochs(examples, batch=3, seed=7)
    batches = [epochs.examples(step) for step in range(9)]
    assert seeds == ["pass 0 7", "pass 1 7", "pass 2 7"]
    for number in range(3):
        order = shuffled(examples, f"pass {number} 7")
        assert batches[3 * number : 3 * number + 3] == [order[:3], order[3:6], order[6:9]]
    assert Epochs(examples, batch=3, seed=7).examples(5) == batches[5]
