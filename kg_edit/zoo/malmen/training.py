"""The training of MALMEN's editor network (MALMEN, section 4): batches of edits that are made together.

    L = c_edit L_e + c_loc L_loc

    L_e   = mean of -log p_edited(new target | prompt), for the edits' own prompts and paraphrases, after the batch
    L_loc = mean of KL(p_unedited || p_edited) on unrelated prompts

The gradient is computed in two stages, so that memory does not grow with the batch. The network computes the factors of
the update; copies of them that are cut off from its graph, the leaves, are what the model runs with. The first stage
goes from the losses to the leaves, a few rows at a time. The second goes on from the factors to the network.

RLEdit trains by the same steps on sequences of batches (`UpdateSequence`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, split_passes
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.zoo.malmen.network import FORMAT, MalmenManifest, MalmenNetwork, MalmenTraining
from kg_edit.zoo.mend.examples import BatchOrder, Rows
from kg_edit.zoo.mend.gradients import Changes, EditedPasses, Gradients, as_factors, at_targets, edit_factors, nll
from kg_edit.zoo.mend.network import MendManifest
from kg_edit.zoo.mend.training import MendRun, train_editor
from kg_edit.zoo.trained.lower_states import LowerStates
from kg_edit.zoo.trained.training import CHECKPOINT_SECONDS

# The most prompts in one pass of the model, and the most tokens with padding
_ROWS = 64
_TOKENS = 8192


def train(
    model: LanguageModel,
    edits: Sequence[Edit | BenchmarkRecord],
    settings: MalmenTraining,
    out: Path,
    *,
    progress: bool = True,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> MalmenManifest:
    """Train an editor for ``model``, and write the one with the best loss on the held-out edits to ``out``.

    The arguments are those of `kg_edit.zoo.mend.training.train`.
    """
    return train_editor(
        model,
        edits,
        settings,
        out,
        kind=MalmenManifest,
        run=MalmenRun,
        format=FORMAT,
        progress=progress,
        checkpoint_seconds=checkpoint_seconds,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Passes:
    """Passes of a model with a change of the weights ``names``; ``lower`` are stored states of the lower blocks.

    "The model as it is" has the updates that a caller has applied to it (`sequence_losses`); the change comes on top.
    """

    model: LanguageModel
    names: Sequence[str]
    lower: LowerStates | None = None

    def run(self, prompts: Sequence[Prompt]) -> EditedPasses:
        """Run ``prompts`` through the model as it is, without a graph."""
        with torch.no_grad():
            return EditedPasses(self.model, prompts, self.names, lower=self.lower)

    def gradients_at_targets(self, prompts: Sequence[Prompt]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return for each weight the keys [tokens, in] and gradients [tokens, out] of all prompts' target tokens."""
        keys: dict[str, list[Tensor]] = {name: [] for name in self.names}
        gradients: dict[str, list[Tensor]] = {name: [] for name in self.names}
        for numbers in split_passes([len(prompt.ids) for prompt in prompts], rows=_ROWS, tokens=_TOKENS):
            batch = prompts[numbers.start : numbers.stop]
            passes = EditedPasses(self.model, batch, self.names, lower=self.lower)
            factors = edit_factors(passes, nll(passes, range(len(batch))), rows=len(batch))
            for row, prompt in enumerate(batch):
                row_factors = {name: (u[row], delta[row]) for name, (u, delta) in factors.items()}
                for name, (u, delta) in at_targets(prompt, row_factors).items():
                    keys[name].append(u)
                    gradients[name].append(delta)
        return {name: (torch.cat(keys[name]), torch.cat(gradients[name])) for name in self.names}

    def edit_losses(self, change: Changes, rows: Rows) -> Iterator[Tensor]:
        """Yield the parts whose sum is L_e under a change, a mean over prompts.

        The prompts are the edits' own, if they are learned, and the further ones.
        """
        prompts = list(rows.edits) if rows.learned else []
        prompts += [prompt for _, prompt in rows.further]
        for part in _portions(prompts):
            passes = self.run(part)
            indices = range(len(part))
            logits = passes.logits(indices, change, _own_only_change(indices))
            loss = nll(passes, indices, logits)
            yield loss * (len(part) / len(prompts))

    def localities(self, change: Changes, rows: Rows) -> Iterator[Tensor]:
        """Yield the parts whose sum is L_loc: KL(the model as it is || with the change) on unrelated prompts."""
        for part in _portions(rows.unrelated):
            passes = self.run(part)
            indices = range(len(part))
            with torch.no_grad():
                clean = passes.logits(indices).log_softmax(-1)  # [reads, vocabulary]
            edited = passes.logits(indices, change, _own_only_change(indices)).log_softmax(-1)
            divergence = (clean.exp() * (clean - edited)).sum(-1)  # [reads]
            _, shares = passes.targets(indices)  # [reads], the weight of each read in the mean over rows
            yield (divergence * shares).sum() * (len(part) / len(rows.unrelated))


def sequence_losses(
    passes: Passes,
    network: MalmenNetwork,
    batches: Sequence[Rows],
    settings: MalmenTraining,
    *,
    check: Callable[[float], None] = lambda _: None,
) -> tuple[float, float]:
    """Edit batches one after the other, and add the gradient of the losses to that of the network.

    After the update of batch t, with the earlier updates applied as constants, and b = `look_back`:

        L_t = sum_(i < b) decay^i (c_edit L_e(batch t-i) + c_loc KL_(t-1 || t)(batch t-i)) + norm_weight |update|^2

    For one batch that is MALMEN's loss.

    Args:
        passes: of the model, which is unedited before and after; it has the earlier updates while a batch is edited.
        network: the editor.
        batches: the edits of each update, with the prompts of the losses.
        settings: the weights of the losses, and the sequence.
        check: is called with each L_t, and may raise.

    Returns:
        The means over the batches of L_e and of the KL of a batch after its own update.
    """
    sequence = settings.sequence
    earlier = dict[str, Factors]()  # the sum of the updates so far
    edit_loss = 0.0
    locality_loss = 0.0
    for number, batch in enumerate(batches):
        with WeightPatch(factors=earlier).applied(passes.model):
            change = network.compute_changes(passes.gradients_at_targets(batch.edits))

            # Stage 1: down to the leaves, where the gradient of L_t lands.
            leaves = {name: _cut_off(pair) for name, pair in change.items()}
            first = max(0, number + 1 - sequence.look_back)
            newest_first = batches[first : number + 1][::-1]
            losses = _backward_to_factors(passes, leaves, newest_first, settings)
            check(losses.total)

            # Stage 2: on to the network, from each factor with the gradient of its leaf. Each factor has a graph of its
            # own, which `backward` may free. A leaf has no gradient if no loss depends on it.
            for name, pair in change.items():
                for factor, leaf in zip(pair, leaves[name], strict=True):
                    if leaf.grad is not None:
                        factor.backward(leaf.grad)
        edit_loss += losses.edit / len(batches)
        locality_loss += losses.locality / len(batches)
        earlier = _add(earlier, as_factors(leaves))
    return edit_loss, locality_loss


class _UpdateLosses(NamedTuple):
    """L_t of an update, and L_e and the KL of its own batch."""

    total: float
    edit: float
    locality: float


def _backward_to_factors(
    passes: Passes, leaves: Changes, newest_first: Sequence[Rows], settings: MalmenTraining
) -> _UpdateLosses:
    """Compute L_t of an update, and add its gradient to the leaves; the graph of each part is freed before the next.

    Args:
        passes: of the model, to which the earlier updates are applied now.
        leaves: the factors of the update, cut off from the network; they get the gradient.
        newest_first: the batches of the loss: the update's own, then the one before it, and so on.
        settings: the weights of the losses, and the sequence.
    """
    sequence = settings.sequence
    edit_losses = list[float]()
    locality_losses = list[float]()
    total = 0.0
    for age, rows in enumerate(newest_first):
        decay = sequence.decay**age
        edit_loss = _add_gradients(passes.edit_losses(leaves, rows), weight=decay * settings.edit_weight)
        locality_loss = _add_gradients(passes.localities(leaves, rows), weight=decay * settings.locality_weight)
        total += decay * (settings.edit_weight * edit_loss + settings.locality_weight * locality_loss)
        edit_losses.append(edit_loss)
        locality_losses.append(locality_loss)
    if sequence.norm_weight:
        squares = [squared_norm(pair) for pair in leaves.values()]
        total += sequence.norm_weight * _add_gradients(squares, weight=sequence.norm_weight)
    return _UpdateLosses(total, edit_losses[0], locality_losses[0])


def held_out_losses(passes: Passes, network: MalmenNetwork, batches: Sequence[Rows]) -> tuple[float, float]:
    """Edit batches one after the other; return L_e and KL(unedited || edited) over all of them after the last one."""
    earlier = dict[str, Factors]()
    for batch in batches:
        with WeightPatch(factors=earlier).applied(passes.model):
            gradients = passes.gradients_at_targets(batch.edits)
        earlier = _add(earlier, network.compute_factors(gradients))
    change = dict[str, tuple[Tensor, Tensor]]()  # the sum of all updates as one change
    for name, pair in earlier.items():
        change[name] = pair.left.T[None], pair.right.T[None]  # [1, rank, out], [1, rank, in]
    edit_loss = 0.0
    locality_loss = 0.0
    count = 0
    with torch.no_grad():
        for rows in batches:
            size = len(rows.edits)
            edit_loss += size * sum(float(part) for part in passes.edit_losses(change, rows))
            locality_loss += size * sum(float(part) for part in passes.localities(change, rows))
            count += size
    return edit_loss / count, locality_loss / count


def _add_gradients(parts: Iterable[Tensor], *, weight: float) -> float:
    """Add the gradient of ``weight`` times the sum of ``parts``, one after the other; return the sum without weight."""
    total = 0.0
    for part in parts:
        (weight * part).backward()
        total += float(part.detach())
    return total


def _add(earlier: Mapping[str, Factors], more: Mapping[str, Factors]) -> dict[str, Factors]:
    """Return the sum of the updates so far and a new one, which has all weights; there are none before the first."""
    if not earlier:
        return dict(more)
    return {name: earlier[name] + pair for name, pair in more.items()}


def squared_norm(change: tuple[Tensor, Tensor]) -> Tensor:
    """Return |left^T right|^2 for the factors [1, tokens, out] and [1, tokens, in], without the product.

    With L and R the matrices of one edit, |L^T R|^2 = trace(R^T L L^T R) = the sum of (L L^T) * (R R^T).
    """
    left, right = change
    return ((left[0] @ left[0].T) * (right[0] @ right[0].T)).sum()


def _portions(prompts: Sequence[Prompt]) -> Iterator[Sequence[Prompt]]:
    """Yield the prompts in portions of one pass, those of similar length together."""
    ordered = sorted(prompts, key=lambda prompt: len(prompt.ids))
    for numbers in split_passes([len(prompt.ids) for prompt in ordered], rows=_ROWS, tokens=_TOKENS):
        yield ordered[numbers.start : numbers.stop]


def _own_only_change(rows: range) -> Tensor:
    """Return the number of the change with which each row runs, [rows]: 0, because there is only one change."""
    return torch.zeros(len(rows), dtype=torch.long)


def _cut_off(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the leaves of a weight's factors: the same numbers, without the graph of the network."""
    left, right = pair
    return left.detach().requires_grad_(), right.detach().requires_grad_()


class MalmenRun(MendRun):
    """A training run of MALMEN; a step edits the batches of a `UpdateSequence`."""

    name = "malmen"
    format = FORMAT
    _network: MalmenNetwork

    def __init__(self, model: LanguageModel, order: BatchOrder, manifest: MendManifest, path: Path) -> None:
        super().__init__(model, order, manifest, path)
        assert isinstance(manifest.training, MalmenTraining)  # noqa: S101 - MalmenManifest
        self._training = manifest.training

    @property
    def passes(self) -> Passes:
        """The passes of the model."""
        return Passes(model=self.model, names=list(self._network.shapes), lower=self._lower)

    def select_tokens(self, prompt: Prompt, gradients: Gradients) -> Gradients:
        """Return the keys and the gradients of the target's tokens."""
        return at_targets(prompt, gradients)

    def backward(self, step: int) -> Mapping[str, str]:
        """Compute the losses of the step's batches and their gradient; return the losses to display."""
        length = self._training.sequence.length
        batches = [self.order.rows(step * length + number) for number in range(length)]
        edit_loss, locality_loss = sequence_losses(
            self.passes, self._network, batches, self._training, check=self.check_loss
        )
        return {"edit": f"{edit_loss:.2f}", "kl": f"{locality_loss:.3f}"}

    def held_out(self) -> tuple[float, float]:
        """Return the mean losses on the held-out edits; as many batches as in a step are edited in sequence."""
        batches = list(self.order.validation())
        length = self._training.sequence.length
        edit_sum = 0.0
        locality_sum = 0.0
        count = 0
        for start in range(0, len(batches), length):
            sequence = batches[start : start + length]
            size = sum(len(rows.edits) for rows in sequence)
            edit_loss, locality_loss = held_out_losses(self.passes, self._network, sequence)
            edit_sum += size * edit_loss
            locality_sum += size * locality_loss
            count += size
        return edit_sum / count, locality_sum / count
