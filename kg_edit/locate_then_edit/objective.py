"""The loss whose minimum is an edit's value: ROME's Eq. 4 (Meng et al. 2022), which is GLAME's Eq. 7, for many edits.

For each edit, delta = m* - m [d] is the change of the value at the subject's last token:

    L(delta) = L_p + kl_weight L_a + L_further + penalty(delta, m)

- L_p: mean over the contexts, and over the target's tokens, of -log P(o* | context, prompt) under delta.
- L_a: KL(P under delta || P) of the token after the subject in "{subject} is a".
- L_further: weighted rows of facts that follow from the edit, if the request has any. The target of a row is a text, or
  a teacher's distribution at each token (soft targets, Hinton et al. 2015).
- penalty: a function of delta and m, such as ROME's weight decay (`norm_penalty`); GLAME has none. In the place of m,
  a method may give it other states (`Objective.with_penalty`).

`Request` has the prompts of an edit. `Objective` computes the loss as it is written here, by whole forward passes
(`PlainForward`), or, given an engine, by `kg_edit.engine.fast_loss`: the same numbers, many times faster.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.engine.fast_loss import Engine, FastLoss, TargetRow
from kg_edit.models.first_token import readable_contexts
from kg_edit.models.hooks import change_output, index_for, record_last_call, tell_prompt_ends
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, left_pad
from kg_edit.models.sampling import BARE

Penalty = Callable[[Tensor, Tensor], Tensor]
"""(delta [edits, d], the states that delta is added to [edits, d]) -> a further term of each edit's loss, [edits]."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SoftTarget:
    """A teacher's distribution q at each target token of a row.

    ``tokens`` [target tokens, k] are the likeliest token ids, ``probabilities`` [target tokens, k] their probabilities,
    which sum to 1 for each target token.
    """

    tokens: Tensor
    probabilities: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class FurtherRow:
    """A further row of an edit, besides its rewrites. It trains the prompt's target, or its ``soft_target``."""

    prompt: Prompt
    weight: float
    soft_target: SoftTarget | None = None


@dataclass(frozen=True, kw_only=True)
class Request:
    """The prompts of one edit.

    Attributes:
        rewrites: the edit's prompt with its target in every context; the bare context is first.
        essence: a prompt about the subject ("{} is a"); its next-token distribution at the subject's last token should
            not change.
        further: other rows about the subject, each with its weight in the loss.
        notes: what the patch's record says about the prompts.
    """

    rewrites: tuple[Prompt, ...]
    essence: Prompt | None = None
    further: tuple[FurtherRow, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def of(cls, model: LanguageModel, edit: Edit, contexts: Sequence[str]) -> Self:
        """Return the prompts of an edit: its prompt with the target in every context, and "{subject} is a".

        "{subject} is a" is in the edit's language.

        A line break is put before a prompt if the model would not read its subject otherwise (`models.first_token`). In
        chat form, everything before the target is a user's turn. An edit in both forms has all plain rows, then all
        chat rows.

        Args:
            model: the language model, for its tokenizer.
            edit: the fact (s, r, o*).
            contexts: templates around the prompt; the first one is the bare ``{}``.
        """
        rewrites = list[Prompt]()
        for chat in edit.forms:
            rewrites += _encode_in_contexts(
                model, edit.prompt, contexts, subject=edit.subject, target=edit.target_new, chat=chat
            )
        (essence,) = _encode_in_contexts(
            model, edit.about_subject, [BARE], subject=edit.subject, target=None, chat=edit.asks_in_chat
        )
        return cls(rewrites=tuple(rewrites), essence=essence)

    @property
    def prompts(self) -> list[Prompt]:
        """All prompts: the rewrites, the essence prompt, the further rows."""
        prompts = list(self.rewrites)
        if self.essence is not None:
            prompts.append(self.essence)
        for row in self.further:
            prompts.append(row.prompt)
        return prompts


def _encode_in_contexts(
    model: LanguageModel, template: str, contexts: Sequence[str], *, subject: str, target: str | None, chat: bool
) -> list[Prompt]:
    """Encode a prompt in each context, after a line break where the model needs one to read the subject."""
    alone = model.encode_fact(template, subject=subject, target=target, chat=chat)
    prompts = []
    for context in readable_contexts(model, alone, contexts):
        prompts.append(model.encode_fact(template, subject=subject, target=target, chat=chat, context=context))
    return prompts


@dataclass(frozen=True, eq=False, kw_only=True)
class Losses:
    """The terms of each edit's loss, [edits] each.

    Attributes:
        nll: L_p.
        kl: L_a, without its weight.
        further: L_further.
        penalty: the penalty.
        total: the loss.
        missed: how many target tokens are not predicted by the margin of `Objective.gradient`; None: not counted.
    """

    nll: Tensor
    kl: Tensor
    further: Tensor
    penalty: Tensor
    total: Tensor
    missed: Tensor | None = None

    def numbers(self) -> dict[str, list[float]]:
        """Return "nll", "kl", "total", and "missed" if that is counted: of each a list with one number per edit.

        All are read by one transfer from the device.
        """
        terms = {"nll": self.nll, "kl": self.kl, "total": self.total}
        if self.missed is not None:
            terms["missed"] = self.missed
        rows = torch.stack(list(terms.values())).tolist()
        return dict(zip(terms, rows, strict=True))


def norm_penalty(change: Tensor, value: Tensor, *, weight: float) -> Tensor:
    """Return the weight decay of ROME and MEMIT, weight |delta| / |m|^2, [edits], of delta and m [edits, d]."""
    penalty: Tensor = weight * change.norm(dim=-1) / value.norm(dim=-1).square()
    return penalty


class Objective:
    """The loss as a function of the change of each edit's value, delta = m* - m, added at the subject's last token.

    Attributes:
        kl_weight: the weight of L_a.
        penalty: a further term of each edit's loss; None: no such term.
        value: m in the bare prompt, [edits, d].
        bare_key: the key of the bare prompt, [edits, d_ff].
        mean_key: k*, the mean key over the contexts, [edits, d_ff] (ROME's Eq. 3, GLAME's Eq. 8).
    """

    def __init__(
        self,
        model: LanguageModel,
        layer: int,
        requests: Sequence[Request],
        *,
        kl_weight: float,
        penalty: Penalty | None = None,
        engine: Engine | None = None,
    ) -> None:
        """Run all prompts once without a change, for m, the keys and the distribution that L_a compares with.

        Args:
            model: the language model; the loss uses it in its present state.
            layer: the edited block, 0-based.
            requests: the prompts of each edit.
            kl_weight: the weight of L_a.
            penalty: a further term, computed from delta and m (`states`); None: no such term.
            engine: what computes the same faster (`kg_edit.engine.fast_loss.find_engine`); None: the plain way.
        """
        self.kl_weight = kl_weight
        self.penalty = penalty
        self._given_states: Tensor | None = None  # by `with_penalty`
        self._fast: FastLoss | None = None
        self._plain = list[PlainLoss]()
        if engine is not None:
            rows = list[TargetRow]()
            for edit, request in enumerate(requests):
                rows += _target_rows(edit, request)
            fast = FastLoss(model, layer, rows, edits=len(requests), kl_weight=kl_weight, engine=engine)
            self._fast = fast
            self.value = fast.value
            self.bare_key = fast.bare_key
            self.mean_key = fast.mean_key
        else:
            self._plain = [PlainLoss(model, layer, request) for request in requests]
            self.value = torch.stack([loss.value for loss in self._plain])
            self.bare_key = torch.stack([loss.bare_key for loss in self._plain])
            self.mean_key = torch.stack([loss.mean_key for loss in self._plain])

    def with_penalty(self, penalty: Penalty, states: Tensor) -> Objective:
        """Return the same loss with ``penalty(delta, states)``, where ``states`` are [edits, d].

        A method uses it for a penalty that needs this loss's `value` or keys, or other states than m. Both losses
        share one engine, so `drop` on one of them drops the edits of both.
        """
        loss = copy(self)
        loss.penalty = penalty
        loss._given_states = states
        return loss

    @property
    def states(self) -> Tensor:
        """What the penalty reads beside delta, [edits, d]: m, or the states that `with_penalty` was given."""
        if self._given_states is None:
            return self.value
        return self._given_states

    def __call__(self, change: Tensor) -> Losses:
        """Return the losses under ``change`` [edits, d], differentiable in it.

        Use it for few edits only, because it keeps all activations; `gradient` needs less memory.
        """
        if self._fast is not None:
            parts = self._fast.parts(change)
        else:
            by_edit = [loss.parts(delta) for loss, delta in zip(self._plain, change, strict=True)]  # [3] each
            parts = list(torch.stack(by_edit, 1))  # L_p, L_a, L_further: [edits] each
        return self._add_up(parts, self._penalty_of(change))

    def gradient(self, change: Tensor, *, margin: float | None = None) -> tuple[Losses, Tensor]:
        """Return the losses under ``change`` [edits, d], and the gradient of the total losses, [edits, d].

        Args:
            change: delta of each edit.
            margin: also count the target tokens of each edit's rewrites whose logit does not exceed that of every
                other token by at least this margin (``missed``); at 0, greedy decoding gives the target in all rewrites
                of an edit that misses none. None: don't count.
        """
        if self._fast is not None:
            parts, gradient = self._fast.gradient(change, margin=margin)
        else:
            parts, gradient = self._plain_gradient(change, margin)
        # The parts and their gradient are without the penalty, which is added here.
        leaf = change.detach().requires_grad_()
        penalty = self._penalty_of(leaf)
        if penalty.requires_grad:  # without a penalty, it is a constant 0
            gradient = gradient + torch.autograd.grad(penalty, leaf, torch.ones_like(penalty))[0]
        return self._add_up(parts, penalty.detach()), gradient

    def _plain_gradient(self, change: Tensor, margin: float | None) -> tuple[list[Tensor], Tensor]:
        """Return a list of the parts, [edits] each, and the gradient, [edits, d]; compute one edit after the other.

        The parts are L_p, L_a, L_further, and with a ``margin`` the number of missed tokens.
        """
        parts_by_edit = list[Tensor]()
        gradients = list[Tensor]()
        for loss, delta in zip(self._plain, change, strict=True):
            leaf = delta.detach().requires_grad_()  # [d]
            edit_parts = loss.parts(leaf, margin=margin)  # [3], or with a margin [4]
            nll, kl, further = edit_parts[:3]
            (gradient,) = torch.autograd.grad(nll + self.kl_weight * kl + further, leaf)  # [d]
            gradients.append(gradient)
            parts_by_edit.append(edit_parts.detach())
        parts = list(torch.stack(parts_by_edit, 1))  # 3 or 4 tensors [edits]
        return parts, torch.stack(gradients)

    def _penalty_of(self, change: Tensor) -> Tensor:
        """Return the penalty of each edit, [edits]."""
        if self.penalty is None:
            return change.new_zeros(len(change))
        return self.penalty(change, self.states)

    def _add_up(self, parts: list[Tensor], penalty: Tensor) -> Losses:
        """Return the terms of the loss. ``parts``: L_p, L_a, L_further, and the missed tokens if they are counted."""
        nll, kl, further = parts[:3]  # [edits] each
        missed = None
        if len(parts) > 3:
            missed = parts[3]
        # L(delta) = L_p + kl_weight L_a + L_further + penalty(delta, m), for each edit
        total = nll + self.kl_weight * kl + further + penalty
        return Losses(nll=nll, kl=kl, further=further, penalty=penalty, total=total, missed=missed)

    def drop(self, finished: Collection[int]) -> None:
        """Allow the engine to leave out the edits in ``finished``; their losses are meaningless from now on."""
        if self._fast is not None:
            self._fast.drop(finished)


class PlainLoss:
    """L_p, L_a and L_further of one edit, by a whole forward pass over all its prompts at each call.

    Attributes:
        value: m in the bare prompt, [d].
        bare_key: the key of the bare prompt, [d_ff].
        mean_key: k*, the mean key over the contexts, [d_ff].
    """

    def __init__(self, model: LanguageModel, layer: int, request: Request) -> None:
        self._request = request
        self._forward = PlainForward(model, layer, request.prompts)
        keys = self._forward.keys.float()  # [prompts, d_ff]
        self.value = self._forward.values[0].float()
        self.bare_key = keys[0]
        self.mean_key = keys[: len(request.rewrites)].mean(0)
        # log P after the essence prompt without a change, [vocabulary]; None: the request has no such prompt
        self._clean_log_p: Tensor | None = None
        if request.essence is not None:
            with torch.no_grad():
                _, self._clean_log_p, _ = self._split(self._log_probabilities(None))

    def parts(self, delta: Tensor, *, margin: float | None = None) -> Tensor:
        """Return L_p, L_a and L_further under ``delta`` [d], with a margin also the missed tokens, [3 or 4]."""
        request = self._request
        rewrites_log_p, essence_log_p, further_log_p = self._split(self._log_probabilities(delta))

        # L_p: the mean over the contexts; in each context, the mean over the tokens of o* of -log P
        nlls = [_target_nll(prompt, log_p) for prompt, log_p in zip(request.rewrites, rewrites_log_p, strict=True)]
        nll = torch.stack(nlls).mean()

        # L_a: KL(P under delta || P) = sum p (log p - log p_clean)
        kl = nll.new_zeros(())
        if essence_log_p is not None and self._clean_log_p is not None:
            kl = (essence_log_p.exp() * (essence_log_p - self._clean_log_p)).sum()

        # L_further: the weighted sum over the further rows
        further = nll.new_zeros(())
        for row, log_p in zip(request.further, further_log_p, strict=True):
            further = further + row.weight * _further_loss(row, log_p)

        parts = [nll, kl, further]
        if margin is not None:
            missed = nll.new_zeros(())
            for prompt, log_p in zip(request.rewrites, rewrites_log_p, strict=True):
                missed += _count_missed(prompt, log_p.detach(), margin)
            parts.append(missed)
        return torch.stack(parts).to(delta.device)

    def _split(self, log_p: list[Tensor]) -> tuple[list[Tensor], Tensor | None, list[Tensor]]:
        """Split log P of all prompts (`Request.prompts`) into that of the rewrites, the essence and the further rows.

        That of the essence prompt is [vocabulary], or None without such a prompt; of any other prompt it is
        [target tokens, vocabulary].
        """
        count = len(self._request.rewrites)
        if self._request.essence is None:
            return log_p[:count], None, log_p[count:]
        essence = log_p[count][0]  # it is read at one token
        return log_p[:count], essence, log_p[count + 1 :]

    def _log_probabilities(self, delta: Tensor | None) -> list[Tensor]:
        """Return log P at the positions that each prompt's target is read from, [target tokens, vocabulary] each."""
        prompts = self._request.prompts
        change = None
        if delta is not None:
            change = delta.expand(len(prompts), -1)  # the same change in every prompt
        log_p = self._forward.logits(change).float().log_softmax(-1)  # [reads, vocabulary]
        read_counts = [len(_find_reads(prompt)) for prompt in prompts]
        return list(log_p.split(read_counts))


def _target_nll(prompt: Prompt, log_p: Tensor) -> Tensor:
    """Return the mean of -log P over a prompt's target tokens, from ``log_p`` [target tokens, vocabulary]."""
    targets = torch.tensor(prompt.target_ids, device=log_p.device)
    return -log_p.gather(-1, targets[:, None]).mean()


def _further_loss(row: FurtherRow, log_p: Tensor) -> Tensor:
    """Return the loss of a further row, without its weight, from ``log_p`` [target tokens, vocabulary].

    That is -log P(target) or, with a teacher's q, the cross-entropy -sum q log p, whose gradient is that of KL(q || p),
    because q is constant (arXiv 1503.02531).
    """
    if row.soft_target is None:
        return _target_nll(row.prompt, log_p)
    q = row.soft_target.probabilities.to(log_p.device)  # [target tokens, k]
    tokens = row.soft_target.tokens.to(log_p.device)
    return -(q * log_p.gather(-1, tokens)).sum(-1).mean()


def _count_missed(prompt: Prompt, log_p: Tensor, margin: float) -> Tensor:
    """Count the target tokens that are not the likeliest by ``margin``, from ``log_p`` [target tokens, vocabulary]."""
    targets = torch.tensor(prompt.target_ids, device=log_p.device)
    best, second = log_p.topk(2, dim=-1).values.unbind(-1)
    likeliest = log_p.argmax(-1)
    missed: Tensor = ((likeliest != targets) | (best - second < margin)).sum()
    return missed


class PlainForward:
    """Runs prompts through the whole model, with a change at the subject's last token in block ``layer``.

    A prompt may name another token for the change (`Prompt.edited_at`). Then "the subject's last token" means that one.

    Attributes:
        keys: the input of the down-projection at that token, in the model without the change, [prompts, d_ff].
        values: its output there, [prompts, d].
    """

    def __init__(self, model: LanguageModel, layer: int, prompts: Sequence[Prompt]) -> None:
        self._model = model
        self._module = model.down_projection(layer)
        # The model may have a patch that acts where a prompt ends, such as GRACE's. `_forward` tells it at which tokens
        # that is: a prompt ends right before its target.
        ends = [prompt.target_start - 1 for prompt in prompts]
        self._batch = left_pad([prompt.ids for prompt in prompts], device=model.device, ends=ends)
        count, length = self._batch.ids.shape
        subjects = list[tuple[int, int]]()  # row and position of each subject's last token
        reads = list[tuple[int, int]]()  # row and position of each logit that the loss reads
        for row, prompt in enumerate(prompts):
            pad = length - len(prompt.ids)
            subjects.append((row, pad + prompt.edited_at))
            reads += [(row, pad + position) for position in _find_reads(prompt)]
        # Both become a pair of index tensors (rows, positions), as in logits[rows, positions].
        self._subjects = tuple(torch.tensor(subjects, device=model.device).unbind(1))  # [prompts] each
        self._reads = tuple(torch.tensor(reads, device=model.device).unbind(1))  # [reads] each

        with torch.no_grad(), record_last_call(self._module) as call:
            self._forward()
        keys = call.input.reshape(count, length, -1)  # some models flatten rows and tokens
        values = call.output.reshape(count, length, -1)
        self.keys = keys[index_for(self._subjects, keys)]
        self.values = values[index_for(self._subjects, values)]

    def logits(self, change: Tensor | None = None) -> Tensor:
        """Return the logits [reads, vocabulary] at the positions that the loss reads.

        The positions, prompt after prompt: those that predict a target token; for a prompt without target, the
        subject's last token. ``change`` [prompts, d] is added to the down-projection's output at the subject's last
        token.
        """
        if change is None:
            logits = self._forward()
            return logits[index_for(self._reads, logits)]
        delta = change  # not None from here on, also in `add_change`

        def add_change(output: Tensor) -> Tensor:
            addend = delta.new_zeros(*self._batch.ids.shape, output.shape[-1])  # [prompts, tokens, d]
            # Row i of delta goes to row i, at its subject's last token.
            addend = addend.index_put(index_for(self._subjects, delta), delta)
            return output + addend.to(output).reshape(output.shape)

        with change_output(self._module, add_change):
            logits = self._forward()
        return logits[index_for(self._reads, logits)]

    def _forward(self) -> Tensor:
        """Return the logits of the whole batch, [prompts, tokens, vocabulary]."""
        batch = self._batch
        with tell_prompt_ends(self._model, batch.ends):
            output = self._model.model(
                input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
            )
        logits: Tensor = output.logits
        return logits


def _find_reads(prompt: Prompt) -> Sequence[int]:
    """Return the positions that predict a target token; in a prompt without target, the subject's last token."""
    if prompt.target_ids:
        return range(prompt.target_start - 1, len(prompt.ids) - 1)
    return [prompt.edited_at]


def _target_rows(edit: int, request: Request) -> Iterator[TargetRow]:
    """Yield the rows of an edit as the engine reads them, each with its weight in its part of the edit's loss.

    The weight of the essence row is 1: the engine itself multiplies L_a by ``kl_weight``.
    """
    for prompt in request.rewrites:
        yield TargetRow(edit=edit, prompt=prompt, weight=1 / len(request.rewrites))
    if request.essence is not None:
        yield TargetRow(edit=edit, prompt=request.essence, part="kl")
    for row in request.further:
        soft = None
        if row.soft_target is not None:
            soft = (row.soft_target.tokens, row.soft_target.probabilities)
        yield TargetRow(edit=edit, prompt=row.prompt, part="further", weight=row.weight, soft_target=soft)
