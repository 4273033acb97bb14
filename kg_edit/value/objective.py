"""The loss whose minimum is an edit's value: GLAME's Eq. 7, which is ROME's (Meng et al. 2022, Eq. 4), for many edits.

With the change delta = m* - m of the value at the subject's last token, [d] an edit:

    L(delta) = L_p + kl_weight L_a + L_further + weight_decay |delta| / |m|^2

- L_p: mean over the contexts, and over the target's tokens, of -log P(o* | context, prompt) under delta.
- L_a: KL(P under delta || P) of the token after the subject in "{subject} is a".
- L_further: weighted rows of facts that follow from the edit, if a request brings any; a row's target is one text, or
  what a teacher expects at each token (soft targets, Hinton et al. 2015).
- The last term is ROME's norm penalty; GLAME has none.

`Request` says what an edit asks, `Objective` is the loss; `rows` has its parts, and puts the rows of all edits into
passes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prompts import Prompt
from kg_edit.value.rows import ForwardFactory, Part, Pass, SoftTarget, TargetRow, passes
from kg_edit.value.tail_forward import TailForward

FEWEST_TOKENS, MOST_TOKENS = 32, 512  # beyond 512 matrices gain nothing and leave the processor's caches


@dataclass(frozen=True, eq=False, kw_only=True)
class ExtraTarget:
    """A row besides an edit's rewrites: its target should become likely, or what a teacher expects there."""

    prompt: Prompt
    weight: float
    taught: SoftTarget | None = None


@dataclass(frozen=True, kw_only=True)
class Request:
    """What one edit asks of the model.

    ``rewrites``: the prompt with its target in every context, the bare context first. ``essence``: a prompt about the
    subject ("{} is a") whose next-token distribution at the subject's last token should stay. ``further``: other rows
    about the subject, each with its weight in the loss.
    """

    rewrites: tuple[Prompt, ...]
    essence: Prompt | None = None
    further: tuple[ExtraTarget, ...] = ()


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
    ) -> None:
        self.kl_weight, self.weight_decay = kl_weight, weight_decay
        self._passes = [
            Pass(some, forward(model, layer, [row.prompt for row in some]), edits=len(requests))
            for some in passes(list(_rows(requests)), tokens=tokens)
        ]
        self._keep_clean_states([request.rewrites[0] for request in requests])

    def _keep_clean_states(self, bare: Sequence[Prompt]) -> None:
        """Collect m and the keys from the groups; an edit's bare prompt is its first row."""
        value, key = dict[int, Tensor](), dict[int, Tensor]()
        keys: dict[int, list[Tensor]] = {edit: [] for edit in range(len(bare))}
        for one in self._passes:
            for place, row in enumerate(one.rows):
                if row.part == "nll":
                    keys[row.edit].append(one.forward.keys[place].float())
                if row.prompt is bare[row.edit]:
                    value[row.edit], key[row.edit] = one.forward.values[place].float(), keys[row.edit][-1]
        self.value = torch.stack([value[edit] for edit in range(len(bare))])
        self.bare_key = torch.stack([key[edit] for edit in range(len(bare))])
        self.mean_key = torch.stack([torch.stack(keys[edit]).mean(0) for edit in range(len(bare))])

    def __call__(self, change: Tensor) -> Losses:
        """The losses under ``change`` [edits, d], differentiable in it; for few edits, as all activations are kept."""
        parts = self._nothing(change)
        for one in self._passes:
            for part, loss in one.losses(change):
                parts[part] = parts[part] + loss.to(change.device)  # logits may be on another device
        return self._total(change, parts)

    def gradient(self, change: Tensor) -> tuple[Losses, Tensor]:
        """The losses under ``change`` [edits, d] and their gradient, in memory that does not grow with the edits.

        A pass's activations are freed before the next one runs.
        """
        leaf = change.detach().requires_grad_()
        parts = self._nothing(leaf)
        for one in self._passes:
            found = one.losses(leaf)
            torch.stack([self._weights[part] * loss.sum() for part, loss in found]).sum().backward()
            for part, loss in found:
                parts[part] += loss.detach().to(leaf.device)
        losses = self._total(leaf, parts)
        if self.weight_decay:
            losses.penalty.sum().backward()
        detached = {name: getattr(losses, name).detach() for name in ("nll", "kl", "further", "penalty", "total")}
        return Losses(**detached), leaf.grad if leaf.grad is not None else torch.zeros_like(leaf)

    @torch.no_grad()
    def greedy(self, change: Tensor, *, margin: float = 0.0) -> Tensor:
        """Whether all rewrites go on with the target, token by token, under ``change`` [edits, d]: [edits].

        With a ``margin`` each target token's logit is to be above the next one's by as much.
        """
        found = (wrong for one in self._passes for wrong in one.wrong(change, margin=margin))
        return sum((wrong.to(change.device) for wrong in found), change.new_zeros(len(change))) == 0

    def drop(self, done: Collection[int]) -> None:
        """Spend no more on edits that are ``done``; their losses mean nothing from now on."""
        gone = set(done)
        self._passes = [left for one in self._passes if (left := one.without(gone)) is not None]

    @property
    def _weights(self) -> Mapping[Part, float]:
        return {"nll": 1.0, "kl": self.kl_weight, "further": 1.0}

    def _nothing(self, change: Tensor) -> dict[Part, Tensor]:
        return {part: change.new_zeros(len(change)) for part in self._weights}

    def _total(self, change: Tensor, parts: Mapping[Part, Tensor]) -> Losses:
        nll, kl, further = (parts[part] for part in self._weights)
        penalty = self.weight_decay * change.norm(dim=-1) / self.value.norm(dim=-1).square()
        total = nll + self.kl_weight * kl + further + penalty
        return Losses(nll=nll, kl=kl, further=further, penalty=penalty, total=total)


def _rows(requests: Sequence[Request]) -> Iterator[TargetRow]:
    """All rows of all edits, each with its share in its edit's loss."""
    for edit, request in enumerate(requests):
        for prompt in request.rewrites:
            yield TargetRow(edit=edit, prompt=prompt, weight=1 / len(request.rewrites))
        if request.essence:
            yield TargetRow(edit=edit, prompt=request.essence, part="kl")
        for row in request.further:
            yield TargetRow(edit=edit, prompt=row.prompt, part="further", weight=row.weight, taught=row.taught)


def tokens_within(model: LanguageModel, layer: int, megabytes: float) -> int:
    """How many tokens a pass with gradient may have to stay within ``megabytes`` above the model.

    What a token leaves for the way back is `numbers_kept`.
    """
    inner = weight_matrix(model.down_projection(layer)).shape[1]
    vocabulary = model.model.get_output_embeddings().weight.shape[0]
    numbers = numbers_kept(model.width, inner, blocks=len(model.blocks) - layer, vocabulary=vocabulary)
    size = torch.finfo(model.model.dtype).bits // 8
    return int(tokens_at_once(size * numbers, limit=megabytes * 1e6))


def numbers_kept(width: int, inner: int, *, blocks: int, vocabulary: int) -> int:
    """What a token leaves for the way back: about 10 d + 5 d_ff numbers a block, and a vocabulary of logits."""
    return (10 * width + 5 * inner) * blocks + vocabulary


def tokens_at_once(bytes_a_token: float, *, limit: float) -> float:
    """How many tokens a pass may have to stay within ``limit`` bytes, 32 at least and 512 at most."""
    return max(FEWEST_TOKENS, min(MOST_TOKENS, limit / bytes_a_token))
