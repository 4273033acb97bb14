"""The loss whose minimum is an edit's value: GLAME's Eq. 7, which is ROME's (Meng et al. 2022, Eq. 4), for many edits.

For each edit, delta = m* - m [d] is the change of the value at the subject's last token:

    L(delta) = L_p + kl_weight L_a + L_further + weight_decay |delta| / |m|^2

- L_p: mean over the contexts, and over the target's tokens, of -log P(o* | context, prompt) under delta.
- L_a: KL(P under delta || P) of the token after the subject in "{subject} is a".
- L_further: weighted rows of facts that follow from the edit, if the request has any. The target of a row is a text, or
  a teacher's distribution at each token (soft targets, Hinton et al. 2015).
- The last term is ROME's norm penalty; GLAME has none.

`Request` has the prompts of an edit, `Objective` is the loss. The module `rows` computes the parts of the loss, and
groups the rows of all edits into forward passes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kg_edit.locate_then_edit.rows import ForwardFactory, Part, Pass, SoftTarget, TargetRow, passes
from kg_edit.locate_then_edit.tail_forward import TailForward
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prompts import Prompt

FEWEST_TOKENS, MOST_TOKENS = 32, 512  # larger passes are no faster, and no longer fit into the processor's caches


@dataclass(frozen=True, eq=False, kw_only=True)
class ExtraTarget:
    """A further row of an edit, besides its rewrites. It trains the prompt's target, or the soft target ``taught``."""

    prompt: Prompt
    weight: float
    taught: SoftTarget | None = None


@dataclass(frozen=True, kw_only=True)
class Request:
    """The prompts of one edit, as the objective uses them.

    Attributes:
        rewrites: the edit's prompt with its target in every context; the bare context is first.
        essence: a prompt about the subject ("{} is a"); its next-token distribution at the subject's last token should
            not change.
        further: other rows about the subject, each with its weight in the loss.
    """

    rewrites: tuple[Prompt, ...]
    essence: Prompt | None = None
    further: tuple[ExtraTarget, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Losses:
    """The parts of the loss, [edits] each.

    ``nll`` is L_p and ``kl`` is L_a, both without their weights. ``further`` is L_further, and ``penalty`` the norm
    penalty, both with their weights. ``total`` is the loss.
    """

    nll: Tensor
    kl: Tensor
    further: Tensor
    penalty: Tensor
    total: Tensor


class Objective:
    """The loss as a function of the change of each edit's value, m* - m, added at the subject's last token.

    ``value`` [edits, d] is m in the bare prompt, ``bare_key`` [edits, d_ff] the key there, and ``mean_key``
    [edits, d_ff] the mean key over the contexts (Eq. 8).
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
        """Collect m and the keys from the passes; ``bare`` has the bare prompt of each edit."""
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
        """The losses under ``change`` [edits, d], differentiable in it.

        Use it for few edits only, because it keeps all activations; `gradient` needs less memory.
        """
        parts = self._nothing(change)
        for one in self._passes:
            for part, loss in one.losses(change):
                parts[part] = parts[part] + loss.to(change.device)  # logits may be on another device
        return self._total(change, parts)

    def gradient(self, change: Tensor) -> tuple[Losses, Tensor]:
        """The losses under ``change`` [edits, d], and the gradient of the total losses, [edits, d].

        The memory does not grow with the number of edits: the activations of a pass are freed before the next pass.
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
        """Whether greedy decoding gives the target in all rewrites of an edit, under ``change`` [edits, d]: [edits].

        The logit of each target token must exceed that of the second likeliest token by at least ``margin``.
        """
        found = (wrong for one in self._passes for wrong in one.wrong(change, margin=margin))
        return sum((wrong.to(change.device) for wrong in found), change.new_zeros(len(change))) == 0

    def drop(self, done: Collection[int]) -> None:
        """Stop computing the edits whose indices are in ``done``; their losses are meaningless from now on."""
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
    """Yield the rows of all edits, each with its weight in its edit's loss."""
    for edit, request in enumerate(requests):
        for prompt in request.rewrites:
            yield TargetRow(edit=edit, prompt=prompt, weight=1 / len(request.rewrites))
        if request.essence:
            yield TargetRow(edit=edit, prompt=request.essence, part="kl")
        for row in request.further:
            yield TargetRow(edit=edit, prompt=row.prompt, part="further", weight=row.weight, taught=row.taught)


def tokens_within(model: LanguageModel, layer: int, megabytes: float) -> int:
    """The number of tokens of a pass with gradient that fit into ``megabytes``, the model itself not counted.

    `numbers_kept` estimates what each token keeps in memory for the backward pass.
    """
    inner = weight_matrix(model.down_projection(layer)).shape[1]
    vocabulary = model.model.get_output_embeddings().weight.shape[0]
    numbers = numbers_kept(model.width, inner, blocks=len(model.blocks) - layer, vocabulary=vocabulary)
    size = torch.finfo(model.model.dtype).bits // 8
    return int(tokens_at_once(size * numbers, limit=megabytes * 1e6))


def numbers_kept(width: int, inner: int, *, blocks: int, vocabulary: int) -> int:
    """How many numbers a token keeps for the backward pass: about 10 d + 5 d_ff per block, and its logits."""
    return (10 * width + 5 * inner) * blocks + vocabulary


def tokens_at_once(bytes_a_token: float, *, limit: float) -> float:
    """The number of tokens of a pass that fit into ``limit`` bytes, but at least 32 and at most 512."""
    return max(FEWEST_TOKENS, min(MOST_TOKENS, limit / bytes_a_token))
