"""Standard fine-tuning on augmented data (Gangadhar and Stratos, Findings of ACL 2024, arXiv 2402.11078).

Some down-projections W [d, d_ff] are trained on all edits of a call together, in mini-batches over epochs. With p the
next-token distribution of the unedited model, and p' that of the model in training, a step minimises

    L = L_e + kept L_s + kept_texts L_t

    L_e = mean over rows of max(0, l - stop_below),  l = mean over the target's tokens of -log p'(token)
    L_s = mean of KL(p || p') after the edits' prompts with other subjects
    L_t = mean of KL(p || p') after each token of texts that the model wrote

The rows of L_e are the edits' prompts, bare and after a sampled text, and those of earlier edits of a sequence, bare or
after a sampled text (`AugmentedRows`). In a share ``at_subject`` of them the changes act at the subject's last token
alone, as those of ROME's line do when a value is optimised: what is learned there serves the fact in other words too.

In a sequence p is the model without the earlier edits, so that what they changed elsewhere does not add up. (After a
method with an adapter, p is the model with the adapter.) The paper trains on true facts instead of L_s and L_t, and
trains all weights or LoRA.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor
from torch.optim.lr_scheduler import LinearLR

from kg_common.progress import Bar
from kg_edit.callbacks import report_losses
from kg_edit.edits.edit import Edit
from kg_edit.methods.base import annotate_errors
from kg_edit.methods.config import Layers, Workload
from kg_edit.methods.fine_tuning.base import StatementConfig, TuningMethod, loss_notes
from kg_edit.methods.fine_tuning.descent import add_changes, check_loss, new_change, take_step
from kg_edit.methods.fine_tuning.epochs import draw_batches
from kg_edit.methods.fine_tuning.rows import RowLosses, TrainingRow, row_of
from kg_edit.models.first_token import LINE_BREAK, begins_unread
from kg_edit.models.hooks import keep_untouched
from kg_edit.models.prompts import Prompt
from kg_edit.models.sampling import BARE, sample_contexts, sample_rows
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.per_token import patch_all_tokens
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.storage.setting_fields import Seed
from kg_edit.text.relation_nouns import example_things
from kg_edit.zoo.entries import method_entry
from kg_edit.zoo.fine_tuning.ft_retrain import still_valid

# The default layers, as parts of the model's depth: 4 to 10 of 30
_FIRST_DEPTH = 0.13
_END_DEPTH = 0.36

# For hundreds of edits in one call; at_subject and kept_texts were chosen on the second thousand of CounterFact.
MANY: dict[str, Any] = {
    "steps": 13,
    "batch_size": 32,
    "kept_texts": 3.0,
    "at_subject": 0.5,
    "texts": 8,
    "text_tokens": 64,
    "written_texts": 512,
}


class FtAugmentedConfig(StatementConfig):
    """Settings of fine-tuning on augmented data."""

    steps: PositiveInt = Field(9, description="maximum number of epochs; each but the last trains every edit once")
    learning_rate: float = Field(
        1.5e-3, gt=0, description="learning rate of Adam in the first epoch; it falls evenly to 0"
    )
    stop_below: float = Field(
        0.05, description="a row whose loss is below this value is not trained; the end, if it is the edits' mean"
    )
    layers: Layers | None = Field(None, description="tuned blocks, 0-based; default 0.13 to 0.36 of the depth")
    batch_size: PositiveInt = Field(8, description="edits in a step")
    contexts: NonNegativeInt = Field(64, description="sampled texts; one comes before each edit of a step (0: none)")
    context_tokens: int = Field(10, ge=2, description="length of these texts, in tokens")
    replayed: NonNegativeInt = Field(8, description="earlier edits of a sequence in a step; half of them in a context")
    kept: float = Field(1.5, ge=0, description="weight of the divergence on other subjects and on texts")
    subjects: PositiveInt = Field(2, description="other subjects with which the prompt of each edit is asked in a step")
    kept_texts: float | None = Field(None, ge=0, description="weight of the divergence on texts; default: kept")
    at_subject: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the edits' rows in which the change acts at the subject's last token alone",
    )
    texts: PositiveInt = Field(2, description="texts by the model in a step")
    text_tokens: PositiveInt = Field(32, description="length of these texts, in tokens")
    written_texts: PositiveInt = Field(128, description="texts that the model writes, of which each step draws")
    seed: Seed = Field(0, description="random seed of what is sampled and drawn")

    presets: ClassVar[dict[str, dict[str, Any]]] = {"many": MANY}

    def written_layers(self, blocks: int) -> tuple[int, ...]:
        """Return the layers in the settings, or those from 0.13 to 0.36 of the depth."""
        if self.layers is not None:
            return self.layers
        first = round(_FIRST_DEPTH * blocks)
        end = round(_END_DEPTH * blocks)
        return tuple(range(first, max(first + 1, end)))

    def workload(self, *, edits: int) -> Workload:
        """Return the workload: one descent; a step has the rows of ``batch_size`` edits, and those that are held.

        The bare rows of the edits are padded to those in contexts.
        """
        batch = min(edits, self.batch_size)
        rows_per_edit = 1 + self.subjects  # the edit's own, and those with other subjects
        context_tokens = 0
        if self.contexts:
            rows_per_edit += 1
            context_tokens = 2 * self.context_tokens * batch
        return Workload(rows=batch * rows_per_edit, context_tokens=context_tokens + self.texts * self.text_tokens)

    def idle(self) -> dict[str, str]:
        """Return the length of the contexts, if there are none."""
        if self.contexts:
            return {}
        return {"context_tokens": "with contexts=0 no texts come before a prompt"}


class FtAugmented(TuningMethod):
    """All edits of a call are trained together, in contexts; elsewhere the model is held."""

    entry = method_entry("ft-augmented")
    trains = "weight"
    config_class = FtAugmentedConfig
    config: FtAugmentedConfig

    def prepare(self) -> None:
        """Sample the contexts and the texts from the model, once for all edits."""
        with keep_untouched(self.model):
            _ = self.contexts
            _ = self.texts

    @cached_property
    def contexts(self) -> tuple[str, ...]:
        """Templates ``TEXT. {}``; none with ``contexts=0``."""
        lengths = ((self.config.context_tokens, self.config.contexts),)
        _, *sampled = sample_contexts(self.model, lengths=lengths, seed=self.config.seed)  # the first one is bare
        return tuple(sampled)

    @cached_property
    def texts(self) -> list[TrainingRow]:
        """Texts by the model, whose every next token is held."""
        config = self.config
        sampled = sample_rows(self.model, rows=config.written_texts, tokens=config.text_tokens, seed=config.seed)
        return [TrainingRow(ids=ids[:-1], targets=tuple(enumerate(ids[1:]))) for ids in sampled]

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Tune the weights on the rows of all edits; the change is the same for all records."""
        config = self.config
        changes = {layer: new_change(self.model.down_projection(layer)) for layer in self.layers}  # [d, d_ff] each
        optimizer = config.descent.optimizer(list(changes.values()))
        schedule = LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=config.steps - 1)  # of epochs
        # The earlier edits are applied while this runs; with their negative on top, the model is unedited.
        negative = None
        if isinstance(before, WeightPatch):
            negative = -before

        epoch_losses = list[Tensor]()  # of each edit's own row, [edits]
        with keep_untouched(self.model):
            rows = AugmentedRows(self, edits, before)
            for epoch in Bar(range(config.steps), title=self.name, unit="epoch"):
                is_last = epoch == config.steps - 1
                if is_last:  # it takes no step, so that the loss of the final change is known
                    losses = self._measure_epoch(epoch, rows, changes)
                else:
                    losses = self._train_epoch(epoch, rows, changes, negative, optimizer)
                epoch_losses.append(losses)
                report_losses(epoch, dict(enumerate(losses.tolist())), descents=len(edits))
                if is_last or float(losses.mean()) < config.stop_below:
                    break
                schedule.step()
        return self._patch(edits, changes, torch.stack(epoch_losses, 1))

    def _split_epoch(self, epoch: int, edits: int) -> list[list[int]]:
        """Return the indices of the edits of each step of an epoch."""
        return draw_batches(edits, self.config.batch_size, seed=self.config.seed, epoch=epoch)

    def _train_epoch(
        self,
        epoch: int,
        rows: AugmentedRows,
        changes: Mapping[int, Tensor],
        negative: WeightPatch | None,
        optimizer: torch.optim.Optimizer,
    ) -> Tensor:
        """Train every edit once; return the loss of each edit's own row, each before its step, [edits]."""
        losses = torch.zeros(rows.count)
        for batch in self._split_epoch(epoch, rows.count):
            loss, row_losses = self.loss(rows.draw(epoch, batch), changes, negative)
            check_loss(loss, epoch)
            take_step(optimizer, loss)
            losses[batch] = row_losses[: len(batch)].detach().cpu()  # the first rows are those of the batch's edits
        return losses

    def _measure_epoch(self, epoch: int, rows: AugmentedRows, changes: Mapping[int, Tensor]) -> Tensor:
        """Return the loss of each edit's bare row under the changes, [edits]."""
        losses = torch.zeros(rows.count)
        for batch in self._split_epoch(epoch, rows.count):
            losses[batch] = self.measure(rows.bare(batch), changes).cpu()
        return losses

    def loss(
        self, rows: StepRows, changes: Mapping[int, Tensor], negative: WeightPatch | None
    ) -> tuple[Tensor, Tensor]:
        """Return L = L_e + kept L_s + kept_texts L_t, and the losses l of the edited rows, [rows].

        Args:
            rows: of one step.
            changes: D of each tuned layer, [d, d_ff] each; they get a gradient.
            negative: undoes the earlier edits.
        """
        config = self.config

        # log p of the unedited model, and log p' of the model in training, [targets, vocabulary] each
        with torch.no_grad(), patch_all_tokens(self.model, negative):
            others_p = self.log_probabilities(rows.others)
            texts_p = self.log_probabilities(rows.texts)
        with self._changed(changes):
            others_q = self.log_probabilities(rows.others)
            texts_q = self.log_probabilities(rows.texts)
        loss_others = mean_divergence(others_p, others_q)  # L_s
        loss_texts = mean_divergence(texts_p, texts_q)  # L_t

        edited = RowLosses(self.model, self.layers[0], rows.edited)
        with self._changed(changes, acting=edited.acting):
            row_losses = edited()  # l, [rows]
        loss_edits = (row_losses - config.stop_below).relu().mean()  # L_e

        if config.kept_texts is None:
            kept_texts = config.kept
        else:
            kept_texts = config.kept_texts
        return loss_edits + config.kept * loss_others + kept_texts * loss_texts, row_losses

    @torch.no_grad()
    def measure(self, rows: Sequence[TrainingRow], changes: Mapping[int, Tensor]) -> Tensor:
        """Return the loss l of each row, [rows], with the changes in place."""
        with self._changed(changes):
            return RowLosses(self.model, self.layers[0], rows)()

    def log_probabilities(self, rows: Sequence[TrainingRow]) -> Tensor:
        """Return the next token's log probabilities at each target position of the rows, [targets, vocabulary]."""
        return RowLosses(self.model, self.layers[0], rows).logits().float().log_softmax(-1)

    @contextmanager
    def _changed(self, changes: Mapping[int, Tensor], *, acting: Tensor | None = None) -> Iterator[None]:
        """Within the ``with`` block, add each layer's change [d, d_ff] to its module's output (`add_changes`)."""
        with ExitStack() as stack:
            for layer, change in changes.items():
                stack.enter_context(add_changes(self.model.down_projection(layer), [change], acting=acting))
            yield

    def _patch(self, edits: Sequence[Edit], changes: Mapping[int, Tensor], losses: Tensor) -> Patch:
        """Return the patch of the changes; each edit's record has its own losses [edits, epochs]."""
        factors = {self.model.weight_name(layer): Factors.dense(change.detach()) for layer, change in changes.items()}
        squares = [float(change.detach().norm()) ** 2 for change in changes.values()]
        norms = {"update": round(sum(squares) ** 0.5, 6)}
        records = list[dict[str, Any]]()
        for edit, edit_losses in zip(edits, losses.tolist(), strict=True):
            records.append({**self.record(edit), "norms": norms, **loss_notes(edit_losses)})
        return WeightPatch(factors=factors, provenance={**self.provenance(), "edits": records})


def mean_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return the mean of KL(p || q) over the positions; log p and log q are [positions, vocabulary]."""
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()


@dataclass(frozen=True, kw_only=True)
class StepRows:
    """The rows of one step.

    Attributes:
        edited: of L_e; the first ones are those of the batch's edits, in its order.
        others: of L_s: the edits' prompts with other subjects.
        texts: of L_t: texts by the model.
    """

    edited: Sequence[TrainingRow]
    others: Sequence[TrainingRow]
    texts: Sequence[TrainingRow]


class AugmentedRows:
    """Draws the rows of each step. The seed, the number of earlier edits, the epoch and the batch determine them."""

    def __init__(self, method: FtAugmented, edits: Sequence[Edit], before: Patch) -> None:
        self._method = method
        self._model = method.model
        self._config = method.config
        self._edits = edits
        self._bare = self._bare_rows(edits)
        self._earlier = still_valid(before, edits)
        self._seed = f"{method.config.seed}/{len(before.edits)}"
        self._edited_texts = {edit.text for edit in (*edits, *self._earlier)}
        subjects = [edit.subject for edit in edits]
        for language in dict.fromkeys(edit.language for edit in edits):
            subjects += example_things(language)
        self._subjects = tuple(dict.fromkeys(subjects))  # each once
        # By template, because many edits share one, and every epoch asks again
        self._unedited_subjects = dict[str, list[str]]()

    @property
    def count(self) -> int:
        """The number of edits."""
        return len(self._edits)

    def bare(self, batch: Sequence[int]) -> list[TrainingRow]:
        """Return the bare row of each edit of a batch."""
        return [self._bare[index] for index in batch]

    def draw(self, epoch: int, batch: Sequence[int]) -> StepRows:
        """Draw the rows of a step, given the indices of its edits."""
        config = self._config
        draw = Random(f"{self._seed}/{epoch}/{batch}")  # noqa: S311 - a sample, no secret
        edits = [self._edits[index] for index in batch]

        # The edits bare, and each after a sampled text
        if config.at_subject:
            edited = [self.row_in(BARE, edit, draw) for edit in edits]
        else:
            edited = self.bare(batch)
        edited += self._in_contexts(edits, draw)

        # Earlier edits of the sequence: half of them after a sampled text, the others bare
        earlier = draw.sample(self._earlier, min(config.replayed, len(self._earlier)))
        half = 0
        if self._method.contexts:
            half = len(earlier) // 2
        edited += self._bare_rows(earlier[half:])
        edited += self._in_contexts(earlier[:half], draw)

        others = list[TrainingRow]()
        for edit in edits:
            others += self.about_others(edit, draw)
        texts = draw.sample(self._method.texts, min(config.texts, len(self._method.texts)))
        return StepRows(edited=edited, others=others, texts=texts)

    def _bare_rows(self, edits: Iterable[Edit]) -> list[TrainingRow]:
        rows = list[TrainingRow]()
        for edit in edits:
            with annotate_errors(edit):
                rows.append(self._method.encode_edit(edit))
        return rows

    def _in_contexts(self, edits: Iterable[Edit], draw: Random) -> list[TrainingRow]:
        """Return a row of each edit after one of the sampled texts; bare if it is an earlier one without a subject."""
        contexts = self._method.contexts
        if not contexts:
            return []
        rows = list[TrainingRow]()
        for edit in edits:
            if edit.subject:
                rows.append(self.row_in(draw.choice(contexts), edit, draw))
            else:
                rows.append(self._method.encode_edit(edit))
        return rows

    def row_in(self, context: str, edit: Edit, draw: Random) -> TrainingRow:
        """Return the row of an edit in a context; in a share ``at_subject`` the change acts at the subject alone."""
        config = self._config
        prompt = self._encode(edit, context)
        # Many models do not read a subject that ends in the first token of a text: a line break comes before it, as in
        # `TuningMethod.encode_edit`.
        is_plain_and_bare = context == BARE and not edit.is_made_in_chat(self._method.name)
        if is_plain_and_bare and begins_unread(self._model, prompt):
            prompt = self._encode(edit, LINE_BREAK + BARE)
        row = row_of(prompt, config.aim)
        if config.at_subject and draw.random() < config.at_subject:
            return replace(row, acting_at=prompt.edited_at)
        return row

    def _encode(self, edit: Edit, context: str) -> Prompt:
        return self._model.encode_fact(
            edit.prompt,
            subject=edit.subject,
            target=edit.target_new,
            context=context,
            chat=edit.is_made_in_chat(self._method.name),
        )

    def about_others(self, edit: Edit, draw: Random) -> list[TrainingRow]:
        """Return the edit's prompt about other subjects, except those with which it is an edited prompt."""
        template = edit.prompt
        if template not in self._unedited_subjects:
            self._unedited_subjects[template] = []
            for subject in self._subjects:
                if template.replace("{}", subject) not in self._edited_texts:
                    self._unedited_subjects[template].append(subject)
        unedited = self._unedited_subjects[template]
        rows = list[TrainingRow]()
        for subject in draw.sample(unedited, min(self._config.subjects, len(unedited))):
            ids = self._model.encode_fact(template, subject=subject, chat=edit.is_made_in_chat(self._method.name)).ids
            rows.append(TrainingRow(ids=ids, targets=((len(ids) - 1, 0),)))  # it has no target: only its logits count
        return rows
