"""Fine-tuning that goes on training on earlier edits, so that they hold."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from pydantic import Field, PositiveInt

from kg_edit.edits.edit import Edit, checked
from kg_edit.methods.fine_tuning.base import FineTuning, FineTuningConfig
from kg_edit.patches.base import Patch
from kg_edit.tuning.rows import Row


class FtRetrainConfig(FineTuningConfig):
    """Settings of FT + retraining."""

    replayed: PositiveInt = Field(31, description="earlier edits beside the new one at most; more are sampled")
    seed: int = Field(0, description="of the sample")


class FtRetrain(FineTuning):
    """The loss is the mean over the new edit and earlier ones of the sequence, read from their records."""

    name = "ft-retrain"
    paper = "baseline in Hartvigsen et al., NeurIPS 2023, arXiv 2211.11031"
    about = "fine-tune one down-projection on the new edit together with earlier ones"
    config_class = FtRetrainConfig
    config: FtRetrainConfig

    def rows(self, edit: Edit, before: Patch) -> list[Row]:
        """The edit's own, then earlier ones', in their order."""
        earlier = still_valid(before, edit)
        if len(earlier) > self.config.replayed:
            draw = random.Random(f"{self.config.seed}/{len(before.edits)}")  # noqa: S311 - a sample, no secret
            chosen = sorted(draw.sample(range(len(earlier)), self.config.replayed))
            earlier = [earlier[place] for place in chosen]
        return [self.row(one) for one in (edit, *earlier)]


def still_valid(before: Patch, edit: Edit) -> Sequence[Edit]:
    """The edits recorded in ``before``, without those that were taken back or that a later one contradicts."""
    recorded = [(checked(Edit, said["edit"]), float(said.get("scale", 1.0))) for said in before.edits]
    strengths: defaultdict[tuple[str, str], float] = defaultdict(float)
    for old, scale in recorded:
        strengths[old.text, old.target_new] += scale
    found: dict[str, Edit] = {}
    for old, scale in recorded:
        if scale > 0 and strengths[old.text, old.target_new] > 0:
            found.pop(old.text, None)  # the later one's place counts
            found[old.text] = old
    found.pop(edit.text, None)
    return list(found.values())
