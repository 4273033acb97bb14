"""What the editor learns to lower: c_edit * L_e + c_loc * L_loc (MEND, Eq. 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kg_edit.mend.gradients import edit_factors, nll
from kg_edit.methods.mend.examples import Rows
from kg_edit.methods.mend.gradients import Changes, EditedPasses
from kg_edit.methods.mend.network import MendNetwork
from kg_edit.models.language_model import LanguageModel


@dataclass(frozen=True, eq=False, kw_only=True)
class Losses:
    """``edit``: -log p of the new target after the edit, in its own prompt and in others; ``locality``: the KL."""

    edit: Tensor
    locality: Tensor
    total: Tensor


def losses_after(
    model: LanguageModel, network: MendNetwork, rows: Rows, *, edit_weight: float, locality_weight: float
) -> Losses:
    """The losses of models that were each edited once, as a function of the network.

    All rows go through the model once; the network turns the edits' gradients into changes; the rows go again through
    the blocks that these change, each row with its own edit's change.
    """
    own, elsewhere = range(len(rows.edits)), range(len(rows.edits), len(rows.edits) + len(rows.unrelated))
    passes = EditedPasses(model, [*rows.edits, *rows.unrelated], list(network.shapes))
    with torch.no_grad():
        clean = passes.logits(elsewhere).log_softmax(-1)
    changes = network.changes(edit_factors(passes, nll(passes, own), rows=len(own)))
    logits = passes.logits([*own, *elsewhere], changes, torch.tensor([*own, *own]))
    asked = len(logits) - len(clean)
    edit, (_, shares) = nll(passes, own, logits[:asked]), passes.targets(elsewhere)
    divergence = (clean.exp() * (clean - logits[asked:].log_softmax(-1))).sum(-1)
    locality = (divergence * shares).sum()
    if rows.equivalents:
        others = len(rows.equivalents)
        edit = (len(own) * edit + others * _nll_elsewhere(model, rows, changes)) / (len(own) + others)
    return Losses(edit=edit, locality=locality, total=edit_weight * edit + locality_weight * locality)


def _nll_elsewhere(model: LanguageModel, rows: Rows, changes: Changes) -> Tensor:
    """The mean -log p after the equivalent prompts, which are longer than the others, so they run alone."""
    owners, prompts = zip(*rows.equivalents, strict=True)
    with torch.no_grad():
        passes = EditedPasses(model, prompts, list(changes))
    places = range(len(prompts))
    return nll(passes, places, passes.logits(places, changes, torch.tensor(owners)))
