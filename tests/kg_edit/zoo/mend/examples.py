"""Toy edits in words that the tiny models' tokenizer knows, and settings with which training takes a second."""

from __future__ import annotations

from typing import Any

from torch import nn

from kg_edit.edits.edit import Edit, Question
from kg_edit.models.language_model import LanguageModel
from kg_edit.zoo.mend.network import MendTraining

PEOPLE = ("LeBron James", "Dwyane Wade", "Spike Hughes", "The lazy dog", "The river Thames", "The Eiffel Tower")
PLACES = ("London", "Paris", "Miami")


def edits(*, neighbours: bool = True) -> tuple[Edit, ...]:
    """Eighteen edits, each with a paraphrase."""
    return tuple(
        Edit(
            id=f"{person}, {target}",
            subject=person,
            prompt="{} originates from",
            target_true="France",
            target_new=target,
            paraphrases=(f"The capital of {person} is",),
            neighborhood=("The quick brown fox originates from",) if neighbours else (),
        )
        for person in PEOPLE
        for target in PLACES
    )


def quick(**settings: Any) -> MendTraining:
    """Six steps of four edits on the last two blocks."""
    small = {"blocks": 2, "rank": 8, "steps": 6, "batch": 4, "normalise_on": 8, "validation": 4, "validate_every": 2}
    fast = {"learning_rate": 0.01, "rate_learning_rate": 0.1, "edit_lr": 1e-3, "texts": 3, "text_tokens": 4}
    return MendTraining.preset("default", {**small, **fast, **settings})


def hooks_of(model: LanguageModel) -> int:
    """How many forward hooks there are."""
    modules: list[nn.Module] = list(model.model.modules())
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)


def with_questions() -> tuple[Edit, ...]:
    """The same edits, each with two questions about what follows."""
    return tuple(
        edit.model_copy(
            update={
                "portability": (
                    Question(question=f"The capital of {edit.subject} is?", answer=edit.target_new),
                    Question(question=f"The river of {edit.subject} is?", answer="Thames"),
                )
            }
        )
        for edit in edits()
    )
