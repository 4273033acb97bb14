"""GLAME's Eq. 7, ROME's loss too: L = L_p + kl_weight * L_a (+ ROME's norm penalty), for many edits at once.

A request may bring further rows, of facts that follow from the edit: L + their weighted loss.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kg_edit.forward.row_groups import Essences, ForwardFactory, Further, Rewrites, Row, RowGroup, equally_long
from kg_edit.forward.taught import Taught
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt
from kg_edit.value.tail_forward import TailForward


@dataclass(frozen=True, kw_only=True)
class Request:
    """What one edit asks of the model.

    ``rewrites``: the prompt with its target in every context, the bare context first. ``essence``: a prompt about the
    subject ("{} is a") whose next-token distribution at the subject's last token should stay. ``further``: other rows
    about the subject, each with its weight in the loss.
    """

    rewrites: tuple[Prompt, ...]
    essence: Prompt | None = None
    further: tuple[Further, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Losses:
    """The loss's parts, one number an edit: [edits] each. ``nll`` is L_p, ``kl`` is L_a, both unweighted.

    ``further`` is the weighted loss of the further rows.
    """

    nll: Tensor
    kl: Tensor
    further: Tensor
    penalty: Tensor
    total: Tensor


class Objective:
    """The loss as a function of the change of each edit's value, m* - m, added at the subject's last token.

    ``value`` [edits, d] is m in the bare prompt; ``bare_key`` and ``mean_key`` [edits, d_ff] are the key there and its
    mean over the contexts (Eq. 8).
    """

    def __init__(
        self,
        model: LanguageModel,
        layer: int,
        requests: Sequence[Request],
        *,
        kl_weight: float,
        weight_decay: float = 0.0,
        forward: ForwardFactory = TailForward,
        tokens: int = 512,
        slack: int = 1,
    ) -> None:
        self.kl_weight, self.weight_decay = kl_weight, weight_decay
        count = len(requests)
        rewrites = [
            Row(edit=edit, prompt=row, weight=1 / len(request.rewrites))
            for edit, request in enumerate(requests)
            for row in request.rewrites
        ]
        essences = [Row(edit=edit, prompt=own) for edit, request in enumerate(requests) if (own := request.essence)]
        self._rewrites = [
            Rewrites(rows, forward(model, layer, [row.prompt for row in rows]), edits=count)
            for rows in equally_long(rewrites, tokens=tokens, slack=slack)
        ]
        self._essences = [
            Essences(rows, forward(model, layer, [row.prompt for row in rows]), edits=count)
            for rows in equally_long(essences, tokens=tokens, slack=slack)
        ]
        further = [
            Row(edit=edit, prompt=row.prompt, weight=row.weight, taught=row.taught)
            for edit, request in enumerate(requests)
            for row in request.further
        ]
        self._further: list[RowGroup] = [
            kind(rows, forward(model, layer, [row.prompt for row in rows]), edits=count)
            for kind, alike in (
                (Rewrites, [row for row in further if row.taught is None]),
                (Taught, [row for row in further if row.taught is not None]),
            )
            for rows in equally_long(alike, tokens=tokens, slack=slack)
        ]
        bare = [request.rewrites[0] for request in requests]
        self._keep_clean_states(bare)

    def _keep_clean_states(self, bare: Sequence[Prompt]) -> None:
        """m and the keys, put together from the groups; an edit's bare prompt is its first row."""
        value, key = dict[int, Tensor](), dict[int, Tensor]()
        keys: dict[int, list[Tensor]] = {edit: [] for edit in range(len(bare))}
        for group in self._rewrites:
            for place, row in enumerate(group.rows):
                keys[row.edit].append(group.forward.keys[place].float())
                if row.prompt is bare[row.edit]:
                    value[row.edit], key[row.edit] = group.forward.values[place].float(), keys[row.edit][-1]
        self.value = torch.stack([value[edit] for edit in range(len(bare))])
        self.bare_key = torch.stack([key[edit] for edit in range(len(bare))])
        self.mean_key = torch.stack([torch.stack(keys[edit]).mean(0) for edit in range(len(bare))])

    def __call__(self, change: Tensor) -> Losses:
        """The losses under ``change`` [edits, d], differentiable in it; for few edits, as all activations are kept."""
        nothing = change.new_zeros(len(change))  # beside the change; logits may be on another device
        return self._total(
            change,
            *(
                sum((group.loss(change).to(change.device) for group in groups), nothing)
                for groups, _ in self._weighted_groups
            ),
        )

    def gradient(self, change: Tensor) -> tuple[Losses, Tensor]:
        """The losses under ``change`` [edits, d] and their gradient, in memory that does not grow with the edits."""
        leaf = change.detach().requires_grad_()
        losses = self._total(leaf, *(_summed(groups, leaf, weight) for groups, weight in self._weighted_groups))
        if self.weight_decay:
            losses.penalty.sum().backward()
        parts = {name: getattr(losses, name).detach() for name in ("nll", "kl", "further", "penalty", "total")}
        return Losses(**parts), leaf.grad if leaf.grad is not None else torch.zeros_like(leaf)

    def drop(self, done: Collection[int]) -> None:
        """Spend no more on edits that are ``done``; their losses mean nothing from now on."""
        gone = set(done)
        self._rewrites = [left for group in self._rewrites if isinstance(left := group.without(gone), Rewrites)]
        self._essences = [left for group in self._essences if isinstance(left := group.without(gone), Essences)]
        self._further = [left for group in self._further if (left := group.without(gone)) is not None]

    @property
    def _weighted_groups(self) -> tuple[tuple[Sequence[RowGroup], float], ...]:
        return (self._rewrites, 1.0), (self._essences, self.kl_weight), (self._further, 1.0)

    def _total(self, change: Tensor, nll: Tensor, kl: Tensor, further: Tensor) -> Losses:
        penalty = self.weight_decay * change.norm(dim=-1) / self.value.norm(dim=-1).square()
        total = nll + self.kl_weight * kl + further + penalty
        return Losses(nll=nll, kl=kl, further=further, penalty=penalty, total=total)


def _summed(groups: Iterable[RowGroup], leaf: Tensor, weight: float) -> Tensor:
    """The groups' losses [edits]; ``leaf`` gets each group's gradient, times ``weight``; its memory is given back."""
    total = leaf.new_zeros(len(leaf))
    for group in groups:
        loss = group.loss(leaf)
        (weight * loss.sum()).backward()
        total += loss.detach().to(total.device)
    return total
