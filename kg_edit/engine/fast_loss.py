"""ROME's loss, fast: many edits in few forward passes, each of which runs only what a change can reach.

`kg_edit.locate_then_edit.objective` has the loss in a plain form, and says what its parts are; the tests compare both.
Here all prompts of all edits are rows (`TargetRow`), which share passes within the memory (`kg_edit.engine.passes`). A
pass runs the tails of its rows (`TailForward`), or whole rows in a recurrent model (`WholeForward`). On CUDA, a step
becomes one graph (`kg_edit.engine.cuda_graphs`). The edits that have ended are left out.

For the edit i with the change delta_i, the parts of the loss are sums over its rows r, each with the weight w_r and
the mean over its target tokens t:

    L_p, L_further = sum_r w_r mean_t -log P(t | r, delta_i)                 (of a soft target q: -sum q log P)
    L_a            = sum_r w_r KL(P(. | r, delta_i) || P(. | r, 0))
    loss_i         = L_p + kl_weight L_a + L_further

`FastLoss` divides the rows into passes (`Pass`). A pass has its rows by kind (`RowsOfKind`), each with one formula.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor

from kg_edit.engine import chosen_engine
from kg_edit.engine.passes import PassLimit, group_into_passes, padded_tokens, pass_limit
from kg_edit.engine.prefix_cache import SharedContexts
from kg_edit.engine.tail_forward import TailForward, tail
from kg_edit.errors import is_memory_error
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt

Part = Literal["nll", "kl", "further"]
PARTS: tuple[Part, ...] = ("nll", "kl", "further")
Result = TypeVar("Result")
Tensors = tuple[Tensor, ...]
Step = Callable[..., Tensors]


@dataclass(frozen=True, kw_only=True)
class TargetRow:
    """A prompt of the edit with index ``edit``, with its ``weight`` in one ``part`` of that edit's loss.

    ``soft_target``: a teacher's likeliest tokens and their probabilities, [target tokens, k] both; None if the target
    is the prompt's own text. ``runs_whole``: the tokens before the subject run too (`WholeForward`).
    """

    edit: int
    prompt: Prompt
    part: Part = "nll"
    weight: float = 1.0
    soft_target: tuple[Tensor, Tensor] | None = None
    runs_whole: bool = False

    @property
    def kind(self) -> tuple[Part, bool]:
        """The part of the loss, and whether the target is the prompt's own text. Rows of one kind have one formula."""
        return self.part, self.soft_target is None

    @property
    def length(self) -> int:
        """The number of tokens that run: those of the row's tail (`tail`), or all."""
        if self.runs_whole:
            return len(self.prompt.ids)
        return len(tail(self.prompt))

    @property
    def read_count(self) -> int:
        """The number of positions of this row whose logits the loss reads."""
        return max(1, len(self.prompt.target_ids))


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


@dataclass(frozen=True, eq=False, kw_only=True)
class Engine:
    """How the passes of a loss are computed: by which ``forward``, and within which ``limit`` (None: the device's).

    One engine serves many losses, as long as the model does not change: the keys and values of the contexts are
    computed once.
    """

    forward: ForwardFactory
    limit: PassLimit | None = None


def find_engine(
    model: LanguageModel,
    layer: int,
    contexts: Sequence[str] = (),
    *,
    memory: float | None = None,
    forward: type[TailForward] | None = None,
) -> Engine | None:
    """Return the engine for losses of changes in block ``layer``; None if ``KG_EDIT_ENGINE=plain`` asks for none.

    Args:
        model: the language model.
        layer: the edited block, 0-based.
        contexts: templates with which rows begin; their keys and values are computed here, once for all rows.
        memory: MB that a pass may take besides the model; None: what its device allows.
        forward: a method's own forward, which has no plain counterpart; None: `TailForward`, or `WholeForward` in a
            recurrent model.
    """
    if forward is None and chosen_engine() == "plain":
        return None
    megabytes = inf if memory is None else memory
    limit = pass_limit(model, layer, megabytes)
    if forward is None and model.is_recurrent:
        from kg_edit.engine.whole_forward import WholeForward

        return Engine(forward=WholeForward, limit=limit)
    forward_class = forward or TailForward
    shared = SharedContexts.of(model, contexts)

    def run_tails(model: LanguageModel, layer: int, rows: Sequence[Prompt]) -> Forward:
        return forward_class(model, layer, rows, contexts=shared)

    return Engine(forward=run_tails, limit=limit)


class FastLoss:
    """The parts of the loss, as functions of the change of each edit's value; `Objective` adds them up.

    Every edit has rewrites: rows of the part "nll", the first of which is its bare prompt.

    Attributes:
        value: m in the bare prompt, [edits, d].
        bare_key: the key of the bare prompt, [edits, d_ff].
        mean_key: the mean key over the contexts, [edits, d_ff].
    """

    def __init__(
        self,
        model: LanguageModel,
        layer: int,
        rows: Sequence[TargetRow],
        *,
        edits: int,
        kl_weight: float,
        engine: Engine,
    ) -> None:
        """Run all rows once without a change, for m, the keys and the distribution that L_a compares with."""
        self._model = model
        self._layer = layer
        self._edits = edits
        self._kl_weight = kl_weight
        self._forward = engine.forward
        self._limit = engine.limit or pass_limit(model, layer)
        self._rows = [replace(row, runs_whole=model.is_recurrent) for row in rows]
        self._passes = list[Pass]()
        devices = {parameter.device for parameter in model.model.parameters()}
        self._captures = len(devices) == 1 and devices.pop().type == "cuda"
        self._run_step = self._make_step_runner()
        self.value, self.bare_key, self.mean_key = self._within_memory(self._read_states)  # makes the passes, too

    def _make_step_runner(self) -> Step:
        """Return what calls the function of a step with tensors: on one CUDA device as a graph, elsewhere as it is.

        A graph is that of the present passes, so a new one is made whenever these change.
        """
        if not self._captures:
            return _call
        from kg_edit.engine.cuda_graphs import Repeated  # for CUDA alone

        return Repeated(capture=True)

    def _read_states(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return m and k of the bare prompts, and the mean of k over the rewrites, from all passes."""
        bare_prompts = dict[int, Prompt]()  # by edit: its first rewrite
        for row in self._rows:
            if row.part == "nll":
                bare_prompts.setdefault(row.edit, row.prompt)
        # The rows of an edit may be in several passes, because the passes have the rows sorted by kind and length.
        keys: list[list[Tensor]] = [[] for _ in range(self._edits)]  # by edit
        bare_keys = dict[int, Tensor]()
        bare_values = dict[int, Tensor]()
        for pass_ in self._passes:
            row_keys = pass_.forward.keys.float()  # [rows, d_ff]
            row_values = pass_.forward.values.float()  # [rows, d]
            for index, row in enumerate(pass_.rows):
                if row.part == "nll":
                    keys[row.edit].append(row_keys[index])
                if row.prompt is bare_prompts[row.edit]:
                    bare_keys[row.edit] = row_keys[index]
                    bare_values[row.edit] = row_values[index]
        edits = range(self._edits)
        m = torch.stack([bare_values[edit] for edit in edits])
        k = torch.stack([bare_keys[edit] for edit in edits])
        mean_k = torch.stack([torch.stack(keys[edit]).mean(0) for edit in edits])
        return m, k, mean_k

    def _within_memory(self, work: Callable[[], Result]) -> Result:
        """Make the passes if there are none, and return ``work()``, which runs them.

        If memory runs out, do both again with passes of half the tokens, until each has a single row.
        """
        while True:
            try:
                if not self._passes:
                    self._make_passes()
                return work()
            except (RuntimeError, MemoryError) as error:
                has_single_rows = all(len(rows) == 1 for rows in group_into_passes(self._rows, self._limit))
                if not is_memory_error(error) or has_single_rows:
                    raise
            self._halve_passes()  # after the handler, as the error keeps the tensors of the failed pass

    def _halve_passes(self) -> None:
        """Give up the passes; the next ones have at most half as many tokens as the largest of these."""
        self._passes = []
        self._run_step = self._make_step_runner()
        # The largest pass may have less than the limit, and a long row alone may have more.
        largest = max(padded_tokens(rows) for rows in group_into_passes(self._rows, self._limit))
        tokens = min(self._limit.tokens, largest)
        self._limit = replace(self._limit, tokens=tokens / 2)

    def _make_passes(self) -> None:
        """Divide the rows into passes within the limit, and run each without a change."""
        logits_device = self._model.model.get_output_embeddings().weight.device
        for rows in group_into_passes(self._rows, self._limit):
            forward = self._forward(self._model, self._layer, [row.prompt for row in rows])
            self._passes.append(Pass(rows, forward, self._edits, logits_device=logits_device))

    def parts(self, change: Tensor) -> list[Tensor]:
        """Return L_p, L_a and L_further, [edits] each, under ``change`` [edits, d]; differentiable in it.

        Use it for few edits only, because it keeps all activations; `gradient` needs less memory.
        """

        def compute() -> list[Tensor]:
            parts = _zeros(change)
            for pass_ in self._passes:
                for part, loss in pass_.losses(pass_.logits(change)):
                    parts[part] = parts[part] + loss.to(change.device)  # logits may be on another device
            return [parts[part] for part in PARTS]

        return self._within_memory(compute)

    def gradient(self, change: Tensor, *, margin: float | None = None) -> tuple[list[Tensor], Tensor]:
        """Return a list of the parts, [edits] each, and the gradient d loss_i / d change_i, [edits, d].

        The parts are L_p, L_a, L_further, and with a ``margin`` the number of missed tokens.

        The memory does not grow with the number of edits: the activations of a pass are freed before the next pass.

        Args:
            change: delta of each edit, [edits, d].
            margin: also count the target tokens of each edit's rewrites whose logit does not exceed that of every
                other token by at least this margin. None: don't count.
        """
        # One graph serves all steps of a descent, those without a margin too, so a graph always counts. The margin is a
        # tensor, because a graph reads nothing else.
        args: tuple[Tensor, ...] = (change,)
        if margin is not None or self._captures:
            args = (change, torch.full((), margin or 0.0, device=change.device))

        def compute() -> tuple[Tensor, ...]:
            return self._run_step(self._compute_step, *args)

        *parts, gradient = self._within_memory(compute)
        if margin is None:
            parts = parts[:3]  # a graph has counted the missed tokens anyway
        return parts, gradient

    def _compute_step(self, change: Tensor, margin: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return L_p, L_a, L_further, with a margin the missed tokens, [edits] each, and last the gradient [edits, d].

        A CUDA graph can be made of this, so nothing is read back to the host, and the result is tensors alone.
        """
        leaf = change.detach().requires_grad_()
        parts = _zeros(leaf)
        missed = leaf.new_zeros(len(leaf))
        for pass_ in self._passes:
            logits = pass_.logits(leaf)
            losses = pass_.losses(logits)
            self._run_backward(losses)  # adds the gradient of this pass's share of the loss to ``leaf.grad``
            for part, loss in losses:
                parts[part] = parts[part] + loss.detach().to(leaf.device)
            if margin is not None:
                for count in pass_.count_missed(logits.detach(), margin):
                    missed += count.to(leaf.device)
        gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        terms = [parts[part] for part in PARTS]
        if margin is not None:
            terms.append(missed)
        return (*terms, gradient)

    def _run_backward(self, losses: Sequence[tuple[Part, Tensor]]) -> None:
        """Compute the gradient of the sum of ``losses`` [edits], each times the weight of its part in the loss."""
        weights = {"nll": 1.0, "kl": self._kl_weight, "further": 1.0}
        factors = [torch.full_like(loss, weights[part]) for part, loss in losses]
        torch.autograd.backward([loss for _, loss in losses], factors)

    def drop(self, finished: Collection[int]) -> None:
        """Stop computing the edits whose indices are in ``finished``; their losses are meaningless from now on."""
        gone = set(finished)
        self._rows = [row for row in self._rows if row.edit not in gone]
        # A pass is built again without them only if that saves half of its rows.
        passes_left = list[Pass]()
        for pass_ in self._passes:
            remaining = pass_.without(gone)
            if remaining is not None:
                passes_left.append(remaining)
        if passes_left != self._passes:  # a pass equals only itself
            self._passes = passes_left
            self._run_step = self._make_step_runner()


def _call(work: Callable[..., Tensors], *arguments: Tensor) -> Tensors:
    return work(*arguments)


def _zeros(change: Tensor) -> dict[Part, Tensor]:
    """Return 0 for each part of the loss and each edit of ``change`` [edits, d]: [edits] by part.

    The parts share one tensor, so a caller may add to it only out of place.
    """
    return dict.fromkeys(PARTS, change.new_zeros(len(change)))


class Pass:
    """Rows that run in one forward pass; the caller has ordered them by kind, so their reads stand together by kind.

    ``edits`` is the number of edits of the whole loss, of which this pass may have only some.
    """

    def __init__(self, rows: Sequence[TargetRow], forward: Forward, edits: int, logits_device: torch.device) -> None:
        self.rows = rows
        self.forward = forward
        self._edits = edits
        self._logits_device = logits_device
        self._edit_of_row = torch.tensor([row.edit for row in rows], device=forward.values.device)
        clean = None
        if any(row.part == "kl" for row in rows):
            with torch.no_grad():  # L_a compares with the distribution without the change
                clean = forward.logits()  # [reads, vocabulary], of all rows of the pass
        self._groups = list[RowsOfKind]()  # the rows of each kind
        self._sizes = list[int]()  # the number of reads of each kind, into which logits [reads, vocabulary] split
        # `group_into_passes` has ordered the rows by kind. So the reads of a kind are logits[start : start + size].
        for kind in dict.fromkeys(row.kind for row in rows):
            same_kind = [row for row in rows if row.kind == kind]
            start = sum(self._sizes)
            size = sum(row.read_count for row in same_kind)
            part, _ = kind
            kind_clean = None
            if part == "kl" and clean is not None:
                kind_clean = clean[start : start + size]
            self._groups.append(RowsOfKind(same_kind, kind_clean, logits_device))
            self._sizes.append(size)

    def logits(self, change: Tensor) -> Tensor:
        """Return the logits [reads, vocabulary] under ``change`` [edits, d]."""
        return self.forward.logits(change[self._edit_of_row])

    def losses(self, logits: Tensor) -> list[tuple[Part, Tensor]]:
        """Return, for each kind of rows, (part of the loss, loss [edits]) with these ``logits``."""
        losses = []
        for group, group_logits in zip(self._groups, logits.split(self._sizes), strict=True):
            loss = group.sum_by_edit(group.loss(group_logits), self._edits)
            losses.append((group.part, loss))
        return losses

    def count_missed(self, logits: Tensor, margin: Tensor) -> list[Tensor]:
        """Count the target tokens in each edit's rewrites that are not the likeliest by ``margin``, [edits] by kind."""
        counts = []
        for group, group_logits in zip(self._groups, logits.split(self._sizes), strict=True):
            if group.part == "nll":
                counts.append(group.sum_by_edit(group.find_missed(group_logits, margin), self._edits))
        return counts

    def without(self, finished: set[int]) -> Pass | None:
        """Return the pass without the rows of the edits in ``finished``; None if no row remains.

        If less than half of the rows can go, the pass itself is returned, because building a new pass has a cost.
        """
        remaining = [index for index, row in enumerate(self.rows) if row.edit not in finished]
        if not remaining:
            return None
        if 2 * len(remaining) > len(self.rows):
            return self
        rows = [self.rows[index] for index in remaining]
        return Pass(rows, self.forward.subset(remaining), self._edits, self._logits_device)


class RowsOfKind:
    """The rows of one kind in a pass, and their formula: of L_a, of soft targets, or of the prompts' own targets.

    ``clean`` [reads, vocabulary] are the logits without the change, for rows of L_a; None for other rows.
    """

    def __init__(self, rows: Sequence[TargetRow], clean: Tensor | None, logits_device: torch.device) -> None:
        self.part = rows[0].part
        sizes = torch.tensor([row.read_count for row in rows])
        self._edit_of_read = torch.tensor([row.edit for row in rows]).repeat_interleave(sizes).to(logits_device)
        # A row counts with the mean over its target tokens, times its weight.
        weights = torch.tensor([row.weight for row in rows]) / sizes
        self._weights = weights.repeat_interleave(sizes).to(logits_device)
        # These decide the formula of `loss`: that of L_a if ``_clean_log_p`` is there, that of soft targets if
        # ``_soft`` is there, else that of the prompts' own targets.
        self._clean_log_p: Tensor | None = None  # [reads, vocabulary]
        if clean is not None:
            self._clean_log_p = clean.float().log_softmax(-1)
        target_ids = list[int]()  # read only where the prompts' own targets count
        for row in rows:
            target_ids += row.prompt.target_ids
        self._targets = torch.tensor(target_ids, device=logits_device)
        self._soft: tuple[Tensor, Tensor] | None = None  # tokens and probabilities, [reads, k] both
        soft_targets = [row.soft_target for row in rows if row.soft_target]
        if soft_targets:
            tokens = torch.cat([tokens.to(logits_device) for tokens, _ in soft_targets])
            probabilities = torch.cat([probabilities.to(logits_device) for _, probabilities in soft_targets])
            self._soft = tokens, probabilities

    def loss(self, logits: Tensor) -> Tensor:
        """Return the loss of each read [reads], times its weight, with ``logits`` [reads, vocabulary]."""
        if self._clean_log_p is not None:
            # L_a: KL(P under delta || P) = sum p (log p - log p_clean)
            log_p = logits.float().log_softmax(-1)
            each = (log_p.exp() * (log_p - self._clean_log_p)).sum(-1)
        elif self._soft is not None:
            # -sum q log p; its gradient is that of KL(q || p), because q is constant (arXiv 1503.02531)
            tokens, q = self._soft
            each = -(q * logits.float().log_softmax(-1).gather(-1, tokens)).sum(-1)
        else:
            # L_p: -log P(target token)
            each = torch.nn.functional.cross_entropy(logits.float(), self._targets, reduction="none")
        return each * self._weights

    def find_missed(self, logits: Tensor, margin: Tensor) -> Tensor:
        """Return 1 for each read whose target token is not the likeliest by ``margin``, else 0: [reads]."""
        best, tokens = logits.float().topk(2, dim=-1)  # the two largest logits and their tokens, [reads, 2]
        lead = best[:, 0] - best[:, 1]
        missed = (tokens[:, 0] != self._targets) | (lead < margin.to(lead.device))
        return missed.to(lead.dtype)

    def sum_by_edit(self, values: Tensor, edits: int) -> Tensor:
        """Return the sums of ``values`` [reads] over the reads of each edit, [edits]."""
        return values.new_zeros(edits).index_add(0, self._edit_of_read, values)
