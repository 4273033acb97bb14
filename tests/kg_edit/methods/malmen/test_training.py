"""The training of MALMEN and RLEdit: what a step lowers, that it learns, that it can be killed."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kg_edit.errors import ConfigError
from kg_edit.methods.malmen import training
from kg_edit.methods.malmen.method import Malmen, MalmenConfig
from kg_edit.methods.malmen.network import MalmenManifest, MalmenNetwork
from kg_edit.methods.malmen.training import Passes, held_out_losses, sequence_losses, squared_norm, train
from kg_edit.methods.mend.examples import BatchOrder, Rows
from kg_edit.methods.mend.gradients import mlp_weights, weight_shapes
from kg_edit.methods.rledit.method import RLEdit, RLEditConfig
from kg_edit.methods.rledit.network import RLEditTraining
from kg_edit.methods.rledit.training import train as train_rledit
from kg_edit.methods.trained.files import NETWORK
from kg_edit.methods.trained.training import CHECKPOINT
from kg_edit.models.hooks import untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt
from kg_edit.patches.weight_patch import WeightPatch
from tests.kg_edit.methods.malmen.examples import apart, quick, quick_sequence
from tests.kg_edit.methods.mend.examples import hooks_of
from tests.kg_edit.tiny import same_weights, tiny, weights_of

TRAIN = {"malmen": (train, quick), "rledit": (train_rledit, quick_sequence)}
BOTH = pytest.mark.parametrize("name", ["malmen", "rledit"])


def made(name: str, out: Path, *, model: LanguageModel | None = None, **settings: Any) -> MalmenManifest:
    learn, chosen = TRAIN[name]
    some: Any = chosen(**settings)
    return learn(model or tiny("llama"), apart(), some, out, progress=False, checkpoint_seconds=0.0)


def parts(settings: Any, family: str = "llama") -> tuple[Passes, MalmenNetwork, BatchOrder]:
    """The passes, an untrained network with statistics, and the rows of each step."""
    model = tiny(family)
    names = mlp_weights(model, 2)
    network = MalmenNetwork(weight_shapes(model, names), rank=4, edit_lr=0.02)
    order = BatchOrder.of(model, apart(), settings)
    passes = Passes(model=model, names=names)
    network.normalise_by(passes.at_targets(order.for_normalising()))
    return passes, network, order


class Toy:
    """Losses that are numbers of the batch, whatever the update is; one weight with one token of one key."""

    model = SimpleNamespace()

    def at_targets(self, edits: Any) -> dict[str, tuple[Tensor, Tensor]]:
        return {"w": (torch.tensor([[2.0]]), torch.tensor([[1.0]]))}

    def edit_losses(self, change: Any, rows: Any) -> list[Tensor]:
        return [rows.edit + 0.0 * change["w"][0].sum()]

    def localities(self, change: Any, rows: Any) -> list[Tensor]:
        return [rows.locality + 0.0 * change["w"][0].sum()]


def test_loss_of_a_sequence_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three batches, look_back 2, decay 0.5. The network starts as d = -edit_lr |k|^2 g = -0.25 * 4 * 1, and the
    update is d k / (k^2 + 1) = -0.4, so its penalty is 10 * 0.16."""
    monkeypatch.setattr(WeightPatch, "applied", lambda self, model: nullcontext())
    network, seen = MalmenNetwork({"w": (1, 1)}, rank=1, edit_lr=0.25), list[float]()
    batches: Any = [SimpleNamespace(edits=(), edit=10.0**n, locality=2.0 * 10.0**n) for n in range(3)]
    settings = RLEditTraining(look_back=2, decay=0.5, norm_weight=10.0, edit_weight=1.0, locality_weight=0.5)
    toy: Any = Toy()
    edit, locality = sequence_losses(toy, network, batches, settings, check=seen.append)
    # each batch alone: 1 * edit + 0.5 * 2 * edit = 2 * edit
    assert seen == pytest.approx([2 + 1.6, 20 + 0.5 * 2 + 1.6, 200 + 0.5 * 20 + 1.6])
    assert (edit, locality) == pytest.approx((37.0, 74.0))


def test_norm_of_factors_is_that_of_their_product() -> None:
    left, right = torch.randn(1, 3, 4), torch.randn(1, 3, 5)
    torch.testing.assert_close(squared_norm((left, right)), (left[0].T @ right[0]).square().sum())


@torch.no_grad()
def plain_nll(model: LanguageModel, prompt: Prompt) -> float:
    logits = model.model(torch.tensor([prompt.ids[:-1]])).logits[0]
    return float(cross_entropy(logits[prompt.target_start - 1 :], torch.tensor(prompt.ids[prompt.target_start :])))


@torch.no_grad()
def plain_log_p(model: LanguageModel, prompt: Prompt) -> Tensor:
    return model.model(torch.tensor([prompt.ids[:-1]])).logits[0, prompt.target_start - 1 :].log_softmax(-1)


def test_losses_of_a_sequence_are_those_of_applied_updates() -> None:
    """An oracle: each update is written into the weights, each prompt runs alone through the whole model."""
    settings = quick_sequence(length=3, look_back=2, decay=0.5, norm_weight=0.1)
    passes, network, order = parts(settings)
    model, batches, seen = passes.model, [order.rows(step) for step in range(3)], list[float]()
    with untouched(model):
        sequence_losses(passes, network, batches, settings, check=seen.append)
        before = WeightPatch(factors={})
        for number, own in enumerate(batches):
            with before.applied(model):
                update = WeightPatch(factors=network.factors(passes.at_targets(own.edits)))
            after, total = before + update, 0.0
            for age, rows in enumerate(reversed(batches[max(0, number - 1) : number + 1])):
                with before.applied(model):
                    clean = [plain_log_p(model, prompt) for prompt in rows.unrelated]
                with after.applied(model):
                    learned = [plain_nll(model, p) for p in (*rows.edits, *(p for _, p in rows.further))]
                    edited = [plain_log_p(model, prompt) for prompt in rows.unrelated]
                kl = [float((c.exp() * (c - e)).sum(-1).mean()) for c, e in zip(clean, edited, strict=True)]
                total += 0.5**age * (sum(learned) / len(learned) + 0.6 * sum(kl) / len(kl))
            norms = [pair.product.square().sum() for pair in update.factors.values()]
            assert seen[number] == pytest.approx(total + 0.1 * float(sum(norms)), rel=1e-4)
            before = after


def test_gradient_of_a_batch_is_the_slope(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through both stages, in portions of two rows: against a difference quotient, for the rates and the ridges."""
    settings = quick()
    passes, network, order = parts(settings)
    rows, seen, step = order.rows(0), list[float](), 1e-2
    with untouched(passes.model):
        sequence_losses(passes, network, [rows], settings)
        whole = {name: one.grad.clone() for name, one in network.named_parameters() if one.grad is not None}
        network.zero_grad()
        monkeypatch.setattr(training, "_ROWS", 2)
        sequence_losses(passes, network, [rows], settings)
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-3, atol=1e-6)
        for parameter in network.rates:
            for place in (0, len(parameter) - 1):
                for sign in (1, -1):
                    with torch.no_grad():
                        parameter[place] += sign * step
                    sequence_losses(passes, network, [rows], settings, check=seen.append)
                    with torch.no_grad():
                        parameter[place] -= sign * step
                slope = (seen[-2] - seen[-1]) / (2 * step)
                name = "log_rates" if parameter is network.log_rates else "log_ridges"
                assert float(whole[name][place]) == pytest.approx(slope, rel=0.03, abs=1e-4)


def test_held_out_batches_are_edited_in_sequence() -> None:
    """The losses over all after the last update; the KL is to the unedited model."""
    passes, network, order = parts(quick_sequence())
    model, batches = passes.model, [order.rows(step) for step in range(2)]
    with untouched(model):
        edit, locality = held_out_losses(passes, network, batches)
        before = WeightPatch(factors={})
        for own in batches:
            with before.applied(model):
                update = WeightPatch(factors=network.factors(passes.at_targets(own.edits)))
            before = before + update
        unrelated = [prompt for rows in batches for prompt in rows.unrelated]
        clean = [plain_log_p(model, prompt) for prompt in unrelated]
        with before.applied(model):
            learned = [plain_nll(model, p) for r in batches for p in (*r.edits, *(q for _, q in r.further))]
            edited = [plain_log_p(model, prompt) for prompt in unrelated]
        kl = [float((c.exp() * (c - e)).sum(-1).mean()) for c, e in zip(clean, edited, strict=True)]
    assert edit == pytest.approx(sum(learned) / len(learned), rel=1e-4)
    assert locality == pytest.approx(sum(kl) / len(kl), rel=1e-3)


def test_edits_without_paraphrases_are_learned_by_their_own_prompts() -> None:
    passes, network, order = parts(quick())
    rows = order.rows(0)
    bare = Rows(edits=rows.edits, unrelated=rows.unrelated, further=())
    with untouched(passes.model):
        edit, _ = held_out_losses(passes, network, [bare])
    assert edit > 0


@BOTH
def test_training_lowers_the_loss_and_edits_succeed(name: str, tmp_path: Path) -> None:
    """A batch of edits that the network has not seen: all are likelier than before, most of them much."""
    manifest = made(name, tmp_path, steps=20, validate_every=10, locality_weight=0.1)
    first, best = manifest.validations[0], min(manifest.validations, key=lambda found: found.total)
    assert best.total < 0.8 * first.total and manifest.steps == best.step > 0
    kinds = {"malmen": (Malmen, MalmenConfig), "rledit": (RLEdit, RLEditConfig)}
    method, config = kinds[name]
    chosen = method(tiny("llama"), config(network=str(tmp_path)))
    batch = BatchOrder.of(tiny("llama"), apart(), manifest.training)
    texts = {rows.text for held in batch.validation() for rows in held.edits}
    unseen = [edit for edit in apart() if any(edit.text in text for text in texts)]
    assert len(unseen) == 4
    patch = chosen.edit(unseen)
    again = chosen.update(unseen, before=patch)
    losses = [[edit["nll_before"] for edit in one.edits] for one in (patch, again)]
    assert sum(losses[1]) < 0.7 * sum(losses[0])


@pytest.mark.parametrize("name", ["malmen", pytest.param("rledit", marks=pytest.mark.slow)])
def test_killed_training_resumes_to_the_same_bytes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(name, tmp_path / "whole")
    whole, calls = sequence_losses, []

    def killed(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return whole(*args, **options)

    monkeypatch.setattr(training, "sequence_losses", killed)
    with pytest.raises(KeyboardInterrupt):
        made(name, tmp_path / "part")
    assert (tmp_path / "part" / CHECKPOINT).is_file() and not (tmp_path / "part" / NETWORK).exists()
    monkeypatch.setattr(training, "sequence_losses", whole)
    made(name, tmp_path / "part")
    for file in (NETWORK, "run.json"):
        assert (tmp_path / "part" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@BOTH
def test_training_leaves_the_model_as_it_was(name: str, tmp_path: Path) -> None:
    """Also in a sequence, whose updates are in the weights meanwhile."""
    model = copy.deepcopy(tiny("llama"))
    model.model.train()
    weights, random = weights_of(model), torch.get_rng_state()
    made(name, tmp_path, model=model, steps=2)
    assert same_weights(model, weights) and hooks_of(model) == 0
    assert all(p.requires_grad and p.grad is None for p in model.model.parameters()) and model.model.training
    assert torch.equal(torch.get_rng_state(), random)


def test_sequence_needs_its_edits(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected at least 20: validation = 4 \(held out\), batch \* length = 16"):
        made("rledit", tmp_path / "out", length=8)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_training_on_other_families(family: str, tmp_path: Path) -> None:
    manifest = made("rledit", tmp_path, model=tiny(family), steps=2)
    assert manifest.validations[-1].total != manifest.validations[0].total
