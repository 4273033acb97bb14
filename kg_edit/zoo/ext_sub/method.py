"""Ext-Sub (Hu et al., AAAI 2024, arXiv 2308.08090): subtract an adapter trained on the old targets.

Two LoRA adapters are trained on the same projections: an expert on the new targets, an anti-expert on the old ones. The
anti-expert is subtracted from the expert, except the part that both have in common, such as the form of an answer
(`kg_edit.patches.subtraction`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, PositiveInt

from kg_edit.edits.edit import Edit
from kg_edit.errors import EditFileError
from kg_edit.evaluation.datasets import readable_records
from kg_edit.evaluation.datasets.locality import locality_queries
from kg_edit.graphs.source import SubgraphSource
from kg_edit.methods.base import annotate_errors
from kg_edit.methods.config import MethodConfig, Workload
from kg_edit.methods.fine_tuning.epochs import train_epochs
from kg_edit.methods.fine_tuning.rows import TrainingRow, row_of
from kg_edit.models.hooks import keep_untouched
from kg_edit.patches.base import Patch
from kg_edit.patches.subtraction import subtract_patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.questions import pair_of
from kg_edit.storage.setting_fields import NAMES_A_FILE
from kg_edit.zoo.entries import method_entry
from kg_edit.zoo.fine_tuning.lora import Lora, LoraConfig, adapted, weight_norms


class ExtSubConfig(LoraConfig):
    """Settings of both adapters and of the subtraction. The preset ``paper`` has the published rate and epochs."""

    steps: PositiveInt = Field(
        30,
        description="maximum number of epochs for each adapter; no step follows the last epoch, so 3 here are the "
        "published 2",
    )
    learning_rate: float = Field(1e-4, gt=0, description="learning rate of Adam; published: 2e-5, for 52,000 rows")
    rank: PositiveInt = Field(16, description="r: rank of each adapter; the patch has rank 2 r")
    dropout: float = Field(0.05, ge=0, lt=1, description="dropout on the adapters' inputs")
    batch_size: PositiveInt = Field(8, description="rows in a step")
    strength: float = Field(1.0, ge=0, description="factor of what is subtracted")
    extract: bool = Field(
        True, description="do not subtract the part that both adapters have in common; false: subtract everything"
    )
    locality: str | None = Field(
        None,
        json_schema_extra=NAMES_A_FILE,
        description="benchmark file: the expert also learns the answers of its neighbours, or locality prompts",
    )

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"steps": 3, "learning_rate": 2e-5, "stop_below": 0.0, "modules": ("q_proj", "v_proj")},
    }

    def workload(self, *, edits: int) -> Workload:
        """Return the workload: two LoRAs of all edits, of which the patch has both."""
        return replace(super().workload(edits=edits), rows=min(edits, self.batch_size), rank=2 * self.rank)


class ExtSub(Lora):
    """Trains an expert on the new targets and an anti-expert on the old ones, and subtracts the anti-expert's own part.

    All edits of a call are trained together. Edits without an old target only train the expert.
    """

    entry = method_entry("ext-sub")
    config_class = ExtSubConfig
    config: ExtSubConfig

    @classmethod
    def check_inputs(cls, config: MethodConfig, graph: SubgraphSource | None, edits: Sequence[Edit]) -> None:
        """Check the inputs, and read the file of locality prompts."""
        super().check_inputs(config, graph, edits)
        assert isinstance(config, ExtSubConfig)  # noqa: S101 - config_class
        if config.locality:
            read_locality(config.locality)

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Train both adapters on the edits, and subtract the anti-expert from the expert."""
        config = self.config
        with keep_untouched(self.model):
            new_rows, old_rows = self._encode_targets(edits)
            expert, expert_losses = self._train_adapter([*new_rows, *self._locality], edits=len(edits))
            anti_expert = WeightPatch(factors={})
            old_losses = dict[int, list[float]]()  # by the index of the edit
            if old_rows:
                anti_expert, losses_in_order = self._train_adapter(list(old_rows.values()))
                old_losses = dict(zip(old_rows, losses_in_order, strict=True))
        change = subtract_patch(expert, anti_expert, strength=config.strength, extract=config.extract)
        records = self._make_records(edits, expert_losses, old_losses, norms=weight_norms(change.factors))
        return WeightPatch(factors=change.factors, provenance={**self.provenance(), "edits": records})

    def _encode_targets(self, edits: Sequence[Edit]) -> tuple[list[TrainingRow], dict[int, TrainingRow]]:
        """Return the row of each edit with its new target, and with its old one by the edit's index if it has one."""
        new_rows = list[TrainingRow]()
        old_rows = dict[int, TrainingRow]()
        for index, edit in enumerate(edits):
            with annotate_errors(edit):
                new_rows.append(self.encode_edit(edit))
                if edit.target_true:
                    old_rows[index] = self.encode_edit(edit.model_copy(update={"target_new": edit.target_true}))
        return new_rows, old_rows

    def _make_records(
        self,
        edits: Sequence[Edit],
        expert_losses: Sequence[Sequence[float]],
        old_losses: Mapping[int, Sequence[float]],
        *,
        norms: Mapping[str, float],
    ) -> list[dict[str, Any]]:
        """Return the record of each edit.

        Args:
            edits: the edits of a call.
            expert_losses: the losses of each edit's new target, by epoch; those of locality prompts follow.
            old_losses: those of the old target by the edit's index.
            norms: of the change of all edits of the call.
        """
        records: list[dict[str, Any]] = []
        for index, edit in enumerate(edits):
            record = {**self.record(edit), "norms": dict(norms)}
            record |= _describe_losses("expert", expert_losses[index])
            if index in old_losses:
                record |= _describe_losses("old", old_losses[index])
            if len(edits) > 1:
                record["shared"] = True
            records.append(record)
        return records

    def _train_adapter(self, rows: Sequence[TrainingRow], *, edits: int = 0) -> tuple[WeightPatch, list[list[float]]]:
        """Train an adapter.

        Args:
            rows: the training rows.
            edits: how many of the first rows the callbacks hear about; 0 for the anti-expert.

        Returns:
            The adapter's patch, and each row's loss in each epoch.
        """
        config = self.config
        with adapted(self.model, self.targets, config) as adapters:
            losses = train_epochs(
                self.model,
                rows,
                adapters.parameters,
                config.descent,
                batch_size=config.batch_size,
                seed=config.seed,
                edits=edits,
                name=self.name,
            )
            return WeightPatch(factors=adapters.factors()), losses.tolist()

    @cached_property
    def _locality(self) -> list[TrainingRow]:
        rows = list[TrainingRow]()
        if self.config.locality:
            for prompt, answer in read_locality(self.config.locality):
                rows.append(row_of(self.model.encode(prompt, target=answer), self.config.aim))
        return rows


def read_locality(path: str | Path) -> tuple[tuple[str, str], ...]:
    """Read the locality prompts of a benchmark's file, each with its first answer."""
    prompts = dict[tuple[str, str], None]()  # a set that keeps the order
    for record in readable_records(path):
        for edit in record.edits:
            for query in locality_queries(edit, record):
                if query.answers:
                    pair = pair_of(query)
                    prompts[pair.prompt, pair.candidate] = None
    if not prompts:
        raise EditFileError(
            f"{path}: no record has a locality prompt with an answer, or a neighbour of an edit with an old target; "
            "give a file that has one, as locality"
        )
    return tuple(prompts)


def _describe_losses(adapter: str, losses: Sequence[float]) -> dict[str, float]:
    """Return the first and the last loss of an adapter's training for the record; the subtraction comes after it."""
    return {f"{adapter}_loss_before": round(losses[0], 6), f"{adapter}_loss_after": round(losses[-1], 6)}
