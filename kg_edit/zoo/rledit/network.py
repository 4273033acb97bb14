"""RLEdit's editor network, which is MALMEN's, and the settings of its training on sequences of edits.

A step edits a sequence of batches (`UpdateSequence`): each is one update of the weights, which stays for the next ones.
After update t, with L_e and the KL as in MALMEN, the loss is about the last `look_back` batches:

    L_t = sum_(i = 0 ... look_back - 1) decay^i (c_edit L_e(batch t-i) + c_loc KL(batch t-i)) + norm_weight |update_t|^2

The sum ends at the first batch of the sequence. |update|^2 is the squared Frobenius norm, summed over the weights.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, PositiveInt

from kg_edit.zoo.malmen.network import MalmenManifest, MalmenTraining, UpdateSequence
from kg_edit.zoo.trained.files import NetworkFormat

FORMAT = NetworkFormat(key="kg_edit_rledit", thing="editor", command="kg-edit rledit train")


class RLEditTraining(MalmenTraining):
    """Settings of the training. The preset ``paper`` has the published ones, with the learning rate as in MEND's."""

    batch: PositiveInt = Field(
        8, description="edits of an update; a step makes as many updates as the sequence is long"
    )
    length: PositiveInt = Field(4, description="updates of a sequence, which is one step; published: up to 400")
    look_back: PositiveInt = Field(
        3, description="number of batches in the loss of an update: its own and the last before it; published: 10"
    )
    decay: float = Field(0.95, gt=0, le=1, description="factor of a batch's loss for each update made after its own")
    norm_weight: float = Field(1e-4, ge=0, description="weight of |update|^2 (squared Frobenius norm) in the loss")
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
    def sequence(self) -> UpdateSequence:
        """The updates of a step, and their loss."""
        return UpdateSequence(
            length=self.length, look_back=self.look_back, decay=self.decay, norm_weight=self.norm_weight
        )

    @property
    def edits_per_step(self) -> int:
        """The number of edits in a step: the edits of an update, times the updates of a sequence."""
        return self.batch * self.length


class RLEditManifest(MalmenManifest):
    """The metadata of an editor: its model, and how it was trained."""

    training: RLEditTraining
