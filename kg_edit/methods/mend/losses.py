"""The losses of models that were each edited once, as a function of the network that makes the edits (MEND, Eq. 4).

    L = c_edit L_e + c_loc L_loc

L_e is -log p of the new target after the edit, in its own prompt and in paraphrases; with ``questions`` also of the
answers to questions about what follows from the edit (PropMEND). L_loc is KL(unedited || edited) on unrelated prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kg_edit.methods.mend.examples import Rows
from kg_edit.methods.mend.gradients import Changes, EditedPasses, Shape, edit_factors, nll
from kg_edit.methods.mend.network import Pairs
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.lower_states import LowerStates

__all__ = ["EditorNetwork", "Losses", "losses_after"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Losses:
    """The losses after the edits.

    ``edit`` is -log p of the new target, in the edit's own prompt and in paraphrases, and of the questions' answers;
    ``locality`` is the KL; ``total`` is their weighted sum.
    """

    edit: Tensor
    locality: Tensor
    total: Tensor


class EditorNetwork(Protocol):
    """A network that turns gradients into changes: `MendNetwork`, or that of another method."""

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shapes (out, in) of the edited weights, by name."""

    def changes(self, factors: Pairs) -> Changes:
        """The factors (left [edits, rank, out], right [edits, rank, in]) of each weight's change."""


def losses_after(
    model: LanguageModel,
    network: EditorNetwork,
    rows: Rows,
    *,
    edit_weight: float,
    locality_weight: float,
    lower: LowerStates | None = None,
) -> Losses:
    """The losses of models that were each edited once, as a function of the network.

    First all rows run through the model. The network turns the edits' gradients into changes. Then the rows run again
    through the blocks from the first changed one on, each row with the change of its own edit. With ``lower`` the
    blocks below do not run.
    """
    own, elsewhere = range(len(rows.edits)), range(len(rows.edits), len(rows.edits) + len(rows.unrelated))
    passes = EditedPasses(model, [*rows.edits, *rows.unrelated], list(network.shapes), lower=lower)
    with torch.no_grad():
        clean = passes.logits(elsewhere).log_softmax(-1)
    changes = network.changes(edit_factors(passes, nll(passes, own), rows=len(own)))
    logits = passes.logits([*own, *elsewhere], changes, torch.tensor([*own, *own]))
    asked = len(logits) - len(clean)
    _, shares = passes.targets(elsewhere)
    divergence = (clean.exp() * (clean - logits[asked:].log_softmax(-1))).sum(-1)
    locality = (divergence * shares).sum()
    edit = _edit_loss(nll(passes, own, logits[:asked]), model, rows, changes, lower)
    return Losses(edit=edit, locality=locality, total=edit_weight * edit + locality_weight * locality)


def _edit_loss(own: Tensor, model: LanguageModel, rows: Rows, changes: Changes, lower: LowerStates | None) -> Tensor:
    """L_e: the mean -log p over the edits' own rows, if they are learned, and the further prompts."""
    others, count = len(rows.further), len(rows.edits) if rows.learned else 0
    if not others:
        return own
    return (count * own + others * _nll_elsewhere(model, rows, changes, lower)) / (count + others)


def _nll_elsewhere(model: LanguageModel, rows: Rows, changes: Changes, lower: LowerStates | None) -> Tensor:
    """The mean -log p for the further prompts; they run in a separate pass, because they are longer."""
    owners, prompts = zip(*rows.further, strict=True)
    with torch.no_grad():
        passes = EditedPasses(model, prompts, list(changes), lower=lower)
    places = range(len(prompts))
    return nll(passes, places, passes.logits(places, changes, torch.tensor(owners)))
