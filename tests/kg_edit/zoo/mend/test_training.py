"""Training an editor: it learns, it can be killed, and the same inputs give the same file."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from kg_edit.edits.edit import Edit
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.zoo.mend import training
from kg_edit.zoo.mend.examples import BatchOrder, Rows, make_examples
from kg_edit.zoo.mend.gradients import mlp_weights, weight_shapes
from kg_edit.zoo.mend.network import FORMAT, MendManifest, MendNetwork, MendTraining
from kg_edit.zoo.mend.training import losses_after, train
from kg_edit.zoo.trained.files import NETWORK
from kg_edit.zoo.trained.training import CHECKPOINT, STATES
from tests.kg_edit.tiny import same_weights, tiny, weights_of
from tests.kg_edit.zoo.mend.examples import edits, hooks_of, quick

SAME = Random(0)  # noqa: S311 - each edit has one prompt of a kind, so nothing is left to chance
WEIGHTS = {"edit_weight": 0.1, "locality_weight": 1.0}


def manifest_of(out: Path, **settings: Any) -> MendManifest:
    return train(tiny("llama"), edits(), quick(**settings), out, progress=False, checkpoint_seconds=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_training_on_other_families(family: str, tmp_path: Path) -> None:
    manifest = train(tiny(family), edits(), quick(), tmp_path, progress=False)
    assert len(manifest.validations) == 4
    assert manifest.validations[-1].total != manifest.validations[0].total


@pytest.mark.slow
def test_killed_training_resumes_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest_of(tmp_path / "whole")
    original, calls = losses_after, []

    def killed(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:  # after a validation and three steps, in the middle of the fourth
            raise KeyboardInterrupt
        return original(*args, **options)

    monkeypatch.setattr(training, "losses_after", killed)
    with pytest.raises(KeyboardInterrupt):
        manifest_of(tmp_path / "part")
    assert (tmp_path / "part" / CHECKPOINT).is_file() and not (tmp_path / "part" / NETWORK).exists()
    assert (tmp_path / "part" / STATES).is_file(), "the states of the lower blocks are not computed again"
    monkeypatch.setattr(training, "losses_after", original)
    manifest_of(tmp_path / "part")
    for name in (NETWORK, "run.json"):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "part" / CHECKPOINT).exists() and not (tmp_path / "part" / STATES).exists()


@pytest.mark.slow
def test_stored_states_give_the_losses_of_the_whole_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six steps draw each prompt twice, so the states are stored; one step does not, so they are not."""
    stored = manifest_of(tmp_path / "stored")
    monkeypatch.setattr(training, "_STATES_GB", 0.0)
    full = manifest_of(tmp_path / "whole")
    assert [validation.total for validation in stored.validations] == pytest.approx(
        [validation.total for validation in full.validations], rel=1e-3
    )
    monkeypatch.undo()
    monkeypatch.setattr(training, "lower_states", None)
    assert manifest_of(tmp_path / "short", steps=1).steps <= 1


def test_validations_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where no progress bar is shown, such as in a file, they are what can be followed."""
    with caplog.at_level("INFO"):
        manifest = manifest_of(tmp_path, steps=2)
    first = manifest.validations[0]
    message = f"step 0: total {first.total:.3f}, edit {first.edit:.3f}, locality {first.locality:.3f} (best so far)"
    assert f"on held-out examples after {message}" in caplog.messages


@pytest.mark.slow
def test_finished_training_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = manifest_of(tmp_path)
    monkeypatch.setattr(training, "losses_after", None)
    for scratch in (CHECKPOINT, STATES):  # as a kill right after the network was written leaves them
        (tmp_path / scratch).write_bytes(b"")
    assert manifest_of(tmp_path) == first == FORMAT.read_manifest(tmp_path / NETWORK, MendManifest)
    assert not {CHECKPOINT, STATES} & {file.name for file in tmp_path.iterdir()}


def test_training_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = copy.deepcopy(tiny("llama"))
    model.model.train()
    weights, random = weights_of(model), torch.get_rng_state()
    train(model, edits(neighbours=False), quick(steps=2), tmp_path, progress=False)
    assert same_weights(model, weights)
    assert all(p.requires_grad and p.grad is None for p in model.model.parameters()) and model.model.training
    assert hooks_of(model) == 0 and torch.equal(torch.get_rng_state(), random)


@pytest.mark.slow
def test_training_stops_by_patience_and_writes_the_best(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, steps=40, learning_rate=0.3, rate_learning_rate=0.3, patience=2, validate_every=1)
    totals = [validation.total for validation in manifest.validations]
    best = totals.index(min(totals))
    assert len(totals) == best + 3 < 40
    assert manifest.steps == best
    network = FORMAT.load_network(tmp_path, tiny("llama"), MendManifest, MendManifest.build_network).network
    with keep_untouched(tiny("llama")):
        course = BatchOrder.of(tiny("llama"), edits(), manifest.training)
        again = [losses_after(tiny("llama"), network, rows, **WEIGHTS) for rows in course.validation()]
    assert float(again[0].total) == pytest.approx(totals[best], rel=1e-4)


def test_gradient_of_the_losses_is_the_slope() -> None:
    """The change is a function of the network: its gradient against a difference quotient."""
    model = tiny("llama")
    names = mlp_weights(model, 2)
    network = MendNetwork(weight_shapes(model, names), rank=4, edit_lr=0.05)
    with keep_untouched(model):
        rows = Rows.of(make_examples(model, edits())[:3], (), SAME)

        def loss() -> torch.Tensor:
            return losses_after(model, network, rows, **WEIGHTS).total

        loss().backward()
        slope, step = network.log_rates.grad, 1e-2
        assert slope is not None
        for index in (0, len(names) - 1):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    network.log_rates[index] += sign * step
                values.append(float(loss().detach()))
                with torch.no_grad():
                    network.log_rates[index] -= sign * step
            assert float(slope[index]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=0.02, abs=1e-5)


def test_losses_of_a_batch_are_the_means_of_single_edits() -> None:
    """Four edits in a step, or one after the other: the means of the same numbers."""
    model = tiny("llama")
    network = MendNetwork(weight_shapes(model, mlp_weights(model, 2)), rank=4, edit_lr=0.05)
    examples = make_examples(model, edits())[:4]
    with keep_untouched(model):
        together = losses_after(model, network, Rows.of(examples, (), SAME), **WEIGHTS)
        alone = [losses_after(model, network, Rows.of([example], (), SAME), **WEIGHTS) for example in examples]
    for name in ("edit", "locality", "total"):
        mean = sum(float(getattr(losses, name).detach()) for losses in alone) / 4
        assert float(getattr(together, name).detach()) == pytest.approx(
            mean, rel=1e-4, abs=1e-6
        )  # a KL of 1e-3 is a difference of rounded numbers


def test_pass_has_every_example_once_in_its_own_order() -> None:
    settings = quick(batch=7, validation=4)
    model = tiny("llama")
    course = BatchOrder.of(model, edits(), settings)
    orders = [[*course.rows(step).edits, *course.rows(step + 1).edits] for step in (0, 2)]
    assert orders[0] != orders[1] and set(orders[0]) == set(orders[1]) and len(set(orders[0])) == 14
    held_out = {prompt for rows in course.validation() for prompt in rows.edits}
    assert len(held_out) == 4 and not held_out & set(orders[0])


def test_edits_without_neighbours_get_texts_of_the_model() -> None:
    model = tiny("llama")
    course = BatchOrder.of(model, edits(neighbours=False), quick(text_tokens=5))
    assert {len(row.target_ids) for step in range(3) for row in course.rows(step).unrelated} == {5}


def test_prompts_longer_than_the_positions_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """One long row of a file is no reason to refuse the others."""
    model, long = tiny("gpt2"), f"{'so ' * 200}Paris is in"
    fact = {"subject": "Paris", "prompt": "{} is in", "target_new": "Rome"}
    edit = Edit.model_validate({**fact, "paraphrases": [long, "Paris lies in"], "neighborhood": [long]})
    (example,) = make_examples(model, [edit, Edit.model_validate({**fact, "prompt": f"{'so ' * 200}{{}} is in"})])
    assert len(example.equivalents) == 1 and example.unrelated == ()
    assert "1 edits are left out" in caplog.text and "longer than the model's positions" in caplog.text


@pytest.mark.slow
def test_training_that_diverges_late_ends_with_the_best_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise hours of training would be lost: it can't be resumed either, as it would diverge again."""
    original, calls = losses_after, []

    def diverging(*args: Any, **options: Any) -> Any:
        calls.append(1)
        losses = original(*args, **options)
        # the validation after two steps is the fourth call; the fourth step has no finite loss
        return losses if len(calls) < 6 else replace(losses, total=losses.total * torch.inf)

    monkeypatch.setattr(training, "losses_after", diverging)
    manifest = manifest_of(tmp_path, learning_rate=1e-3, rate_learning_rate=0.01)
    assert manifest.steps == 2 and [validation.step for validation in manifest.validations] == [0, 2]
    assert "after 3 steps the loss is not finite" in caplog.text and "the network of step 2" in caplog.text
    monkeypatch.undo()
    best = manifest_of(tmp_path / "short", steps=2, learning_rate=1e-3, rate_learning_rate=0.01)
    assert [validation.step for validation in best.validations] == [0, 2]
    for short, long in zip(best.validations, manifest.validations, strict=True):
        # Not equal on every processor: the last digits of a float32 sum were seen to differ.
        assert short.model_dump() == pytest.approx(long.model_dump(), rel=1e-6, abs=1e-7)
    assert not (tmp_path / CHECKPOINT).exists()


@pytest.mark.slow
def test_training_on_a_real_model(smollm2: LanguageModel, shared: Path, tmp_path: Path) -> None:
    records = find_dataset("counterfact")(shared / "counterfact" / "counterfact-edit.json", limit=120)
    settings = MendTraining(steps=20, normalise_on=32, validation=16, validate_every=20)
    manifest = train(smollm2, [record.edits[0] for record in records], settings, tmp_path, progress=False)
    before, after = manifest.validations
    assert after.total < before.total
