"""GLAME's Eq. 7, ROME's loss too: L = L_p + kl_weight * L_a (+ ROME's norm penalty), for many edits at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kg_edit.language_model import LanguageModel
from kg_edit.prompts import Prompt
from kg_edit.tail_forward import TailForward


@dataclass(frozen=True, kw_only=True)
class Request:
    """What one edit asks of the model.

    ``rewrites``: the prompt with its target in every context, the bare context first. ``essence``: a prompt about the
    subject ("{} is a") whose next-token distribution at the subject's last token should stay.
    """

    rewrites: tuple[Prompt, ...]
    essence: Prompt


@dataclass(frozen=True, kw_only=True)
class Losses:
    """The loss's parts, one number an edit: [edits] each. ``nll`` is L_p, ``kl`` is L_a, both unweighted."""

    nll: Tensor
    kl: Tensor
    penalty: Tensor
    total: Tensor


class Forward(Protocol):
    """How logits are computed: `TailForward`, or its oracle `PlainForward`."""

    keys: Tensor
    values: Tensor

    def logits(self, change: Tensor | None = None) -> Tensor:
        """Logits [reads, vocabulary] under ``change`` [rows, d]."""


class ForwardFactory(Protocol):
    """Builds a `Forward`."""

    def __call__(self, model: LanguageModel, layer: int, rows: Sequence[Prompt], /) -> Forward:
        """The forward for ``rows`` with the change in ``layer``."""


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
    ) -> None:
        self.kl_weight, self.weight_decay = kl_weight, weight_decay
        rows = [row for request in requests for row in (*request.rewrites, request.essence)]
        sizes = [len(request.rewrites) + 1 for request in requests]
        self._forward = forward(model, layer, rows)
        self._edit_of_row = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        self._edits = len(requests)
        self._index_reads(requests, rows)
        keys, first = self._forward.keys.split(sizes), torch.tensor([0, *sizes[:-1]]).cumsum(0)
        self.value = self._forward.values[first].float()
        self.bare_key = torch.stack([key[0] for key in keys]).float()
        self.mean_key = torch.stack([key[:-1].float().mean(0) for key in keys])

    def _index_reads(self, requests: Sequence[Request], rows: Sequence[Prompt]) -> None:
        """For each logit that is read: its edit, its target token, and its weight in that edit's mean of means."""
        contexts = [len(request.rewrites) for request in requests]
        edit: list[int] = []
        target: list[int] = []
        weight: list[float] = []
        essence: list[bool] = []
        for row, owner in zip(rows, self._edit_of_row.tolist(), strict=True):
            tokens = row.target_ids or (0,)
            edit += [owner] * len(tokens)
            target += tokens
            essence += [not row.target_ids] * len(tokens)
            weight += [1 / (len(tokens) * contexts[owner])] * len(tokens)
        self._essence = torch.tensor(essence)
        self._read_edit = torch.tensor(edit)[~self._essence]
        self._targets = torch.tensor(target)[~self._essence]
        self._weights = torch.tensor(weight)[~self._essence]
        with torch.no_grad():
            self._clean = _log_probabilities(self._forward.logits()[self._essence])

    def __call__(self, change: Tensor) -> Losses:
        """The losses under ``change`` [edits, d], differentiable in it."""
        logits = self._forward.logits(change[self._edit_of_row])
        nll = self._nll(_log_probabilities(logits[~self._essence]))
        kl = self._kl(_log_probabilities(logits[self._essence]))
        penalty = self.weight_decay * change.norm(dim=-1) / self.value.norm(dim=-1).square()
        return Losses(nll=nll, kl=kl, penalty=penalty, total=nll + self.kl_weight * kl + penalty)

    def _nll(self, log_p: Tensor) -> Tensor:
        """Mean over an edit's rows of the mean over a row's target tokens of -log p."""
        token = -log_p.gather(-1, self._targets.to(log_p.device)[:, None])[:, 0]
        weighted = token * self._weights.to(token.device)
        return weighted.new_zeros(self._edits).index_add(0, self._read_edit.to(token.device), weighted)

    def _kl(self, edited: Tensor) -> Tensor:
        """KL(edited || unedited) of the next-token distribution at the subject's last token of the essence prompt."""
        return (edited.exp() * (edited - self._clean)).sum(-1)


def _log_probabilities(logits: Tensor) -> Tensor:
    return logits.float().log_softmax(-1)
