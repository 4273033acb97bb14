"""How an editor is trained: all that decides what comes out, but for the model and the edits."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, PositiveInt

from kg_edit.methods.base import MethodConfig


class MendTraining(MethodConfig):
    """Settings of the training; ``paper`` has the published ones, which mean hours on an accelerator.

    Its learning rate is the published 1e-6 times about 100, as V is so much smaller here (`LowRankLayer`).
    """

    blocks: PositiveInt = Field(3, description="the MLPs' matrices of so many last blocks are edited")
    weights: tuple[str, ...] = Field((), description="names of the weights to edit instead")
    rank: PositiveInt = Field(256, description="of the network's matrices; published: 1920")
    steps: PositiveInt = Field(300, description="of Adam at most")
    batch: PositiveInt = Field(8, description="edits a step, each made alone")
    learning_rate: float = Field(3e-4, gt=0, description="of the network")
    rate_learning_rate: float = Field(0.03, gt=0, description="of the logarithms of the weights' rates")
    edit_lr: float = Field(3e-4, gt=0, description="every weight's rate at the start")
    edit_weight: float = Field(0.1, ge=0, description="c_edit: weight of -log p(new target) after the edit")
    locality_weight: float = Field(1.0, ge=0, description="c_loc: weight of KL(unedited || edited) elsewhere")
    clip: float = Field(100.0, gt=0, description="the gradient's norm is at most this")
    normalise_on: int = Field(128, ge=2, description="edits from which mean and deviation of the factors are taken")
    validation: PositiveInt = Field(32, description="edits held out, on which the best network is chosen")
    validate_every: PositiveInt = Field(25, description="steps between two validations")
    patience: PositiveInt = Field(6, description="validations without a better one before training ends")
    texts: PositiveInt = Field(32, description="texts by the model itself, for edits without neighbours")
    text_tokens: int = Field(12, ge=2, description="length of these")
    seed: int = Field(0, description="of the network, the order of edits, and the texts")

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "paper": {
            "rank": 1920,
            "edit_lr": 1e-4,
            "learning_rate": 1e-4,
            "steps": 100_000,
            "batch": 10,
            "validate_every": 5000,
            "patience": 6,
        },
    }
