"""The loss whose minimum is an edit's value: ROME's Eq. 4 (Meng et al. 2022), which is GLAME's Eq. 7, for many edits.

For each edit, delta = m* - m [d] is the change of the value at the subject's last token:

    L(delta) = L_p + kl_weight L_a + L_further + penalty(delta, m)

- L_p: mean over the contexts, and over the target's tokens, of -log P(o* | context, prompt) under delta.
- L_a: KL(P under delta || P) of the token after the subject in "{subject} is a".
- L_further: weighted rows of facts that follow from the edit, if the request has any. The target of a row is a text, or
  a teacher's distribution at each token (soft targets, Hinton et al. 2015).
- penalty: a function of delta and m, such as ROME's weight decay (`norm_penalty`); GLAME has none.

`Request` has the prompts of an edit, `Objective` is the loss. All prompts of all edits are rows of token ids, which run
together in few forward passes (`kg_edit.engine.passes`). A forward pass is a `TailForward`, which runs only
what a change can reach, or a `WholeForward` for recurrent models; `PlainForward` is the reference of the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Protocol, Self, TypeVar

import torch
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.engine.cuda_graphs import Repeated
from kg_edit.engine.passes import PassLimit, padded_tokens, pass_limit, passes
from kg_edit.engine.prefix_cache import SharedContexts
from kg_edit.engine.tail_forward import TailForward, tail
from kg_edit.engine.whole_forward import WholeForward
from kg_edit.errors import is_memory_error
from kg_edit.models.first_token import readable
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt
from kg_edit.models.sampling import BARE

_ESSENCE = "{} is a"
Part = Literal["nll", "kl", "further"]
Result = TypeVar("Result")
Penalty = Callable[[Tensor, Tensor], Tensor]
"""(delta [edits, d], m [edits, d]) -> a further term of each edit's loss, [edits]."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SoftTarget:
    """A teacher's distribution q at each target token of a row.

    ``tokens`` [target tokens, k] are the likeliest token ids, ``probabilities`` [target tokens, k] their probabilities,
    which sum to 1 for each target token.
    """

    tokens: Tensor
    probabilities: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class ExtraTarget:
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
    """

    rewrites: tuple[Prompt, ...]
    essence: Prompt | None = None
    further: tuple[ExtraTarget, ...] = ()

    @classmethod
    def of(cls, model: LanguageModel, edit: Edit, contexts: Sequence[str]) -> Self:
        """Return the prompts of an edit: its prompt with the target in every context, and "{subject} is a".

        A line break is put before a prompt if the model would not read its subject otherwise (`models.first_token`). In
        chat form, everything before the target is a user's turn. An edit in both forms has all plain rows, then all
        chat rows.

        Args:
            model: the language model, for its tokenizer.
            edit: the fact (s, r, o*).
            contexts: templates around the prompt; the first one is the bare ``{}``.

        Raises:
            PromptError: the subject or the target can't be located in the tokens.
        """

        def rows(template: str, around: Sequence[str], chat: bool, target: str | None = None) -> tuple[Prompt, ...]:
            encoded = partial(model.encode_fact, template, subject=edit.subject, target=target, chat=chat)
            return tuple(encoded(context=context) for context in readable(model, encoded(), around))

        (essence,) = rows(_ESSENCE, (BARE,), edit.forms[0])
        rewrites = (row for chat in edit.forms for row in rows(edit.prompt, contexts, chat, edit.target_new))
        return cls(rewrites=tuple(rewrites), essence=essence)


@dataclass(frozen=True, eq=False)
class Losses:
    """The ``terms`` of the loss, [5 or 6, edits]: one tensor, so that they are read by one transfer.

    L_p and L_a without their weights; L_further and the penalty with theirs; the loss. If it was asked for, also the
    number of target tokens that are not predicted by the margin (`Objective.gradient`).
    """

    terms: Tensor

    @property
    def nll(self) -> Tensor:
        """L_p, [edits]."""
        return self.terms[0]

    @property
    def kl(self) -> Tensor:
        """L_a, [edits]."""
        return self.terms[1]

    @property
    def further(self) -> Tensor:
        """L_further, [edits]."""
        return self.terms[2]

    @property
    def penalty(self) -> Tensor:
        """The penalty, [edits]."""
        return self.terms[3]

    @property
    def total(self) -> Tensor:
        """The loss, [edits]."""
        return self.terms[4]

    @property
    def missed(self) -> Tensor | None:
        """How many target tokens are not predicted by the margin, [edits]; None if that was not asked for."""
        return self.terms[5] if len(self.terms) > 5 else None

    def numbers(self) -> list[list[float]]:
        """Return nll, kl, further, penalty, total, and missed if there, each a list of one number an edit."""
        numbers: list[list[float]] = self.terms.tolist()
        return numbers


def norm_penalty(change: Tensor, value: Tensor, *, weight: float) -> Tensor:
    """Return the weight decay of ROME and MEMIT, weight |delta| / |m|^2, [edits], of delta and m [edits, d]."""
    penalty: Tensor = weight * change.norm(dim=-1) / value.norm(dim=-1).square()
    return penalty


class Forward(Protocol):
    """Computes the logits of rows of prompts under a change: `TailForward` or `WholeForward`.

    ``keys`` [rows, d_ff] and ``values`` [rows, d] are the input and output of the edited down-projection at the
    subject's last token, in the model without the change.
    """

    keys: Tensor
    values: Tensor

    def logits(self, change: Tensor | None = None) -> Tensor:
        """Return the logits [reads, vocabulary] under ``change`` [rows, d], at the positions that the loss reads."""

    def subset(self, rows: Sequence[int]) -> Forward:
        """Return the forward of only the rows with these indices."""


class ForwardFactory(Protocol):
    """Makes a `Forward` for rows of prompts, with the change in block ``layer``."""

    def __call__(self, model: LanguageModel, layer: int, rows: Sequence[Prompt], /) -> Forward:
        """Return the forward for ``rows``."""


def forward_for(
    model: LanguageModel, contexts: Sequence[str], *, tail: type[TailForward] = TailForward
) -> ForwardFactory:
    """Return the forward pass for rows that begin with ``contexts``: ``tail``, or `WholeForward` for a recurrent model.

    The contexts' keys and values are computed here, once for all rows.
    """
    if model.is_recurrent and tail is TailForward:
        return WholeForward
    return partial(tail, contexts=SharedContexts.of(model, contexts))


class Objective:
    """The loss as a function of the change of each edit's value, delta = m* - m, added at the subject's last token.

    Attributes:
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
        forward: ForwardFactory | None = None,
        limit: PassLimit | None = None,
    ) -> None:
        """Run all prompts once without a change, for m, the keys and the distribution that L_a compares with.

        Args:
            model: the language model; the loss uses it in its present state.
            layer: the edited block, 0-based.
            requests: the prompts of each edit.
            kl_weight: the weight of L_a.
            penalty: a further term, computed from delta and m; None: no such term.
            forward: how the logits are computed; None: as `forward_for` says, without contexts.
            limit: the most tokens of a forward pass; None: what the model's device allows.
        """
        self.kl_weight, self.penalty = kl_weight, penalty
        self._model, self._layer, self._edits = model, layer, len(requests)
        self._forward = forward or forward_for(model, ())
        rows = (row for edit, request in enumerate(requests) for row in _target_rows(edit, request))
        self._rows = [replace(row, runs_whole=model.is_recurrent) for row in rows]
        self._limit, self._passes = limit or pass_limit(model, layer), list[Pass]()
        devices = {parameter.device for parameter in model.model.parameters()}
        self._captures = len(devices) == 1 and devices.pop().type == "cuda"
        self._step = Repeated(capture=self._captures)  # the present passes' gradient
        self.value, self.bare_key, self.mean_key = self._within_memory(partial(self._unchanged, requests))

    def _unchanged(self, requests: Sequence[Request]) -> tuple[Tensor, Tensor, Tensor]:
        """m and k of the bare prompts, and the mean of k over the rewrites; a request's rows may be in many passes."""
        keys: list[list[Tensor]] = [[] for _ in requests]
        bare: dict[int, tuple[Tensor, Tensor]] = {}
        for p in self._passes:
            for row, key, value in zip(p.rows, p.forward.keys.float(), p.forward.values.float(), strict=True):
                if row.part == "nll":
                    keys[row.edit].append(key)
                if row.prompt is requests[row.edit].rewrites[0]:
                    bare[row.edit] = (value, key)
        values, bare_keys = zip(*(bare[edit] for edit in range(len(requests))), strict=True)
        return torch.stack(values), torch.stack(bare_keys), torch.stack([torch.stack(rows).mean(0) for rows in keys])

    def _within_memory(self, work: Callable[[], Result]) -> Result:
        """Return ``work()``, which runs the passes; if memory runs out, do it again with passes of half the tokens."""
        while True:
            try:
                if not self._passes:
                    self._passes = [
                        Pass(
                            rows,
                            self._forward(self._model, self._layer, [row.prompt for row in rows]),
                            self._edits,
                            head=self._model.model.get_output_embeddings().weight.device,
                        )
                        for rows in passes(self._rows, self._limit)
                    ]
                return work()
            except (RuntimeError, MemoryError) as error:
                tried = list(passes(self._rows, self._limit))
                if not is_memory_error(error) or max(map(len, tried)) == 1:
                    raise
            # After the handler, as the error keeps the tensors of the failed pass.
            self._passes, self._step = [], Repeated(capture=self._captures)
            tokens = min(self._limit.tokens, max(map(padded_tokens, tried)))  # a long row may have more than the limit
            self._limit = replace(self._limit, tokens=tokens / 2)

    def __call__(self, change: Tensor) -> Losses:
        """Return the losses under ``change`` [edits, d], differentiable in it.

        Use it for few edits only, because it keeps all activations; `gradient` needs less memory.
        """

        def losses() -> Losses:
            parts = _no_losses(change)
            for pass_ in self._passes:
                for part, loss in pass_.losses(pass_.logits(change)):
                    parts[part] = parts[part] + loss.to(change.device)  # logits may be on another device
            penalty = self.penalty(change, self.value) if self.penalty else change.new_zeros(len(change))
            return Losses(self._terms(parts, penalty))

        return self._within_memory(losses)

    def gradient(self, change: Tensor, *, margin: float | None = None) -> tuple[Losses, Tensor]:
        """Return the losses under ``change`` [edits, d], and the gradient of the total losses, [edits, d].

        The memory does not grow with the number of edits: the activations of a pass are freed before the next pass.

        Args:
            change: delta of each edit.
            margin: also count the target tokens of each edit's rewrites whose logit does not exceed that of every
                other token by at least this margin (``missed``); at 0, greedy decoding gives the target in all rewrites
                of an edit that misses none. None: don't count.
        """

        # One graph serves the whole descent, so it always counts. The margin is filled in on the device.
        threshold = 0.0 if margin is None and self._captures else margin
        args = (change,) if threshold is None else (change, torch.full((), threshold, device=change.device))
        terms, gradient = self._within_memory(lambda: self._step(self._gradient, *args))
        return Losses(terms[:5] if margin is None else terms), gradient

    def _gradient(self, change: Tensor, margin: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The terms of the loss [5 or 6, edits], as in `Losses`, and the gradient; nothing is read back to the host."""
        leaf = change.detach().requires_grad_()
        missed = None if margin is None else leaf.new_zeros(len(leaf))
        parts, weights = _no_losses(leaf), {"nll": 1.0, "kl": self.kl_weight, "further": 1.0}
        for pass_ in self._passes:
            # The gradient of this pass's share of the loss; it adds up in ``leaf.grad``.
            logits = pass_.logits(leaf)
            losses = pass_.losses(logits)
            torch.autograd.backward(
                [loss for _, loss in losses], [torch.full_like(loss, weights[part]) for part, loss in losses]
            )
            for part, loss in losses:
                parts[part] = parts[part] + loss.detach().to(leaf.device)
            if missed is not None and margin is not None:
                for wrong in pass_.missed(logits.detach(), margin):
                    missed += wrong.to(leaf.device)
        penalty = self.penalty(leaf, self.value) if self.penalty else leaf.new_zeros(len(leaf))
        if penalty.requires_grad:
            penalty.backward(torch.ones_like(penalty))
        gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        return self._terms(parts, penalty.detach(), missed), gradient

    def _terms(self, parts: dict[Part, Tensor], penalty: Tensor, missed: Tensor | None = None) -> Tensor:
        nll, kl, further = parts["nll"], parts["kl"], parts["further"]
        # L(delta) = L_p + kl_weight L_a + L_further + penalty(delta, m), for each edit
        total = nll + self.kl_weight * kl + further + penalty
        return torch.stack([nll, kl, further, penalty, total, *([] if missed is None else [missed])])

    def drop(self, finished: Collection[int]) -> None:
        """Stop computing the edits whose indices are in ``finished``; their losses are meaningless from now on."""
        gone = set(finished)
        self._rows = [row for row in self._rows if row.edit not in gone]
        # A pass is built again without them only if that saves half of its rows.
        rest = [remaining for pass_ in self._passes if (remaining := pass_.without(gone)) is not None]
        if rest != self._passes:
            self._passes, self._step = rest, Repeated(capture=self._captures)


def _no_losses(change: Tensor) -> dict[Part, Tensor]:
    parts: tuple[Part, ...] = ("nll", "kl", "further")
    return dict.fromkeys(parts, change.new_zeros(len(change)))


@dataclass(frozen=True, kw_only=True)
class TargetRow:
    """A prompt of the edit with index ``edit``, with its ``weight`` in one ``part`` of that edit's loss.

    ``soft_target``: None if the target is the prompt's own text. ``runs_whole``: the tokens before the subject run too
    (`WholeForward`).
    """

    edit: int
    prompt: Prompt
    part: Part = "nll"
    weight: float = 1.0
    soft_target: SoftTarget | None = None
    runs_whole: bool = False

    @property
    def kind(self) -> tuple[Part, bool]:
        """The part of the loss, and whether the target is hard. Rows of one kind have one formula."""
        return self.part, self.soft_target is None

    @property
    def length(self) -> int:
        """The number of tokens that run: those of the row's tail (`tail`), or all."""
        return len(self.prompt.ids if self.runs_whole else tail(self.prompt))

    @property
    def reads(self) -> int:
        """The number of positions of this row whose logits the loss reads."""
        return max(1, len(self.prompt.target_ids))


def _target_rows(edit: int, request: Request) -> Iterator[TargetRow]:
    """Yield the rows of an edit, each with its weight in the edit's loss."""
    for prompt in request.rewrites:
        yield TargetRow(edit=edit, prompt=prompt, weight=1 / len(request.rewrites))
    if request.essence:
        yield TargetRow(edit=edit, prompt=request.essence, part="kl")
    for row in request.further:
        yield TargetRow(edit=edit, prompt=row.prompt, part="further", weight=row.weight, soft_target=row.soft_target)


class Pass:
    """Rows that run in one forward pass, ordered by kind.

    ``edits`` is the number of edits of the whole objective, ``head`` the device of the logits.
    """

    def __init__(self, rows: Sequence[TargetRow], forward: Forward, edits: int, head: torch.device) -> None:
        self.rows, self.forward, self._edits, self._head = rows, forward, edits, head
        self._edit_of_row = torch.tensor([row.edit for row in rows], device=forward.values.device)
        with torch.no_grad():  # L_a compares with the distribution without the change
            clean = forward.logits() if any(row.part == "kl" for row in rows) else None
        self._groups, self._sizes = list[_Kind](), list[int]()  # the rows of each kind, and their numbers of reads
        for kind in dict.fromkeys(row.kind for row in rows):
            same_kind = [row for row in rows if row.kind == kind]
            start, size = sum(self._sizes), sum(row.reads for row in same_kind)
            of_kind = clean[start : start + size] if kind[0] == "kl" and clean is not None else None
            self._groups.append(_Kind(same_kind, of_kind, head))
            self._sizes.append(size)

    def logits(self, change: Tensor) -> Tensor:
        """Return the logits [reads, vocabulary] under ``change`` [edits, d]."""
        return self.forward.logits(change[self._edit_of_row])

    def losses(self, logits: Tensor) -> list[tuple[Part, Tensor]]:
        """Return, for each kind of rows, (part of the loss, loss [edits]) with these ``logits``."""
        pairs = zip(self._groups, logits.split(self._sizes), strict=True)
        return [(group.part, group.of_edits(group.loss(own), self._edits)) for group, own in pairs]

    def missed(self, logits: Tensor, margin: Tensor) -> list[Tensor]:
        """Return the number of target tokens in each edit's rewrites that are not the likeliest by ``margin``."""
        pairs = zip(self._groups, logits.split(self._sizes), strict=True)
        return [group.of_edits(group.missed(own, margin), self._edits) for group, own in pairs if group.part == "nll"]

    def without(self, finished: set[int]) -> Pass | None:
        """Return the pass without the rows of the edits in ``finished``; None if no row remains.

        If less than half of the rows can go, the pass itself is returned, because building a new pass has a cost.
        """
        remaining = [index for index, row in enumerate(self.rows) if row.edit not in finished]
        if not remaining:
            return None
        if 2 * len(remaining) > len(self.rows):
            return self
        return Pass([self.rows[index] for index in remaining], self.forward.subset(remaining), self._edits, self._head)


class _Kind:
    """The rows of one kind in a pass, and their formula. ``clean``: the logits without the change, for L_a."""

    def __init__(self, rows: Sequence[TargetRow], clean: Tensor | None, head: torch.device) -> None:
        self.part = rows[0].part
        sizes = torch.tensor([row.reads for row in rows])
        self._edit_of_read = torch.tensor([row.edit for row in rows]).repeat_interleave(sizes).to(head)
        # A row counts with the mean over its target tokens, times its weight.
        self._weights = (torch.tensor([row.weight for row in rows]) / sizes).repeat_interleave(sizes).to(head)
        self._clean = None if clean is None else clean.float().log_softmax(-1)
        self._targets = torch.tensor([token for row in rows for token in row.prompt.target_ids], device=head)
        soft = [row.soft_target for row in rows if row.soft_target]
        tokens, q = [target.tokens.to(head) for target in soft], [target.probabilities.to(head) for target in soft]
        self._soft = (torch.cat(tokens), torch.cat(q)) if soft else None

    def loss(self, logits: Tensor) -> Tensor:
        """Return the loss of each read [reads], times its weight, with ``logits`` [reads, vocabulary]."""
        if self._clean is not None:
            # L_a: KL(P under delta || P) = sum p (log p - log p_clean)
            log_p = logits.float().log_softmax(-1)
            each = (log_p.exp() * (log_p - self._clean)).sum(-1)
        elif self._soft is not None:
            # -sum q log p; its gradient is that of KL(q || p), because q is constant (arXiv 1503.02531)
            tokens, q = self._soft
            each = -(q * logits.float().log_softmax(-1).gather(-1, tokens)).sum(-1)
        else:
            # L_p: -log P(target token)
            each = torch.nn.functional.cross_entropy(logits.float(), self._targets, reduction="none")
        return each * self._weights

    def missed(self, logits: Tensor, margin: Tensor) -> Tensor:
        """Return 1 for each read whose target token is not the likeliest by ``margin``, else 0: [reads]."""
        two, tokens = logits.float().topk(2, dim=-1)
        missed = (tokens[:, 0] != self._targets) | (two[:, 0] - two[:, 1] < margin.to(two.device))
        return missed.to(two.dtype)

    def of_edits(self, values: Tensor, edits: int) -> Tensor:
        """Return the sums of ``values`` [reads] over the reads of each edit, [edits]."""
        return values.new_zeros(edits).index_add(0, self._edit_of_read, values)
