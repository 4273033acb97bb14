"""Held keys: keys whose outputs an update should not change, those of the other tokens in the edits' own prompts.

The descent finds m* as if the change were made at the subject's last token only. The written update also adds (n . u)
times the change at every other token with key n. That is little in ordinary text, but up to half of the change for
tokens that are rare in the text that C was measured from (a German word in pieces, docs/measurements.md). With the keys
N_e [n_e, d_ff] of the other tokens in edit e's prompts

    H = sum_e N_e^T N_e / n_e,    U = (C + w H)^-1 K    [d_ff, edits]

U replaces C^-1 K in the closed forms. The written model then computes what the descent saw. w is the weight of these
keys, where C has weight 1. If there are fewer than d_ff such keys, the system is solved by Woodbury's identity from the
factorisation of C.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from kg_edit.covariance.moment import Covariance
from kg_edit.locate_then_edit.objective import Request
from kg_edit.models.hooks import watched
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prompts import Prompt, left_pad
from kg_edit.models.replay import Ascending, block_output

_TOKENS = 1024  # in a pass
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
    with watched(model.down_projection(layer), lambda key, _: keys.append(key)):
        block_output(model, batch, layer)
    return torch.cat(list(_others(keys[0], rows)))


class HeldTokens:
    """The other tokens of all ``requests``, whose keys are read in one layer after the other.

    Two rewrites of each request are read; an edit in both forms has one of each form. ``memory`` is as in `Ascending`.
    """

    def __init__(
        self, model: LanguageModel, requests: Sequence[Request], layers: Sequence[int], *, memory: float
    ) -> None:
        self._model = model
        read = [request.rewrites[:: -(-len(request.rewrites) // HELD_ROWS)] for request in requests]
        self._portions = list(_portions(read))
        batches = [left_pad([row.ids for rows in some for row in rows], device=model.device) for some in self._portions]
        self._runs = Ascending(model, batches, range(layers[0], layers[-1] + 1), memory=memory)

    @torch.no_grad()
    def at(self, layer: int) -> HeldKeys:
        """H of all requests together in block ``layer``, on the model in its present state."""
        held = HeldKeys.none(weight_matrix(self._model.down_projection(layer)).shape[1])
        seen: dict[str, Tensor] = {}
        with watched(self._model.down_projection(layer), lambda key, _: seen.update(key=key)):
            for some, _ in zip(self._portions, self._runs.outputs(layer), strict=True):
                others = _others(seen["key"], [row for rows in some for row in rows])
                for rows in some:
                    held = held.plus(torch.cat([next(others) for _ in rows]).cpu())
        return held


def _portions(read: Sequence[Sequence[Prompt]]) -> Iterator[list[Sequence[Prompt]]]:
    """Yield runs of requests, whose rows have at most `_TOKENS` tokens together with their padding."""
    some, count, longest = list[Sequence[Prompt]](), 0, 0
    for rows in read:
        count, longest = count + len(rows), max(longest, *(len(row.ids) for row in rows))
        if some and count * longest > _TOKENS:
            yield some
            some, count, longest = [], len(rows), max(len(row.ids) for row in rows)
        some.append(rows)
    if some:
        yield some


def _others(keys: Tensor, rows: Sequence[Prompt]) -> Iterator[Tensor]:
    """Yield each row's keys of other tokens, [n, d_ff] in float32, from the keys of a left-padded batch."""
    for row, own in zip(rows, keys.reshape(len(rows), -1, keys.shape[-1]), strict=True):
        yield own[len(own) - len(row.ids) :][torch.tensor(_is_other(row), device=own.device)].float()


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
