"""RLEdit's editor network, which is MALMEN's, and the settings of its training on sequences of edits."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, PositiveInt

from kg_edit.zoo.malmen.network import Course, MalmenManifest, MalmenTraining
from kg_edit.zoo.trained.files import NetworkFormat

FORMAT = NetworkFormat(key="kg_edit_rledit", thing="editor", command="kg-edit rledit train")


class RLEditTraining(MalmenTraining):
    """Settings of the training. The preset ``paper`` has the published ones, with the learning rate as in MEND's."""

    batch: PositiveInt = Field(
        8, description="edits of an update; a step makes as many updates as the sequence is long"
    )
    length: PositiveInt = Field(4, description="updates of a sequence, which is one step; published: up to 400")
    look_back: PositiveInt = Field(
        3, description="batches in the loss of an update, its own and the last ones before it; published: 10"
    )
    decay: float = Field(0.95, gt=0, le=1, description="factor of the loss of a batch, for each later update")
    norm_weight: float = Field(1e-4, ge=0, description="weight of |update|^2 in the loss")
    locality_weight: float = Field(0.6, ge=0, description="c_loc: weight of KL(before || after the update)")

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {
            "network_layers": 4,
            "rank": 1024,
            "edit_lr": 1e-6,
            "learning_rate": 1e-3,
            "look_back": 10,
            "length": 20,
        },
    }

    @property
    def course(self) -> Course:
        """The sequence of a step."""
        return Course(length=self.length, look_back=self.look_back, decay=self.decay, norm_weight=self.norm_weight)

    @property
    def at_once(self) -> dict[str, int]:
        """As in MEND, with the edits of a sequence."""
        return {"batch * length": self.edits_a_step, "normalise_on": self.normalise_on}

    @property
    def edits_a_step(self) -> int:
        """The number of edits in a sequence."""
        return self.batch * self.length


class RLEditManifest(MalmenManifest):
    """The metadata of an editor: its model, and how it was trained."""

    training: RLEditTraining
