"""The training of MEND's editor network (MEND, Eq. 4): Adam on the losses of models that were each edited once.

    L = c_edit L_e + c_loc L_loc

    L_e   = mean of -log p_edited(new target | prompt), for the edit's own prompt and paraphrases; with ``questions``
            also of the answers to portability questions (PropMEND)
    L_loc = mean of KL(p_unedited || p_edited) on unrelated prompts

`EditorRun` and `losses_after` are shared with KE. A run that was killed continues from a checkpoint to the same result,
bit for bit (`kg_edit.zoo.trained`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt
from kg_edit.zoo.mend.examples import BatchOrder, Rows
from kg_edit.zoo.mend.gradients import (
    Changes,
    EditedPasses,
    Gradients,
    Shape,
    edit_factors,
    first_block,
    gradient_factors,
    has_gradient,
    mlp_weights,
    nll,
    read_tokens,
    weight_shapes,
)
from kg_edit.zoo.mend.network import FORMAT, MendManifest, MendTraining, Validation
from kg_edit.zoo.trained.edits import digest_of, training_edits
from kg_edit.zoo.trained.files import Manifest, NetworkFormat, NetworkManifest
from kg_edit.zoo.trained.lower_states import LowerStates, lower_states
from kg_edit.zoo.trained.training import CHECKPOINT_SECONDS, STATES, Progress, State, TrainingRun, run_training

_STATES_GB = 4.0  # more than that is not stored
Trained = TypeVar("Trained", bound=NetworkManifest)


def train(
    model: LanguageModel,
    edits: Sequence[Edit | BenchmarkRecord],
    settings: MendTraining,
    out: Path,
    *,
    progress: bool = True,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> MendManifest:
    """Train an editor for ``model``, and write the one with the best loss on the held-out edits to ``out``.

    Called again, an interrupted run continues, and a finished run does nothing. The model is unchanged.

    Args:
        model: the language model.
        edits: the training edits, or records with edits.
        settings: the settings of the training.
        out: the folder.
        progress: whether to show a progress bar.
        checkpoint_seconds: seconds between two checkpoints.
    """
    return train_editor(
        model,
        edits,
        settings,
        out,
        kind=MendManifest,
        run=MendRun,
        format=FORMAT,
        progress=progress,
        checkpoint_seconds=checkpoint_seconds,
    )


def train_editor(
    model: LanguageModel,
    edits: Sequence[Edit | BenchmarkRecord],
    settings: MendTraining,
    out: Path,
    *,
    kind: type[Trained],
    run: Callable[[LanguageModel, BatchOrder, Trained, Path], EditorRun],
    format: NetworkFormat,
    progress: bool,
    checkpoint_seconds: float,
    fields: Mapping[str, Any] = MappingProxyType({}),
) -> Trained:
    """Train a network that turns an edit's gradient into a change of the weights: that of MEND, KE, MALMEN or RLEdit.

    Args:
        model: the language model.
        edits: the training edits, or records with edits.
        settings: the settings of the training.
        out: the folder.
        kind: the class of the network's manifest.
        run: the class of the training run.
        format: the format of the network's file.
        progress: whether to show a progress bar.
        checkpoint_seconds: seconds between two checkpoints.
        fields: further fields of the manifest.
    """
    weights = settings.weights or mlp_weights(model, settings.blocks)
    all_fields: dict[str, Any] = {"shapes": weight_shapes(model, weights), "training": settings, **fields}
    digest = digest_of(training_edits(edits))
    manifest = kind(model=model.fingerprint, model_name=model.name, edits=digest, **all_fields)

    def start(checkpoint: Path) -> EditorRun:
        return run(model, BatchOrder.of(model, edits, settings), manifest, checkpoint)

    return run_training(
        model,
        manifest,
        out,
        start,
        format=format,
        progress=progress,
        checkpoint_seconds=checkpoint_seconds,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Losses:
    """The losses after the edits.

    ``edit`` is -log p of the new target, in the edit's own prompt and in paraphrases, and of the questions' answers;
    ``locality`` is the KL; ``total`` is their weighted sum.
    """

    edit: Tensor
    locality: Tensor
    total: Tensor


class EditorNetwork(Protocol):
    """A network that turns gradients into changes: `MendNetwork`, or that of another method."""

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shapes (out, in) of the edited weights, by name."""

    def compute_changes(self, gradients: Gradients) -> Changes:
        """Return the factors (left [edits, rank, out], right [edits, rank, in]) of each weight's change."""


def losses_after(
    model: LanguageModel,
    network: EditorNetwork,
    rows: Rows,
    *,
    edit_weight: float,
    locality_weight: float,
    lower: LowerStates | None = None,
) -> Losses:
    """Return the losses of models that were each edited once, as a function of the network.

    Args:
        model: the unedited model.
        network: makes the edits.
        rows: the edits, and the prompts that the edited models are asked.
        edit_weight: c_edit.
        locality_weight: c_loc.
        lower: stored states of the lower blocks, which then do not run.
    """
    # The rows of the pass, by number: n own rows of the edits, then n unrelated prompts, one for each edit.
    n = len(rows.edits)
    own_rows = range(n)
    unrelated_rows = range(n, 2 * n)

    # All rows run through the unedited model once; the network turns the edits' gradients into changes.
    passes = EditedPasses(model, [*rows.edits, *rows.unrelated], list(network.shapes), lower=lower)
    with torch.no_grad():
        clean = passes.logits(unrelated_rows).log_softmax(-1)  # log p_unedited, [reads of unrelated, vocabulary]
    gradients = edit_factors(passes, nll(passes, own_rows), rows=n)
    changes = network.compute_changes(gradients)

    # Then the rows run again from the first changed block on, each with the change of its own edit.
    owners = torch.tensor([*range(n), *range(n)])  # the edit of each row, [2 n]
    logits = passes.logits([*own_rows, *unrelated_rows], changes, owners)
    own_logits, unrelated_logits = logits.split([len(logits) - len(clean), len(clean)])

    # L_loc: KL(p_unedited || p_edited), the mean over the rows of the mean over a row's target tokens
    edited = unrelated_logits.log_softmax(-1)  # log p_edited, [reads of unrelated, vocabulary]
    divergence = (clean.exp() * (clean - edited)).sum(-1)  # [reads of unrelated]
    _, shares = passes.targets(unrelated_rows)
    locality = (divergence * shares).sum()

    # L_e
    own_loss = nll(passes, own_rows, own_logits)
    edit = _add_further_loss(own_loss, model, changes, rows, lower=lower)
    return Losses(edit=edit, locality=locality, total=edit_weight * edit + locality_weight * locality)


def _add_further_loss(
    own_loss: Tensor, model: LanguageModel, changes: Changes, rows: Rows, *, lower: LowerStates | None
) -> Tensor:
    """Return L_e: the mean over the edits' own rows, if they are learned, and the further prompts."""
    if not rows.further:
        return own_loss
    further_loss = _compute_further_loss(model, changes, rows, lower=lower)
    learned = len(rows.edits) if rows.learned else 0
    further = len(rows.further)
    return (learned * own_loss + further * further_loss) / (learned + further)


def _compute_further_loss(model: LanguageModel, changes: Changes, rows: Rows, *, lower: LowerStates | None) -> Tensor:
    """Return the mean loss on the further prompts, each under the change of its edit.

    They run in a pass of their own, because they are longer.
    """
    owners = torch.tensor([owner for owner, _ in rows.further])
    prompts = [prompt for _, prompt in rows.further]
    with torch.no_grad():
        passes = EditedPasses(model, prompts, list(changes), lower=lower)
    indices = range(len(prompts))
    return nll(passes, indices, passes.logits(indices, changes, owners))


class EditorRun(TrainingRun[Validation]):
    """A training run of a network that turns an edit's gradient into a change of the weights ``names``.

    In each step the same lower blocks would compute the same states of the same prompts again. If the steps draw each
    prompt twice or more, these states are computed once (`kg_edit.zoo.trained.lower_states`), and are stored with the
    checkpoint until the run ends.
    """

    state: State[Validation]
    remedy = "a lower learning_rate or edit_lr"

    def __init__(
        self, model: LanguageModel, order: BatchOrder, names: Sequence[str], state: State[Validation], path: Path
    ) -> None:
        self.model = model
        self.order = order
        self._first = first_block(model, names)
        self._file = path.with_name(STATES)
        self._lower: LowerStates | None = None
        super().__init__(state, order.settings, path, examples=len(order.examples))

    @abstractmethod
    def losses_of(self, rows: Rows, lower: LowerStates | None) -> Losses:
        """Return the losses after the edits of ``rows``."""

    def losses(self, rows: Rows) -> Losses:
        """Return the losses after the edits of ``rows``."""
        losses = self.losses_of(rows, self._lower)
        self.check_loss(float(losses.total.detach()))
        return losses

    def held_out(self) -> tuple[float, float]:
        """Return the mean losses on the held-out edits: L_e, and the KL."""
        sums = torch.zeros(2, dtype=torch.float64)
        count = 0
        for rows in self.order.validation():
            losses = self.losses(rows)
            size = len(rows.edits)  # the last batch may be smaller: a weighted mean
            sums += size * torch.stack([losses.edit, losses.locality]).detach().cpu()
            count += size
        edit, locality = (sums / count).tolist()
        return edit, locality

    def prepare(self, *, progress: bool) -> None:
        """Compute the states of the lower blocks, if the steps draw each prompt twice or more."""
        settings = self.order.settings
        rows = {read_tokens(prompt) for prompt in self.order.prompts()}
        # A step draws for each edit its own prompt, a paraphrase, an unrelated prompt, and the questions.
        drawn = settings.steps * settings.edits_per_step * (3 + settings.questions)
        nbytes = sum(len(row) for row in rows) * self.model.width * self.model.model.dtype.itemsize
        if self._first and drawn >= 2 * len(rows) and nbytes <= _STATES_GB * 1e9:
            self._lower = lower_states(self.model, rows, self._first, self._file, progress=progress)

    def finish(self, path: Path, manifest: Manifest) -> Manifest:
        """Complete and write the network; delete the checkpoint and the states."""
        completed = super().finish(path, manifest)
        self._file.unlink(missing_ok=True)
        return completed


class MendRun(EditorRun):
    """A training run of MEND."""

    name = "mend"
    format: ClassVar[NetworkFormat] = FORMAT

    def __init__(self, model: LanguageModel, order: BatchOrder, manifest: MendManifest, path: Path) -> None:
        settings = manifest.training
        self._manifest = manifest
        self._network = manifest.build_network().to(model.device)
        groups = [
            {"params": list(self._network.layers.parameters()), "lr": settings.learning_rate},
            {"params": self._network.rate_parameters, "lr": settings.rate_learning_rate},
        ]
        optimizer = torch.optim.Adam(groups)
        state = State(format=self.format, network=self._network, optimizer=optimizer, progress=Progress[Validation]())
        super().__init__(model, order, tuple(manifest.shapes), state, path)

    def begin(self) -> None:
        """Measure the mean and the deviation of the factors, over all tokens that the network reads."""
        names = list(self._manifest.shapes)
        inputs: dict[str, list[Tensor]] = {name: [] for name in names}
        deltas: dict[str, list[Tensor]] = {name: [] for name in names}
        for prompt in self.order.for_normalising():
            gradients, _ = gradient_factors(self.model, prompt, names)
            for name, (u, delta) in self.select_tokens(prompt, gradients).items():
                inputs[name].append(u)
                deltas[name].append(delta)
        factors = {name: (torch.cat(inputs[name]), torch.cat(deltas[name])) for name in names}
        self._network.normalise_by(factors)

    def select_tokens(self, prompt: Prompt, gradients: Gradients) -> Gradients:
        """Return the gradients of the tokens that the network reads: those whose gradient is not 0."""
        selected = dict[str, tuple[Tensor, Tensor]]()
        for name, (u, delta) in gradients.items():
            tokens = has_gradient(delta)
            selected[name] = u[tokens], delta[tokens]
        return selected

    def backward(self, step: int) -> Mapping[str, str]:
        """Compute the losses of the step's rows and their gradient; return the losses to display."""
        losses = self.losses(self.order.rows(step))
        losses.total.backward()
        return {"edit": f"{losses.edit:.2f}", "kl": f"{losses.locality:.3f}"}

    def losses_of(self, rows: Rows, lower: LowerStates | None) -> Losses:
        """Return the losses after the edits of ``rows``."""
        settings = self._manifest.training
        return losses_after(
            self.model,
            self._network,
            rows,
            edit_weight=settings.edit_weight,
            locality_weight=settings.locality_weight,
            lower=lower,
        )

    def validation(self, step: int) -> Validation:
        """Return the mean losses on the held-out edits."""
        edit, locality = self.held_out()
        settings = self._manifest.training
        total = settings.edit_weight * edit + settings.locality_weight * locality
        return Validation(step=step, edit=edit, locality=locality, total=total)
