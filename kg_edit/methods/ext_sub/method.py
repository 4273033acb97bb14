"""Ext-Sub (Hu et al., AAAI 2024, arXiv 2308.08090): subtract an adapter trained on the old targets.

Two LoRA adapters are trained on the same projections: an expert on the new targets, an anti-expert on the old ones. The
anti-expert is subtracted from the expert, except the part that both have in common, such as the form of an answer
(`kg_edit.methods.ext_sub.extraction`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from tqdm import tqdm

from kg_edit.callbacks import report_losses
from kg_edit.datasets import readable_records
from kg_edit.datasets.locality import locality_queries
from kg_edit.edits.edit import Edit, refuse_clash
from kg_edit.errors import EditFileError
from kg_edit.graphs.source import SubgraphSource
from kg_edit.locate_then_edit.optimise import untouched
from kg_edit.methods.base import annotate_errors
from kg_edit.methods.config import MethodConfig
from kg_edit.methods.ext_sub.extraction import subtracted
from kg_edit.methods.fine_tuning.descent import checked_loss, take_step
from kg_edit.methods.fine_tuning.lora import Adapters, Lora, LoraConfig, LoraSize, adapted
from kg_edit.methods.fine_tuning.rows import RowLosses, TrainingRow, batches, row_of
from kg_edit.methods.workload import Workload
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.questions import pair_of
from kg_edit.storage.run_folder import NAMES_A_FILE


class ExtSubConfig(LoraConfig):
    """Settings of both adapters and of the subtraction. The preset ``paper`` has the published rate and epochs."""

    steps: PositiveInt = Field(
        30, description="maximum number of epochs for each adapter; the last has no steps; published: 2"
    )
    learning_rate: float = Field(1e-4, gt=0, description="learning rate of Adam; published: 2e-5, for 52,000 rows")
    rank: PositiveInt = Field(16, description="r: rank of each adapter; the patch has rank 2 r")
    dropout: float = Field(0.05, ge=0, lt=1, description="dropout on the adapters' inputs")
    batch_size: PositiveInt = Field(8, description="rows in a step")
    strength: float = Field(1.0, ge=0, description="factor of what is subtracted")
    extract: bool = Field(
        True, description="do not subtract the part that both adapters have in common; false: subtract everything"
    )
    kept: str | None = Field(
        None,
        json_schema_extra=NAMES_A_FILE,
        description="benchmark file: the expert also learns answers that must stay (neighbours, locality prompts)",
    )

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "paper": {"steps": 3, "learning_rate": 2e-5, "stop_below": 0.0, "modules": ("q_proj", "v_proj")},
    }

    def workload(self, *, edits: int) -> Workload:
        """Two descents, each of ``steps`` epochs."""
        return replace(super().workload(edits=edits), steps=2 * self.steps, rank=2 * self.rank)


class ExtSub(Lora):
    """Trains an expert on the new targets and an anti-expert on the old ones, and subtracts the anti-expert's own part.

    All edits of a call are trained together. Edits without an old target only train the expert.
    """

    name = "ext-sub"
    paper = "Hu et al., AAAI 2024, arXiv 2308.08090"
    about = "a LoRA on the new targets minus a LoRA on the old ones, except their common part (PEFT)"
    joint = True
    config_class = ExtSubConfig
    config: ExtSubConfig

    @classmethod
    def check_inputs(cls, config: MethodConfig, graph: SubgraphSource | None, edits: Sequence[Edit]) -> None:
        """Check the inputs, and read the file ``kept`` with the answers that should not change.

        Raises:
            EditFileError: the file can't be read, or has no such answers.
        """
        super().check_inputs(config, graph, edits)
        assert isinstance(config, ExtSubConfig)  # noqa: S101 - config_class
        if config.kept:
            read_kept(config.kept)

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Train both adapters on the edits, and subtract."""
        refuse_clash(edits)
        with untouched(self.model):
            wanted, old = self._rows(edits)
            expert, told = self._trained([*wanted, *self._kept], edits=len(edits))
            anti, seen = self._trained(list(old.values())) if old else (WeightPatch(factors={}), [])
        config = self.config
        factors = subtracted(expert, anti, strength=config.strength, extract=config.extract).factors
        norms = [float(pair.product.norm()) for pair in factors.values()]
        update = {"update": round(sum(norm**2 for norm in norms) ** 0.5, 6), "largest": round(max(norms), 6)}
        losses = dict(zip(old, _ends(seen), strict=True))
        records = [
            self._record(edit, update, own, losses.get(place))
            for place, (edit, own) in enumerate(zip(edits, _ends(told), strict=False))  # rows of ``kept`` come last
        ]
        if len(edits) > 1:
            records = [{**record, "shared": True} for record in records]
        patch = WeightPatch(factors=factors, provenance={**self.provenance(), "edits": records})
        patch.check_finite()
        return patch

    def _rows(self, edits: Sequence[Edit]) -> tuple[list[TrainingRow], dict[int, TrainingRow]]:
        """The rows of the edits' new targets, and those of the old targets, by the index of the edit."""
        wanted, old = list[TrainingRow](), dict[int, TrainingRow]()
        for place, edit in enumerate(edits):
            with annotate_errors(edit):
                wanted.append(self.row(edit))
                if edit.target_true:
                    old[place] = self.row(edit.model_copy(update={"target_new": edit.target_true}))
        return wanted, old

    @cached_property
    def _kept(self) -> list[TrainingRow]:
        pairs = read_kept(self.config.kept) if self.config.kept else ()
        return [row_of(self.model.encode(prompt, target=answer), self.config.aim) for prompt, answer in pairs]

    def _trained(self, rows: Sequence[TrainingRow], *, edits: int = 0) -> tuple[WeightPatch, list[list[float]]]:
        """Train an adapter on ``rows``; return its patch, and the rows' losses in each epoch.

        The losses of the first ``edits`` rows are reported as those of the edits.
        """
        config = self.config
        size = LoraSize(rank=config.rank, alpha=config.alpha, dropout=config.dropout, seed=config.seed)
        with adapted(self.model, self.targets, size) as adapters:
            losses = self._epochs(adapters, rows, edits)
            return WeightPatch(factors=adapters.factors()), losses

    def _epochs(self, adapters: Adapters, rows: Sequence[TrainingRow], edits: int) -> list[list[float]]:
        """Train for some epochs; return the rows' losses of each epoch.

        The loss of a row is computed right before the step of its batch. The last epoch makes no steps.
        """
        config, epochs = self.config, list[list[float]]()
        optimizer = torch.optim.Adam(adapters.parameters, lr=config.learning_rate)
        quiet = True if len(rows) <= config.batch_size else None  # None: show the bar only in a terminal
        for epoch in tqdm(range(config.steps), desc=self.name, unit="epoch", disable=quiet):
            losses = torch.zeros(len(rows))
            for batch in batches(len(rows), config.batch_size, seed=config.seed, epoch=epoch):
                found = RowLosses(self.model, 0, [rows[place] for place in batch])()
                checked_loss(found.mean(), epoch)
                losses[batch] = found.detach().cpu()
                if epoch < config.steps - 1:
                    take_step(optimizer, found.mean())
            epochs.append(losses.tolist())
            report_losses(epoch, dict(enumerate(epochs[-1][:edits])), of=edits)
            if float(losses.mean()) < config.stop_below:
                break
        return epochs

    def _record(
        self, edit: Edit, norms: Mapping[str, float], own: tuple[float, float], old: tuple[float, float] | None
    ) -> dict[str, Any]:
        """The record of one edit for the patch; the norms are those of the change of all edits of the call together.

        The losses are those of the two adapters, before the subtraction.
        """
        ends = dict(zip(("expert_loss_before", "expert_loss_after"), own, strict=True))
        anti = dict(zip(("old_loss_before", "old_loss_after"), old, strict=True)) if old else {}
        dumped = edit.model_dump(mode="json", exclude_defaults=True)
        return {"edit": dumped, "method": self.name, "norms": dict(norms), **ends, **anti}


def _ends(epochs: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """The first and the last loss of each row."""
    pairs = zip(epochs[0], epochs[-1], strict=True) if epochs else ()
    return [(round(first, 6), round(last, 6)) for first, last in pairs]


def read_kept(path: str | Path) -> tuple[tuple[str, str], ...]:
    """Read the prompts of a benchmark's file whose answers must stay, each with its first answer.

    Raises:
        EditFileError: the file can't be read, or has no such prompts.
    """
    records = readable_records(path)
    queries = [query for record in records for edit in record.edits for query in locality_queries(edit, record)]
    pairs = [pair_of(query) for query in queries if query.answers]
    found = tuple(dict.fromkeys((pair.prompt, pair.candidate) for pair in pairs))
    if not found:
        raise EditFileError(
            f"{path}: no record has a locality prompt with an answer, or a neighbour of an edit with an old target; "
            "give a file that has, as kept"
        )
    return found
