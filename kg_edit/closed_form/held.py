"""Held keys: keys whose outputs an update should not change, those of the other tokens in the edits' own prompts.

The descent finds m* as if the change were made at the subject's last token only. The written update also adds (n . u)
times the change at every other token with key n. That is little in ordinary text, but up to half of the change for
tokens that are rare in the text that C was measured from (a German word in pieces, docs/results.md). With the keys
N_e [n_e, d_ff] of the other tokens in edit e's prompts

    H = sum_e N_e^T N_e / n_e,    U = (C + w H)^-1 K    [d_ff, edits]

U replaces C^-1 K in the closed forms. The written model then computes what the descent saw. w is the weight of these
keys, where C has weight 1. If there are fewer than d_ff such keys, the system is solved by Woodbury's identity from the
factorisation of C.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from kg_edit.covariance.moment import Covariance
from kg_edit.models.hooks import watched
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prompts import Prompt, left_pad
from kg_edit.models.replay import block_output
from kg_edit.value.objective import Request

HELD_ROWS = 2  # rewrites used per edit; more are not needed, because C already covers the ordinary text of contexts


@dataclass(frozen=True, eq=False)
class HeldKeys:
    """The held keys as H = ``moment`` + ``rows``^T ``rows`` [d_ff, d_ff] in float64.

    ``rows`` [n, d_ff] has fewer than d_ff rows; when there are more, they are summed into ``moment`` [d_ff, d_ff].
    """

    rows: Tensor
    moment: Tensor | None = None

    @classmethod
    def none(cls, size: int) -> Self:
        """H = 0, for keys with ``size`` components."""
        return cls(torch.empty(0, size, dtype=torch.float64))

    def plus(self, others: Tensor) -> HeldKeys:
        """H plus the mean outer product of an edit's other keys, ``others`` [n_e, d_ff]."""
        rows = torch.cat([self.rows, others.to(self.rows) / max(1, len(others)) ** 0.5])
        if len(rows) < rows.shape[1]:
            return HeldKeys(rows, self.moment)
        moment = rows.T @ rows
        return HeldKeys(rows[:0], moment if self.moment is None else moment.add_(self.moment))

    def metric(self, covariance: Covariance, *, weight: float) -> Covariance:
        """C + weight ``moment`` as a `Covariance`, with C's ridge added to the diagonal."""
        if self.moment is None:
            return covariance
        moment = weight * self.moment + covariance.moment.to(self.moment)
        moment.diagonal().add_(covariance.ridge * covariance.moment.diagonal().mean())
        return replace(covariance, moment=moment, ridge=0.0)


@torch.no_grad()
def other_keys(model: LanguageModel, rows: Sequence[Prompt], layer: int) -> Tensor:
    """The keys of the other tokens of an edit's rewrites, [n, d_ff] in float32.

    A key is the input of block ``layer``'s down-projection. The other tokens are all tokens of ``rows``, targets
    included, except the last token of each mention of the subject. The blocks above ``layer`` do not run.
    """
    keys = list[Tensor]()
    batch = left_pad([row.ids for row in rows], device=model.device)
    with watched(model.down_projection(layer), lambda key, _: keys.append(key.reshape(*batch.ids.shape, -1))):
        block_output(model, batch, layer)
    width = batch.ids.shape[1]
    other = torch.tensor([[False] * (width - len(row.ids)) + _is_other(row) for row in rows])
    return keys[0][other.to(keys[0].device)].float()


def held_keys(model: LanguageModel, requests: Iterable[Request], layer: int) -> HeldKeys:
    """H of all ``requests`` together, from two rewrites of each; an edit in both forms has one of each form."""
    held = HeldKeys.none(weight_matrix(model.down_projection(layer)).shape[1])
    for request in requests:
        some = request.rewrites[:: -(-len(request.rewrites) // HELD_ROWS)]
        held = held.plus(other_keys(model, some, layer).cpu())
    return held


def _is_other(row: Prompt) -> list[bool]:
    """For each token of a row, whether it is not the last token of a mention of the subject."""
    subject = row.ids[row.subject_first : row.edited_at + 1]
    ends = range(1, len(row.ids) + 1)
    return [row.ids[max(0, end - len(subject)) : end] != subject for end in ends]


def held_solve(covariance: Covariance, keys: Tensor, held: HeldKeys, *, weight: float) -> Tensor:
    """(C + w H)^-1 K [d_ff, edits] in float64, for ``keys`` K [d_ff, edits] and the ``weight`` w of H.

    Raises:
        CovarianceError: C is not positive definite.
    """
    if not weight:
        return covariance.solve(keys)
    rows = held.rows.to(keys.device)
    solved = held.metric(covariance, weight=weight).solve(torch.cat([keys.double(), rows.T], 1))
    alone, theirs = solved[:, : keys.shape[1]], solved[:, keys.shape[1] :]
    inner = rows @ theirs
    inner.diagonal().add_(1 / weight)
    found: Tensor = alone - theirs @ torch.linalg.solve(inner, rows @ alone)
    return found
