"""A tiny model, a few records about it, and a method that is quick: one fixed rank-one change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel

from kg_edit.edits.edit import Edit, Question
from kg_edit.errors import GraphError
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from tests.kg_edit.short_answers import write_little
from tests.kg_edit.tiny import tiny

CITIES = ("Paris", "London", "Miami", "Los Angeles", "Rome", "Oslo", "Bern", "Cairo", "Lima", "Quito", "Delhi", "Kyoto")


class NudgeConfig(BaseModel):
    """The size of the change, and the ids that fail."""

    scale: float = 0.5
    failing: tuple[str, ...] = ()


@dataclass
class Nudge:
    """Adds a fixed rank-one change to one weight."""

    model: LanguageModel
    config: NudgeConfig = field(default_factory=NudgeConfig)
    name: str = "nudge"
    calls: list[str] = field(default_factory=list)
    graph_identity: dict[str, Any] | None = None
    plug_in: dict[str, str | None] | None = None

    def prepare(self) -> None:
        """Nothing is shared."""

    def edit(self, edits: Sequence[Edit], *, before: Patch | None = None) -> Patch:
        self.calls.append(" ".join(edit.id for edit in edits))
        for edit in edits:
            if edit.id in self.config.failing:
                raise GraphError(f"nothing is known about {edit.subject}")
        out, into = self.model.down_projection(1).weight.shape
        left = torch.linspace(-1, 1, out)[:, None] * self.config.scale * len(edits)
        return WeightPatch(factors={self.model.weight_name(1): Factors(left=left, right=torch.ones(into, 1))})


def record(number: int, answer: str) -> Edit:
    question = Question(
        question=f"Where does player {number} live?", answer=answer, recalled_relation=f"(Lakers, city, {answer})"
    )
    return Edit(
        id=f"case-{number}",
        subject=f"Player {number}",
        prompt="{} plays for the",
        target_true="Los Angeles Lakers",
        target_new="Miami Heat",
        paraphrases=(f"The team of player {number} is",),
        neighborhood=("LeBron James plays for", "Dwyane Wade plays for "),
        portability=(question,),
    )


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of unedited models' scores, one for each test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("KG_EDIT_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def model() -> LanguageModel:
    return tiny("llama")


@pytest.fixture(scope="session")
def edits() -> tuple[Edit, ...]:
    return tuple(record(number, city) for number, city in enumerate(CITIES))


@pytest.fixture
def method(model: LanguageModel) -> Nudge:
    return Nudge(model)


@pytest.fixture(autouse=True)
def _short_answers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.module.__name__.rpartition(".")[2] != "test_scorer":  # which looks at how much may be written
        write_little(monkeypatch)
