"""Standard fine-tuning on augmented data (Gangadhar and Stratos, Findings of ACL 2024, arXiv 2402.11078).

Some down-projections W are trained on all edits of a call together, in mini-batches over epochs. With p the next-token
distribution of the unedited model, and p' of the model in training, the loss of a step is
L_e + kept L_s + kept_texts L_t:

- L_e: the mean of max(0, -log p'(target) - stop_below) per token, over the edits' prompts, bare and after a sampled
  text, and over earlier edits of a sequence, bare or after a sampled text;
- L_s: the mean of KL(p || p') after the edits' prompts with other subjects;
- L_t: the mean of KL(p || p') after each token of texts that the model wrote.

In a share ``at_subject`` of the rows of L_e the changes act at the subject's last token alone, as those of ROME's line
do when a value is optimised: what is learned there serves the fact in other words too.

In a sequence p is therefore without the earlier edits, so that what they changed elsewhere does not add up (after a
method with an adapter, p is of the model with it). The paper has true facts in the place of L_s and L_t, and trains
all weights or LoRA.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import cache, cached_property, partial
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor
from torch.optim.lr_scheduler import LinearLR

from kg_edit.callbacks import report_losses
from kg_edit.edits.edit import Edit
from kg_edit.methods.base import annotate_errors
from kg_edit.methods.config import Layers
from kg_edit.methods.fine_tuning.base import StatementConfig, TuningMethod, loss_notes
from kg_edit.methods.fine_tuning.descent import changed, checked_loss, no_change, take_step
from kg_edit.methods.fine_tuning.epochs import batches
from kg_edit.methods.fine_tuning.rows import RowLosses, TrainingRow, row_of
from kg_edit.methods.workload import Workload
from kg_edit.models.first_token import LEAD, begins_unread
from kg_edit.models.hooks import untouched
from kg_edit.models.sampling import BARE, sample_contexts, sample_rows
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import Factors, WeightPatch, wholly_patched
from kg_edit.storage.seeds import Seed
from kg_edit.text.relation_nouns import example_things
from kg_edit.zoo.fine_tuning.ft_retrain import still_valid
from wikidata_cache.progress import Bar

_DEPTHS = 0.13, 0.36  # of the default layers: 4 to 10 of 30

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
        first, end = (round(depth * blocks) for depth in _DEPTHS)
        return tuple(range(first, max(first + 1, end))) if self.layers is None else self.layers

    def workload(self, *, edits: int) -> Workload:
        """Return the workload: one descent; a step has the rows of ``batch_size`` edits, and those that are held.

        The bare rows of the edits are padded to those in contexts.
        """
        batch, padded = min(edits, self.batch_size), 2 * self.context_tokens if self.contexts else 0
        rows = batch * (1 + bool(self.contexts) + self.subjects)
        return Workload(rows=rows, context_tokens=batch * padded + self.texts * self.text_tokens)

    def idle(self) -> dict[str, str]:
        """Return the length of the contexts, if there are none."""
        return {} if self.contexts else {"context_tokens": "with contexts=0 no texts come before a prompt"}


class FtAugmented(TuningMethod):
    """All edits of a call are trained together, in contexts; elsewhere the model is held."""

    name = "ft-augmented"
    paper = "Gangadhar and Stratos, Findings of ACL 2024, arXiv 2402.11078"
    about = "fine-tune some down-projections on all edits, in contexts, and hold the answers about other subjects"
    family = "fine-tuning"
    trains = "weight"
    joint = True
    takes_text = False  # a prompt without a subject can't be asked about others
    config_class = FtAugmentedConfig
    config: FtAugmentedConfig

    def prepare(self) -> None:
        """Sample the contexts and the texts from the model, once for all edits."""
        with untouched(self.model):
            _ = self.contexts, self.texts

    @cached_property
    def contexts(self) -> tuple[str, ...]:
        """Templates ``TEXT. {}``; none with ``contexts=0``."""
        lengths = ((self.config.context_tokens, self.config.contexts),)
        return sample_contexts(self.model, lengths=lengths, seed=self.config.seed)[1:]

    @cached_property
    def texts(self) -> list[TrainingRow]:
        """Texts by the model, whose every next token is held."""
        config = self.config
        rows = sample_rows(self.model, rows=config.written_texts, tokens=config.text_tokens, seed=config.seed)
        return [TrainingRow(ids=ids[:-1], targets=tuple(enumerate(ids[1:]))) for ids in rows]

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Tune the weights on the rows of all edits; the change is the same for all records.

        Raises:
            EditError: two of the edits have the same prompt and different targets.
            PatchError: a loss is not finite.
        """
        config = self.config
        changes = {layer: no_change(self.model.down_projection(layer)) for layer in self.layers}  # [d, d_ff] each
        optimizer = config.descent.optimizer(list(changes.values()))
        schedule = LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=config.steps - 1)  # of epochs
        epochs = list[Tensor]()  # the loss of each edit's bare prompt, [edits]
        with untouched(self.model):
            replayed = still_valid(before, edits)
            bare_rows = self._rows(edits)
            others = tuple(dict.fromkeys([*(edit.subject for edit in edits), *example_things()]))
            edited = {edit.text for edit in (*edits, *replayed)}

            @cache  # many edits share a template, and every epoch asks again
            def edited_at(template: str) -> list[int]:
                """The indices in ``others`` of those with which a template is an edited prompt, ascending."""
                return [index for index, other in enumerate(others) if template.replace("{}", other) in edited]

            undone = -before if isinstance(before, WeightPatch) else None  # added to the model, it is unedited
            for epoch in Bar(range(config.steps), title=self.name, unit="epoch"):
                losses = torch.zeros(len(edits))
                for batch in batches(len(edits), config.batch_size, seed=config.seed, epoch=epoch):
                    rows = [bare_rows[index] for index in batch]
                    chosen = [edits[index] for index in batch]
                    if epoch == config.steps - 1:  # so that the loss of the final change is known
                        with torch.no_grad(), self._changed(changes):
                            losses[batch] = RowLosses(self.model, self.layers[0], rows)().cpu()
                        continue
                    draw = random.Random(f"{config.seed}/{len(before.edits)}/{epoch}/{batch}")  # noqa: S311 - a sample
                    if config.at_subject:
                        rows = [self._row_in(BARE, edit, draw) for edit in chosen]
                    rows += self._in_contexts(chosen, draw)
                    again = draw.sample(replayed, min(config.replayed, len(replayed)))
                    half = len(again) // 2 if self.contexts else 0  # of them after a sampled text
                    rows += self._rows(again[half:]) + self._in_contexts(again[:half], draw)
                    held = (
                        self._of_others(chosen, others, draw, edited_at=edited_at),
                        draw.sample(self.texts, min(config.texts, len(self.texts))),
                    )
                    values, others_kl, texts_kl = self._step(rows, held, changes, wholly_patched(self.model, undone))
                    loss = (values - config.stop_below).relu().mean() + config.kept * others_kl
                    loss = loss + (config.kept if config.kept_texts is None else config.kept_texts) * texts_kl
                    checked_loss(loss, epoch)
                    take_step(optimizer, loss)
                    losses[batch] = values[: len(batch)].detach().cpu()
                epochs.append(losses)
                report_losses(epoch, dict(enumerate(losses.tolist())), of=len(edits))
                if epoch == config.steps - 1 or float(losses.mean()) < config.stop_below:
                    break
                schedule.step()
        norm = sum(float(change.detach().norm()) ** 2 for change in changes.values()) ** 0.5
        records = [
            {**self.record(edit), "norms": {"update": round(norm, 6)}, **loss_notes(of_edit)}
            for edit, of_edit in zip(edits, torch.stack(epochs, 1).tolist(), strict=True)
        ]
        factors = {self.model.weight_name(layer): Factors.dense(change.detach()) for layer, change in changes.items()}
        return WeightPatch(factors=factors, provenance={**self.provenance(), "edits": records})

    def _step(
        self,
        rows: Sequence[TrainingRow],
        held: Sequence[Sequence[TrainingRow]],
        changes: Mapping[int, Tensor],
        unedited: AbstractContextManager[None],
    ) -> tuple[Tensor, ...]:
        """Return the losses of ``rows``, [rows], and the divergence of each group ``held``: L_s and L_t."""
        with torch.no_grad(), unedited:
            before = [RowLosses(self.model, self.layers[0], group) for group in held]
            log_p = [group.logits().float().log_softmax(-1) for group in before]
        trained, *groups = (RowLosses(self.model, self.layers[0], group) for group in (rows, *held))
        with self._changed(changes):
            log_q = [group.logits().float().log_softmax(-1) for group in groups]
            divergences = [(p.exp() * (p - q)).sum(-1).mean() for p, q in zip(log_p, log_q, strict=True)]
        with self._changed(changes, acting=trained.acting):
            return trained(), *divergences

    @contextmanager
    def _changed(self, changes: Mapping[int, Tensor], *, acting: Tensor | None = None) -> Iterator[None]:
        """Within the ``with`` block, add each layer's change [d, d_ff] to its down-projection's output (`changed`)."""
        with ExitStack() as stack:
            for layer, change in changes.items():
                stack.enter_context(changed(self.model.down_projection(layer), [change], acting=acting))
            yield

    def _rows(self, edits: Iterable[Edit]) -> list[TrainingRow]:
        """Return the bare row of each edit."""
        rows = list[TrainingRow]()
        for edit in edits:
            with annotate_errors(edit):
                rows.append(self.row(edit))
        return rows

    def _in_contexts(self, edits: Iterable[Edit], draw: random.Random) -> list[TrainingRow]:
        """Return a row of each edit after one of the sampled texts; bare if it is an earlier one without a subject."""
        if not self.contexts:
            return []
        return [
            self._row_in(draw.choice(self.contexts), edit, draw) if edit.subject else self.row(edit) for edit in edits
        ]

    def _row_in(self, context: str, edit: Edit, draw: random.Random) -> TrainingRow:
        """Return the row of an edit in a context; in a share ``at_subject`` the change acts at the subject alone."""
        chat = edit.one_form(self.name)
        encoded = partial(self.model.encode_fact, edit.prompt, subject=edit.subject, target=edit.target_new, chat=chat)
        prompt = encoded(context=context)
        if context == BARE and not chat and begins_unread(self.model, prompt):  # as in the bare row (`self.row`)
            prompt = encoded(context=LEAD + BARE)
        row = row_of(prompt, self.config.aim)
        alone = self.config.at_subject and draw.random() < self.config.at_subject
        return replace(row, acting_at=prompt.edited_at) if alone else row

    def _of_others(
        self,
        edits: Iterable[Edit],
        others: Sequence[str],
        draw: random.Random,
        *,
        edited_at: Callable[[str], list[int]],
    ) -> list[TrainingRow]:
        """Return the prompts of the edits about other subjects, without those at the indices `edited_at`."""
        rows = list[TrainingRow]()
        for edit in edits:
            skipped = edited_at(edit.prompt)
            remaining = len(others) - len(skipped)
            for index in draw.sample(range(remaining), min(self.config.subjects, remaining)):
                for skip in skipped:  # ascending
                    index += index >= skip
                ids = self.model.encode_fact(edit.prompt, subject=others[index], chat=edit.one_form(self.name)).ids
                rows.append(TrainingRow(ids=ids, targets=((len(ids) - 1, 0),)))  # it has no target: only its logits
        return rows
