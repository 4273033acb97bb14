"""Fine-tuning with retraining: earlier edits of a sequence are trained again, so that they are not forgotten."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from pydantic import Field, PositiveInt

from kg_edit.edits.edit import STORED, Edit, parse_record
from kg_edit.methods.base import annotate_errors
from kg_edit.methods.config import Workload
from kg_edit.methods.fine_tuning.base import FineTuning, FineTuningConfig
from kg_edit.methods.fine_tuning.rows import TrainingRow
from kg_edit.patches.base import Patch
from kg_edit.storage.setting_fields import Seed
from kg_edit.zoo.entries import method_entry


class FtRetrainConfig(FineTuningConfig):
    """Settings of fine-tuning that trains earlier edits again."""

    replayed: PositiveInt = Field(
        31, description="maximum number of earlier edits trained together with a new one; more are sampled"
    )
    seed: Seed = Field(0, description="random seed of this sample")

    def workload(self, *, edits: int) -> Workload:
        """Return the workload of fine-tuning, with one more row for each earlier edit that is trained again."""
        return replace(super().workload(edits=edits), rows=1 + min(edits - 1, self.replayed))


class FtRetrain(FineTuning):
    """The loss is the mean over the new edit and earlier edits of the sequence, which are read from their records."""

    entry = method_entry("ft-retrain")
    config_class = FtRetrainConfig
    config: FtRetrainConfig

    def rows(self, edit: Edit, before: Patch) -> list[TrainingRow]:
        """Return the edit's own row, then those of earlier edits in their order; at most ``replayed`` at random."""
        earlier = still_valid(before, [edit])
        if len(earlier) > self.config.replayed:
            draw = random.Random(f"{self.config.seed}/{len(before.edits)}")  # noqa: S311 - a sample, no secret
            chosen = sorted(draw.sample(range(len(earlier)), self.config.replayed))
            earlier = [earlier[index] for index in chosen]
        rows = [self.encode_edit(edit)]
        for old in earlier:
            with annotate_errors(old):
                rows.append(self.encode_edit(old))
        return rows


def still_valid(before: Patch, edits: Iterable[Edit]) -> Sequence[Edit]:
    """Return the edits recorded in ``before`` that are neither undone nor contradicted by a later one or by ``edits``.

    An edit in plain text and one in chat form are two; an edit in both forms is returned in each.
    """
    recorded = _read_recorded(before)
    # An edit that was subtracted again is recorded twice, the second time with a scale of -1: its strength is 0.
    strengths = defaultdict[tuple[object, ...], float](float)  # by prompt, form and target
    for old, scale in recorded:
        strengths[old.text, old.chat, old.target_new] += scale

    valid = dict[
        tuple[str, object], Edit
    ]()  # by prompt and form, so that a later edit replaces one that it contradicts
    for old, scale in recorded:
        if scale > 0 and strengths[old.text, old.chat, old.target_new] > 0:
            valid.pop((old.text, old.chat), None)  # so that the later edit's position counts
            valid[old.text, old.chat] = old
    for edit in edits:
        for form in edit.forms:
            valid.pop((edit.text, form), None)
    return list(valid.values())


def _read_recorded(before: Patch) -> list[tuple[Edit, float]]:
    """Return the edits recorded in a patch, each with the scale of its record; one in both forms is listed twice."""
    recorded = list[tuple[Edit, float]]()
    for record in before.edits:
        stored = parse_record(Edit, record["edit"], context=STORED)
        scale = float(record.get("scale", 1.0))
        for form in stored.forms:
            recorded.append((stored.with_form(chat=form), scale))
    return recorded
