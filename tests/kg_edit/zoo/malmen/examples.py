"""Toy edits that can be made together, and settings with which training takes a second."""

from __future__ import annotations

from typing import Any

from kg_edit.edits.edit import Edit
from kg_edit.zoo.malmen.network import MalmenNetwork, MalmenTraining
from kg_edit.zoo.malmen.training import Passes
from kg_edit.zoo.mend.examples import BatchOrder
from kg_edit.zoo.mend.gradients import mlp_weights, weight_shapes
from kg_edit.zoo.rledit.network import RLEditTraining
from tests.kg_edit.tiny import tiny
from tests.kg_edit.zoo.mend.examples import PEOPLE, PLACES, edits

_PROMPTS = ("{} originates from", "The capital of {} is", "The river of {} is")
_SMALL: dict[str, Any] = {
    "blocks": 2,
    "rank": 8,
    "steps": 6,
    "normalise_on": 8,
    "validation": 4,
    "validate_every": 2,
    "learning_rate": 0.01,
    "rate_learning_rate": 0.1,
    "edit_lr": 1e-3,
    "texts": 3,
    "text_tokens": 4,
}


def apart() -> tuple[Edit, ...]:
    """Eighteen edits with eighteen prompts, each with a paraphrase and a neighbour."""
    by_subject = {edit.subject: edit for edit in edits()}
    return tuple(
        by_subject[person].model_copy(
            update={"id": f"{person}, {number}", "prompt": prompt, "target_new": PLACES[(index + number) % 3]}
        )
        for index, person in enumerate(PEOPLE)
        for number, prompt in enumerate(_PROMPTS)
    )


def quick(**settings: Any) -> MalmenTraining:
    """Six steps of four edits together on the last two blocks."""
    return MalmenTraining.preset("default", {**_SMALL, "batch": 4, **settings})


def quick_sequence(**settings: Any) -> RLEditTraining:
    """Six steps of two updates by two edits each."""
    return RLEditTraining.preset("default", {**_SMALL, "batch": 2, "length": 2, "look_back": 2, **settings})


def parts(settings: Any, family: str = "llama") -> tuple[Passes, MalmenNetwork, BatchOrder]:
    """The passes, an untrained network with statistics, and the rows of each step."""
    model = tiny(family)
    names = mlp_weights(model, 2)
    network = MalmenNetwork(weight_shapes(model, names), rank=4, edit_lr=0.02)
    order = BatchOrder.of(model, apart(), settings)
    passes = Passes(model=model, names=names)
    network.normalise_by(passes.gradients_at_targets(order.for_normalising()))
    return passes, network, order
