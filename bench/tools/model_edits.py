"""What the measurements of the engine share: edits, and the descent to their values.

The edits are CounterFactPlus records where these are, else the packaged demonstration.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kg_edit.edits.edit import Edit
from kg_edit.edits.files import read_edits
from kg_edit.engine.fast_loss import Engine
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.locate_then_edit.descent import Descent, FreeDelta, Stops, descend
from kg_edit.locate_then_edit.objective import Objective, Request, norm_penalty
from kg_edit.methods.rome.method import RomeConfig
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.loading import resolve_model

DATA = Path(os.environ.get("KG_EDIT_MEASUREMENT_DATA", "measurement-data"))  # docs/contributing/data.md
RECORDS = DATA / "counterfact_plus" / "dev.json"
DEMO = Path(__file__).resolve().parents[2] / "kg_edit" / "data" / "demo.jsonl"
LAYER = 6
PENALTY = partial(norm_penalty, weight=0.5)  # ROME's
SETTINGS = RomeConfig.preset("paper", {"stop_below": 0.0})  # no edit stops early, so that all ways do the same


def some_edits(count: int) -> list[Edit]:
    """The first ``count`` records; where the benchmark is absent, the demonstration's edits over and over."""
    if RECORDS.exists():
        return [record.edits[0] for record in find_dataset("counterfact-plus")(RECORDS)[:count]]
    return list(islice(cycle(read_edits(DEMO).edits), count))


def plain_model(name: str) -> LanguageModel:
    """The model as transformers loads it: PyTorch computes its matrix products (`kg_edit.models.devices`)."""
    path = resolve_model(name)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).requires_grad_(False)
    return LanguageModel.wrap(model, AutoTokenizer.from_pretrained(path), name=name)


def values(model: LanguageModel, asked: Sequence[Request], engine: Engine | None) -> list[Descent]:
    """m* of all edits by ROME's descent, with the engine that is measured."""
    objective = Objective(model, LAYER, asked, kl_weight=SETTINGS.kl_weight, penalty=PENALTY, engine=engine)
    delta = FreeDelta(
        objective.value, learning_rate=SETTINGS.learning_rate, clamp_norm_factor=SETTINGS.clamp_norm_factor
    )
    return descend(objective, delta, Stops(steps=SETTINGS.steps, stop_below=SETTINGS.stop_below))
