"""The training of MALMEN and RLEdit: what a step lowers, that it learns, that it can be killed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.zoo.malmen import training
from kg_edit.zoo.malmen.method import Malmen, MalmenConfig
from kg_edit.zoo.malmen.network import MalmenManifest
from kg_edit.zoo.malmen.training import held_out_losses, sequence_losses, squared_norm, train
from kg_edit.zoo.mend.examples import BatchOrder, Rows
from kg_edit.zoo.rledit.method import RLEdit, RLEditConfig
from kg_edit.zoo.rledit.training import train as train_rledit
from kg_edit.zoo.trained.files import NETWORK
from kg_edit.zoo.trained.training import CHECKPOINT
from tests.kg_edit.tiny import same_weights, tiny, weights_of
from tests.kg_edit.zoo.malmen.examples import apart, parts, quick, quick_sequence
from tests.kg_edit.zoo.mend.examples import hooks_of

TRAIN = {"malmen": (train, quick), "rledit": (train_rledit, quick_sequence)}
BOTH = pytest.mark.parametrize("name", ["malmen", "rledit"])


def manifest_of(name: str, out: Path, *, model: LanguageModel | None = None, **settings: Any) -> MalmenManifest:
    learn, chosen = TRAIN[name]
    config: Any = chosen(**settings)
    return learn(model or tiny("llama"), apart(), config, out, progress=False, checkpoint_seconds=0.0)


def test_norm_of_factors_is_that_of_their_product() -> None:
    left, right = torch.randn(1, 3, 4), torch.randn(1, 3, 5)
    torch.testing.assert_close(squared_norm((left, right)), (left[0].T @ right[0]).square().sum())


@pytest.mark.slow
def test_gradient_of_a_batch_is_the_slope(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through both stages, in portions of two rows: against a difference quotient, for the rates and the ridges."""
    settings = quick()
    passes, network, order = parts(settings)
    rows, seen, step = order.rows(0), list[float](), 1e-2
    with keep_untouched(passes.model):
        sequence_losses(passes, network, [rows], settings)
        gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
        network.zero_grad()
        monkeypatch.setattr(training, "_ROWS", 2)
        sequence_losses(passes, network, [rows], settings)
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-6)
        for parameter in network.rate_parameters:
            for index in (0, len(parameter) - 1):
                for sign in (1, -1):
                    with torch.no_grad():
                        parameter[index] += sign * step
                    sequence_losses(passes, network, [rows], settings, check=seen.append)
                    with torch.no_grad():
                        parameter[index] -= sign * step
                slope = (seen[-2] - seen[-1]) / (2 * step)
                name = "log_rates" if parameter is network.log_rates else "log_ridges"
                assert float(gradients[name][index]) == pytest.approx(slope, rel=0.03, abs=1e-4)


def test_edits_without_paraphrases_are_learned_by_their_own_prompts() -> None:
    passes, network, order = parts(quick())
    rows = order.rows(0)
    bare = Rows(edits=rows.edits, unrelated=rows.unrelated, further=())
    with keep_untouched(passes.model):
        edit, _ = held_out_losses(passes, network, [bare])
    assert edit > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["malmen", "rledit"])
def test_training_lowers_the_loss_and_edits_succeed(name: str, tmp_path: Path) -> None:
    """A batch of edits that the network has not seen: all are likelier than before, most of them much."""
    manifest = manifest_of(name, tmp_path, steps=20, validate_every=10, locality_weight=0.1)
    first, best = manifest.validations[0], min(manifest.validations, key=lambda validation: validation.total)
    assert best.total < 0.8 * first.total and manifest.steps == best.step > 0
    kinds = {"malmen": (Malmen, MalmenConfig), "rledit": (RLEdit, RLEditConfig)}
    method, config = kinds[name]
    chosen = method(tiny("llama"), config(network=str(tmp_path)))
    batch = BatchOrder.of(tiny("llama"), apart(), manifest.training)
    texts = {rows.text for held in batch.validation() for rows in held.edits}
    unseen = [edit for edit in apart() if any(edit.text in text for text in texts)]
    assert len(unseen) == 4
    patch = chosen.edit(unseen)
    again = chosen.edit(unseen, before=patch)
    losses = [[edit["nll_before"] for edit in p.edits] for p in (patch, again)]
    assert sum(losses[1]) < 0.7 * sum(losses[0])


@pytest.mark.parametrize("name", ["malmen", pytest.param("rledit", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_killed_training_resumes_to_the_same_bytes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest_of(name, tmp_path / "whole")
    original, calls = sequence_losses, []

    def killed(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(*args, **options)

    monkeypatch.setattr(training, "sequence_losses", killed)
    with pytest.raises(KeyboardInterrupt):
        manifest_of(name, tmp_path / "part")
    assert (tmp_path / "part" / CHECKPOINT).is_file() and not (tmp_path / "part" / NETWORK).exists()
    monkeypatch.setattr(training, "sequence_losses", original)
    manifest_of(name, tmp_path / "part")
    for file in (NETWORK, "run.json"):
        assert (tmp_path / "part" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@BOTH
def test_training_leaves_the_model_as_it_was(name: str, tmp_path: Path) -> None:
    """Also in a sequence, whose updates are in the weights meanwhile."""
    model = copy.deepcopy(tiny("llama"))
    model.model.train()
    weights, random = weights_of(model), torch.get_rng_state()
    manifest_of(name, tmp_path, model=model, steps=2)
    assert same_weights(model, weights) and hooks_of(model) == 0
    assert all(p.requires_grad and p.grad is None for p in model.model.parameters()) and model.model.training
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_training_on_other_families(family: str, tmp_path: Path) -> None:
    manifest = manifest_of("rledit", tmp_path, model=tiny(family), steps=2)
    assert manifest.validations[-1].total != manifest.validations[0].total
