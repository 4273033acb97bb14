"""Fine-tuning of one down-projection in five variants. They differ in the predicted tokens and in the constraints.

- ``ft``: the whole sentence is predicted; ``ft-l``: the last prompt token predicts the whole target (EasyEdit's FT-L);
  ``ft-m``: each target token is predicted after those before it.
- ``ft-constrained``: the weights stay in an L-infinity ball around the unedited ones (Zhu et al., 2020).
- ``ft-retrain``: earlier edits of a sequence are trained again, so that they are not forgotten.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from kg_edit.edits.edit import Edit, checked
from kg_edit.methods.base import annotate_errors
from kg_edit.methods.fine_tuning.base import FineTuning, FineTuningConfig
from kg_edit.methods.fine_tuning.rows import Aim, TrainingRow
from kg_edit.methods.workload import Workload
from kg_edit.patches.base import Patch, PatchStack
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.storage.seeds import Seed


class FtConfig(FineTuningConfig):
    """Settings of plain fine-tuning."""

    aim: Aim = Field(
        "text",
        description="trained tokens: of the target, of the whole text, or the target after the prompt's last token",
    )


class Ft(FineTuning):
    """Plain fine-tuning on the sentence that states the fact, including the prompt."""

    name = "ft"
    paper = "baseline in Zhu et al., 2020, arXiv 2012.00363"
    about = "fine-tune one down-projection on the whole sentence"
    config_class = FtConfig


class FtLConfig(FineTuningConfig):
    """Settings of FT-L. The preset ``paper`` has EasyEdit's for GPT-2 XL.

    It has one more evaluation of the loss, because here no step follows the last one.
    """

    aim: Aim = Field(
        "prompt_last",
        description="trained tokens: of the target, of the whole text, or the target after the prompt's last token",
    )

    presets: ClassVar[dict[str, dict[str, Any]]] = {"default": {}, "paper": {"layer": 0, "steps": 26}}


class FtL(FineTuning):
    """The last prompt token predicts all of the target's tokens at once, as in ROME's and EasyEdit's baseline."""

    name = "ft-l"
    paper = "Meng et al., NeurIPS 2022, arXiv 2202.05262; Zhang et al., 2024, arXiv 2401.01286"
    about = "fine-tune one down-projection; the prompt's last token predicts the whole target"
    config_class = FtLConfig


class FtM(FineTuning):
    """Cross entropy on the target's tokens, each predicted from the tokens before it; the prompt is masked."""

    name = "ft-m"
    paper = "Zhang et al., 2024, arXiv 2401.01286"
    about = "fine-tune one down-projection on the target's tokens, the prompt masked"
    config_class = FineTuningConfig


class FtConstrainedConfig(FineTuningConfig):
    """Settings of constrained fine-tuning. The preset ``paper`` has those of ROME's FT+L for GPT-2 XL.

    It has one more evaluation of the loss, because here no step follows the last one.
    """

    radius: float = Field(4e-3, gt=0, description="maximum change of a single weight; published: 5e-4")

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "paper": {"layer": 0, "steps": 26, "aim": "prompt_last", "radius": 5e-4},
    }


class FtConstrained(FineTuning):
    """After each step, the weights are projected onto the L-infinity ball around the unedited weights.

    The ball is the same for all edits of a sequence. Weights that other methods moved out of it may only move back.
    """

    name = "ft-constrained"
    paper = "Zhu et al., 2020, arXiv 2012.00363"
    about = "fine-tune one down-projection within an L-infinity ball around the original weights"
    config_class = FtConstrainedConfig
    config: FtConstrainedConfig

    def constraint(self, change: Tensor, before: Patch) -> Callable[[], None]:
        """A function that clamps the sum of the change and earlier changes to the ball."""
        moved = moved_before(before, self.model.weight_name(self.layer), like=change)
        low, high = (-self.config.radius - moved).clamp(max=0), (self.config.radius - moved).clamp(min=0)

        @torch.no_grad()
        def clamp() -> None:
            change.clamp_(low, high)

        return clamp


def moved_before(before: Patch, name: str, *, like: Tensor) -> Tensor:
    """The change [out, in] of the weight ``name`` in the patch ``before``, with the type and device of ``like``."""
    moved = torch.zeros_like(like, requires_grad=False)
    for part in before.patches if isinstance(before, PatchStack) else (before,):
        if isinstance(part, WeightPatch) and name in part.factors:
            moved += part.factors[name].product.to(moved)
    return moved


class FtRetrainConfig(FineTuningConfig):
    """Settings of fine-tuning that trains earlier edits again."""

    replayed: PositiveInt = Field(
        31, description="maximum number of earlier edits trained together with a new one; more are sampled"
    )
    seed: Seed = Field(0, description="random seed of this sample")

    def workload(self, *, edits: int) -> Workload:
        """The workload of fine-tuning, with one more row for each earlier edit that is trained again."""
        return replace(super().workload(edits=edits), rows=1 + min(edits - 1, self.replayed))


class FtRetrain(FineTuning):
    """The loss is the mean over the new edit and earlier edits of the sequence, which are read from their records."""

    name = "ft-retrain"
    paper = "baseline in Hartvigsen et al., NeurIPS 2023, arXiv 2211.11031"
    about = "fine-tune one down-projection on the new edit together with earlier ones"
    config_class = FtRetrainConfig
    config: FtRetrainConfig

    def rows(self, edit: Edit, before: Patch) -> list[TrainingRow]:
        """The edit's own row, then the rows of earlier edits, in their order; at most ``replayed``, drawn at random."""
        earlier = still_valid(before, edit)
        if len(earlier) > self.config.replayed:
            draw = random.Random(f"{self.config.seed}/{len(before.edits)}")  # noqa: S311 - a sample, no secret
            chosen = sorted(draw.sample(range(len(earlier)), self.config.replayed))
            earlier = [earlier[place] for place in chosen]
        rows = [self.row(edit)]
        for old in earlier:
            with annotate_errors(old):
                rows.append(self.row(old))
        return rows


def still_valid(before: Patch, edit: Edit) -> Sequence[Edit]:
    """The edits recorded in ``before``, without those that were undone or that a later edit contradicts.

    An edit in plain text and one in chat form are two; an edit in both forms is returned in each.
    """
    every = [(checked(Edit, said["edit"]), float(said.get("scale", 1.0))) for said in before.edits]
    recorded = [(old.in_chat(chat=form), scale) for old, scale in every for form in old.forms]
    strengths: defaultdict[tuple[object, ...], float] = defaultdict(float)
    for old, scale in recorded:
        strengths[old.text, old.chat, old.target_new] += scale
    found: dict[tuple[str, object], Edit] = {}
    for old, scale in recorded:
        if scale > 0 and strengths[old.text, old.chat, old.target_new] > 0:
            found.pop((old.text, old.chat), None)  # so that the later edit's position counts
            found[old.text, old.chat] = old
    for form in edit.forms:
        found.pop((edit.text, form), None)
    return list(found.values())
