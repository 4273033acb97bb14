"""RLEdit: the loss of a sequence of updates, by hand and by updates that are written into the weights."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.zoo.malmen.network import MalmenNetwork
from kg_edit.zoo.malmen.training import held_out_losses, sequence_losses
from kg_edit.zoo.rledit.network import RLEditTraining
from tests.kg_edit.zoo.malmen.examples import parts, quick_sequence


class Toy:
    """Losses that are numbers of the batch, whatever the update is; one weight with one token of one key."""

    model = SimpleNamespace()

    def gradients_at_targets(self, edits: Any) -> dict[str, tuple[Tensor, Tensor]]:
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
    with keep_untouched(model):
        sequence_losses(passes, network, batches, settings, check=seen.append)
        before = WeightPatch(factors={})
        for number, batch in enumerate(batches):
            with before.applied(model):
                update = WeightPatch(factors=network.compute_factors(passes.gradients_at_targets(batch.edits)))
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


def test_held_out_batches_are_edited_in_sequence() -> None:
    """The losses over all after the last update; the KL is to the unedited model."""
    passes, network, order = parts(quick_sequence())
    model, batches = passes.model, [order.rows(step) for step in range(2)]
    with keep_untouched(model):
        edit, locality = held_out_losses(passes, network, batches)
        before = WeightPatch(factors={})
        for batch in batches:
            with before.applied(model):
                update = WeightPatch(factors=network.compute_factors(passes.gradients_at_targets(batch.edits)))
            before = before + update
        unrelated = [prompt for rows in batches for prompt in rows.unrelated]
        clean = [plain_log_p(model, prompt) for prompt in unrelated]
        with before.applied(model):
            learned = [plain_nll(model, p) for r in batches for p in (*r.edits, *(q for _, q in r.further))]
            edited = [plain_log_p(model, prompt) for prompt in unrelated]
        kl = [float((c.exp() * (c - e)).sum(-1).mean()) for c, e in zip(clean, edited, strict=True)]
    assert edit == pytest.approx(sum(learned) / len(learned), rel=1e-4)
    assert locality == pytest.approx(sum(kl) / len(kl), rel=1e-3)
